"""The optimizer and the learning rates of a training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kstore_jax.train.base import OPTIMIZERS, SCHEDULES
from kstore_jax.train.config import Training
from kstore_jax.train.schedules import CosineConfig


def schedule(training: Training) -> optax.Schedule:
    """Linear warm-up, then the decay of `training.schedule` to `final_lr_ratio` of the peak."""
    peak, decay_steps = training.learning_rate, max(1, training.steps - training.warmup_steps)
    entry = SCHEDULES.of(training.schedule)
    decay = entry.decay(training.schedule, peak, training.final_lr_ratio, decay_steps)
    if not training.warmup_steps:
        return decay
    warmup = optax.linear_schedule(peak / training.warmup_steps, peak, training.warmup_steps)
    return optax.join_schedules([warmup, decay], [training.warmup_steps])


TracedHparams = dict[str, jax.Array]


def traced_hparams(training: Training) -> TracedHparams:
    """The hyper-parameters that are inputs of the compiled program: the learning rate of every step
    (`rates`, (steps,)) and the `weight_decay`."""
    steps: Any = jnp.arange(training.steps, dtype=jnp.float32)
    rates = jnp.asarray(schedule(training)(steps))
    return {"rates": rates, "weight_decay": jnp.float32(training.weight_decay)}


def static_part(training: Training) -> Training:
    """The training without its traced hyper-parameters: equal for trainings of one program."""
    off = {"learning_rate": 0.0, "warmup_steps": 0, "final_lr_ratio": 0.0, "weight_decay": 0.0}
    return dataclasses.replace(training, schedule=CosineConfig(), **off)


def optimizer(
    training: Training, hparams: TracedHparams | None = None
) -> optax.GradientTransformation:
    """The optimizer of a training, with optional clipping by the global norm in front of it. With
    `skip_nonfinite`, steps whose gradient is not finite change nothing and are counted.

    Args:
      hparams: learning rates and weight decay, which may be traced; None for the training's own.
    """
    hparams = traced_hparams(training) if hparams is None else hparams
    rule = OPTIMIZERS.of(training.optimizer).transformation(
        training.optimizer, lambda count: hparams["rates"][count], hparams["weight_decay"]
    )
    clip = (
        optax.clip_by_global_norm(training.clip_global_norm)
        if training.clip_global_norm
        else optax.identity()
    )
    whole = optax.chain(clip, rule)
    if training.skip_nonfinite:
        whole = optax.apply_if_finite(whole, training.skip_nonfinite)
    return _with_standard_promotion(whole)


def _with_standard_promotion(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Optax raises floats to an integer count, which strict promotion (on in tests) forbids."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)
