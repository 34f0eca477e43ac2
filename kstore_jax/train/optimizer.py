"""AdamW and its schedules, as in the papers, and Muon."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from kstore_jax.train.config import Training

_MUON_MOMENTUM = 0.95


def schedule(training: Training) -> optax.Schedule:
    """Linear warm-up, then cosine or linear decay to `final_lr_ratio` of the peak."""
    peak, decay_steps = training.learning_rate, max(1, training.steps - training.warmup_steps)
    if training.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=training.final_lr_ratio)
    else:
        decay = optax.linear_schedule(peak, peak * training.final_lr_ratio, decay_steps)
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
    off = {"learning_rate": 0.0, "warmup_steps": 0, "schedule": "cosine", "final_lr_ratio": 0.0}
    return dataclasses.replace(training, weight_decay=0.0, **off)


def _decay_mask(params):
    """True for matrices: biases and the scales of norms have no weight decay."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("bias", "scale"), params
    )


def optimizer(
    training: Training, hparams: TracedHparams | None = None
) -> optax.GradientTransformation:
    """AdamW or Muon, with decoupled weight decay and optional clipping by the global norm. With
    `skip_nonfinite`, steps whose gradient is not finite change nothing and are counted.

    Args:
      hparams: learning rates and weight decay, which may be traced; None for the training's own.
    """
    hparams = traced_hparams(training) if hparams is None else hparams
    rule = (_muon if training.optimizer == "muon" else _adamw)(
        training, lambda count: hparams["rates"][count], hparams["weight_decay"]
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


def _adamw(training: Training, rate: optax.Schedule, decay: jax.Array):
    return optax.adamw(
        rate,
        b1=training.b1,
        b2=training.b2,
        eps=training.eps,
        weight_decay=decay,
        mask=_decay_mask,
    )


def _muon(training: Training, rate: optax.Schedule, decay: jax.Array):
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for embedding and vectors.

    Updates have the root mean square of AdamW's (Liu et al. 2025, 0.2), so that one learning rate
    serves both. Muon's momentum is Nesterov's, 0.95; `b1` and `b2` are AdamW's. `eps` is added to
    AdamW's denominators and to the norm that divides a momentum before its five Newton-Schulz
    steps.
    """

    def last_two(params):
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), params)

    muon = optax.chain(
        optax.contrib.scale_by_muon(
            beta=_MUON_MOMENTUM, eps=training.eps, weight_dimension_numbers=last_two
        ),
        optax.stateless_with_tree_map(_scaled_like_adamw),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(rate),
    )
    rules: Any = {"muon": muon, "adamw": _adamw(training, rate, decay)}
    return optax.partition(rules, _rule_of_each)


def _scaled_like_adamw(x: Any, _: Any) -> jax.Array:
    return 0.2 * math.sqrt(max(x.shape[-2:])) * x


def _rule_of_each(params):
    """`muon` for the kernels of matrix products, `adamw` for all else."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "muon" if path[-1].key == "kernel" else "adamw", params
    )


def _with_standard_promotion(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Optax raises floats to an integer count, which strict promotion (on in tests) forbids."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)
