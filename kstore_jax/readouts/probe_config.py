"""The configuration that all probes share."""

import dataclasses
from typing import Any

from kstore_jax.config.fields import choice, number
from kstore_jax.config.registry import one_of
from kstore_jax.readouts.base import ReadoutConfig
from kstore_jax.train.base import SCHEDULES
from kstore_jax.train.config import Training


@dataclasses.dataclass(frozen=True)
class Probe(Training, ReadoutConfig):
    """A probe on the frozen model: low-rank update of the embedding, norm, linear head."""

    steps: int = number(30_000, 1)
    """Optimizer updates."""
    schedule: Any = one_of(SCHEDULES, "linear")
    """Decay of the learning rate."""
    final_lr_ratio: float = number(0.0, 0.0, 1.0)
    """Last learning rate over the peak."""
    weight_decay: float = number(0.3, 0.0)
    """Decoupled weight decay of matrices."""
    clip_global_norm: float = number(0.0, 0.0)
    """Largest global norm of the gradient; 0: no clipping."""
    embedding_rank: int = number(16, 1)
    """Rank of the embedding update."""
    dropout: float = number(0.1, 0.0, 0.99)
    """Dropout of the frozen model while the probe trains (the paper: on)."""
    head: str = choice("linear", "linear", "unembedding")
    """`linear`: a trained norm and head (the paper, with 50,000 people). `unembedding`: the model's
    own output rows, which read first tokens only; a few hundred people cannot train a head of as
    many classes."""
    embedding_update: str = choice("all", "all", "shared")
    """Tokens whose embedding is updated. `all`: the paper. `shared`: tokens of templates and the
    end of text; with few people a token of a name belongs to nearly one person, and its update
    would memorise the training half."""

    validation: float = number(0.1, 0.0, 0.9)
    """Fraction of P_train's people whom the probe is not trained on. Its loss on them shows whether
    it was still improving; 0: none (the paper), and that is not known."""

    @property
    def trains_matrices(self) -> bool:
        """Whether a whole matrix is trained: the head."""
        return self.head == "linear"
