"""AdamW (Loshchilov and Hutter, 2019), the optimizer of the papers."""

import dataclasses

import jax
import optax

from kstore_jax.config.fields import number
from kstore_jax.train.base import OPTIMIZERS, Optimizer, decay_mask


@dataclasses.dataclass(frozen=True)
class AdamWConfig:
    """AdamW."""

    b1: float = number(0.9, 0.0, 1.0)
    """Decay of the mean of gradients, beta 1."""
    b2: float = number(0.95, 0.0, 1.0)
    """Decay of the mean of squared gradients, beta 2."""
    eps: float = number(1e-6, 0.0)
    """Added to the denominator."""


@OPTIMIZERS.register
class AdamW(Optimizer):
    """AdamW with decoupled weight decay."""

    name, Config = "adamw", AdamWConfig

    def transformation(
        self, config: AdamWConfig, rate: optax.Schedule, weight_decay: jax.Array
    ) -> optax.GradientTransformation:
        return optax.adamw(
            rate,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=weight_decay,
            mask=decay_mask,
        )
