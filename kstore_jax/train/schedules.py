"""The schedules of the papers: cosine for pretraining, linear for probes."""

import dataclasses

import optax

from kstore_jax.train.base import SCHEDULES, Schedule


@dataclasses.dataclass(frozen=True)
class CosineConfig:
    """Half a period of a cosine."""


@SCHEDULES.register
class Cosine(Schedule):
    """Half a period of a cosine."""

    name, Config = "cosine", CosineConfig

    def decay(
        self, config: CosineConfig, peak: float, final_lr_ratio: float, steps: int
    ) -> optax.Schedule:
        return optax.cosine_decay_schedule(peak, steps, alpha=final_lr_ratio)


@dataclasses.dataclass(frozen=True)
class LinearConfig:
    """A straight line."""


@SCHEDULES.register
class Linear(Schedule):
    """A straight line."""

    name, Config = "linear", LinearConfig

    def decay(
        self, config: LinearConfig, peak: float, final_lr_ratio: float, steps: int
    ) -> optax.Schedule:
        return optax.linear_schedule(peak, peak * final_lr_ratio, steps)
