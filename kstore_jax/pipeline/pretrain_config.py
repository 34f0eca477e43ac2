"""The configuration of pretraining. Steps or exposures give its length."""

import dataclasses

from kstore_jax.config.fields import number
from kstore_jax.errors import UserError
from kstore_jax.train.config import LowRank

LENGTH = ("steps", "exposures")
"""Fields of `pretrain`; one of them gives its length."""


@dataclasses.dataclass(frozen=True)
class Pretrain(LowRank):
    """Pretraining (Part 3.1, section 3: 80,000 steps of 96 windows of 512 tokens, in which each
    person is read 540 times)."""

    steps: int = number(80_000, 0)
    """Optimizer updates; 0: as many as `exposures` needs."""
    exposures: float = number(0.0, 0.0, in_identity="set")
    """How often the facts of each person are read, in place of `steps`: the steps follow from the
    tokens of the people's texts and their share of the windows, rounded to the nearest multiple of
    `steps_per_call`; 0: `steps` counts."""
    seq_len: int = number(512, 2)
    """Predicted tokens a window."""
    warmup_steps: int = number(1000, 0)
    """Steps of linear warm-up; 0: none."""
    evaluate_every: int = number(0, 0)
    """Steps between the measurements of readouts that measure a model in the course of pretraining
    (`dynamics`), a multiple of `steps_per_call`; 0: none."""

    def __post_init__(self):
        super().__post_init__()
        if not self.steps and not self.exposures:
            raise UserError("steps: expected at least 1, got 0")

    @staticmethod
    def expand(values: dict) -> dict:
        """`values` without `steps` or `exposures` that are not set (None), and with `steps=0` where
        `exposures` is set alone."""
        unset = {name for name in LENGTH if values.get(name) is None}
        alone = "steps" in unset and values.get("exposures")
        values = {name: value for name, value in values.items() if name not in unset}
        return {**values, "steps": 0} if alone else values
