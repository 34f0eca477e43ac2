"""AdamW and its schedules, as in the papers."""

import jax
import optax

from kstore_jax.config import Training


def schedule(training: Training) -> optax.Schedule:
    """Linear warm-up, then cosine or linear decay to `final` of the peak at the last step."""
    peak, decay_steps = training.learning_rate, max(1, training.steps - training.warmup)
    if training.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=training.final)
    else:
        decay = optax.linear_schedule(peak, peak * training.final, decay_steps)
    if not training.warmup:
        return decay
    warmup = optax.linear_schedule(peak / training.warmup, peak, training.warmup)
    return optax.join_schedules([warmup, decay], [training.warmup])


def _decayed(params):
    """Weight decay acts on matrices; not on biases, nor on the scales of norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("bias", "scale"), params
    )


def optimizer(training: Training) -> optax.GradientTransformation:
    """AdamW with decoupled weight decay and optional clipping by the global norm."""
    adamw = optax.adamw(
        schedule(training),
        b1=training.b1,
        b2=training.b2,
        eps=training.eps,
        weight_decay=training.weight_decay,
        mask=_decayed,
    )
    clip = optax.clip_by_global_norm(training.clip) if training.clip else optax.identity()
    return _with_standard_promotion(optax.chain(clip, adamw))


def _with_standard_promotion(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Optax raises floats to an integer count; strict promotion, on in tests, is for our code."""

    def update(gradient, state, params):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(gradient, state, params)

    return optax.GradientTransformation(inner.init, update)
