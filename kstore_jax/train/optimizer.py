"""AdamW and its schedules, as in the papers, and Muon."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from kstore_jax.train.config import Training

_MUON_MOMENTUM = 0.95


def schedule(training: Training) -> optax.Schedule:
    """Linear warm-up, then cosine or linear decay to `final` of the peak at the last step."""
    peak, decay_steps = training.learning_rate, max(1, training.steps - training.warmup_steps)
    if training.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=training.final_lr_ratio)
    else:
        decay = optax.linear_schedule(peak, peak * training.final_lr_ratio, decay_steps)
    if not training.warmup_steps:
        return decay
    warmup = optax.linear_schedule(peak / training.warmup_steps, peak, training.warmup_steps)
    return optax.join_schedules([warmup, decay], [training.warmup_steps])


Dials = dict[str, jax.Array]


def dials(training: Training) -> Dials:
    """What of a training is data to its program: the learning rate of every step, (steps,), and the
    weight decay."""
    rates = schedule(training)(jnp.arange(training.steps, dtype=jnp.float32))
    return {"rates": rates, "weight_decay": jnp.float32(training.weight_decay)}


def without_dials(training: Training) -> Training:
    """The same for all trainings that the same program runs: they differ in their dials alone."""
    off = {"learning_rate": 0.0, "warmup_steps": 0, "schedule": "cosine", "final_lr_ratio": 0.0}
    return dataclasses.replace(training, weight_decay=0.0, **off)


def _decayed(params):
    """Weight decay acts on matrices; not on biases, nor on the scales of norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("bias", "scale"), params
    )


def optimizer(training: Training, given: Dials | None = None) -> optax.GradientTransformation:
    """AdamW or Muon, with decoupled weight decay and optional clipping by the global norm; where
    `skip_nonfinite` is set, steps whose gradient is not finite change nothing and are counted.

    Its learning rates and weight decay are those `given`, which may be traced, or the training's.
    """
    given = dials(training) if given is None else given
    rule = (_muon if training.optimizer == "muon" else _adamw)(
        training, lambda count: given["rates"][count], given["weight_decay"]
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
        mask=_decayed,
    )


def _muon(training: Training, rate: optax.Schedule, decay: jax.Array):
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for embedding and vectors.

    Updates have the root mean square that AdamW's have (Liu et al. 2025, 0.2), so that one learning
    rate serves both. Muon's momentum is Nesterov's of 0.95, whatever b1 and b2, which are AdamW's;
    `eps` is added to AdamW's denominators and to the norm that a momentum is divided by before its
    five steps of Newton-Schulz.
    """

    def last_two(params):
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), params)

    muon = optax.chain(
        optax.contrib.scale_by_muon(
            beta=_MUON_MOMENTUM, eps=training.eps, weight_dimension_numbers=last_two
        ),
        optax.stateless_with_tree_map(lambda x, _: 0.2 * math.sqrt(max(x.shape[-2:])) * x),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(rate),
    )
    rules = {"muon": muon, "adamw": _adamw(training, rate, decay)}
    return optax.partition(rules, _rule_of_each)


def _rule_of_each(params):
    """Muon moves what one vector is multiplied by to give another."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "muon" if path[-1].key == "kernel" else "adamw", params
    )


def _with_standard_promotion(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Optax raises floats to an integer count; strict promotion, on in tests, is for our code."""

    def update(gradient, state, params):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(gradient, state, params)

    return optax.GradientTransformation(inner.init, update)
