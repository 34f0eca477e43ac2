"""The configuration that all probes share."""

import dataclasses
from collections.abc import Mapping, Sequence
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


def departures(probes: Sequence[Mapping[str, Any]], kind: type[Probe]) -> list[str]:
    """What these settings of a probe mean for its numbers, and what the paper does instead.

    Args:
      probes: configurations as plain values.
      kind: their type, whose defaults are the paper's.
    """
    paper = kind()
    notes = [
        text
        for (field, value), text in _NOTES.items()
        if any(probe[field] == value for probe in probes)
    ]
    for field, text in _NUMBERS.items():
        theirs = getattr(paper, field)
        if others := {probe[field]: None for probe in probes if probe[field] != theirs}:
            ours = " or ".join(map("{:,}".format, others))
            notes.append(text.format(ours=ours, theirs=theirs))
    if any(probe["validation"] for probe in probes):
        notes.append(_HELD_BACK)
    return notes


_HELD_BACK = (
    "a few people of the trained half are held back from the probe, whose loss on them shows "
    "whether it was still improving. The paper trains its probes on the whole half."
)
_NOTES = {
    ("head", "linear"): (
        "a linear head has a class for each value, and cannot predict a value that nobody in the "
        "half it was trained on has. With few people there are such values, so the ceiling of the "
        "probes is below 100 %. The paper has 100,000 people and no such values."
    ),
    ("head", "unembedding"): (
        "first tokens are read through the model's own output rows, and only the low-rank update "
        "of the embedding is trained. The paper trains a linear head on 50,000 people; a few "
        "hundred people are too few for a head with as many classes."
    ),
    ("dropout", 0.0): (
        "the frozen model has no dropout while probes are trained; the paper leaves its dropout on."
    ),
    ("embedding_update", "shared"): (
        "the embedding is updated for the tokens of the templates and the end of text only; in "
        "the paper for all tokens. With few people, hardly anybody else shares a token of a name, "
        "and its update would memorise the half trained on."
    ),
}
_NUMBERS = {
    "embedding_rank": "the update of the embedding has rank {ours}; in the paper {theirs} (bioS).",
    "steps": "the probe is trained for {ours} steps; in the paper for {theirs:,}.",
}
