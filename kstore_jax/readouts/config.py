"""The configuration of the readouts: questions and probes."""

import dataclasses

from kstore_jax.config.fields import choice, number
from kstore_jax.train.config import Training


@dataclasses.dataclass(frozen=True)
class QA:
    """How answers are decoded."""

    beam_size: int = number(1, 1)
    """Beams. 1: exact match of greedy decoding, by one forward; more: also by beam search (the
    paper: 4)."""


@dataclasses.dataclass(frozen=True)
class Probe(Training):
    """A probe on the frozen model: low-rank update of the embedding, norm, linear head."""

    steps: int = number(30_000, 1)
    """Optimizer updates."""
    schedule: str = choice("linear", "cosine", "linear")
    """Decay of the learning rate."""
    final_lr_ratio: float = number(0.0, 0.0, 1.0)
    """Last learning rate over the peak."""
    weight_decay: float = number(0.3, 0.0)
    """Decoupled weight decay of matrices."""
    clip_global_norm: float = number(0.0, 0.0)
    """Largest global norm of the gradient; 0: no clipping."""
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

    @property
    def trains_matrices(self) -> bool:
        """Whether a whole matrix is trained: the head."""
        return self.head == "linear"


@dataclasses.dataclass(frozen=True)
class PProbe(Probe):
    """P-probing (Part 3.1, section 5.1)."""

    batch_size: int = number(50, 1)
    """Biographies a step."""
    embedding_rank: int = number(2, 1)
    """Rank of the embedding update."""
    biographies_per_person: int = number(0, 0)
    """Biographies of each person to read; 0: all."""


@dataclasses.dataclass(frozen=True)
class QProbe(Probe):
    """Q-probing (Part 3.1, section 5.2)."""

    batch_size: int = number(200, 1)
    """Names a step."""
    embedding_rank: int = number(16, 1)
    """Rank of the embedding update."""
