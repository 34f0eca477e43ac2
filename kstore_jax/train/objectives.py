"""batch -> loss.

An objective is a pure function `(params, batch) -> (totals, counts)`: summed losses and how many
terms each sums, scalars or one a task. The loss is the sum of `totals / counts`; kept apart, they
make the gradient of a batch in parts equal to that of the whole.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kstore_jax.model.forward import Params, forward, unembed
from kstore_jax.model.transformer import Shape

Batch = dict[str, jax.Array]
Objective = Callable[[Params, Batch], tuple[jax.Array, jax.Array]]


def loss_of(totals: jax.Array, counts: jax.Array) -> jax.Array:
    """The loss, a scalar; a task without terms has none."""
    return (totals / jnp.maximum(counts, 1.0)).sum()


@jax.custom_vjp
def cross_entropy(logits_NxV: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats, (N,) float32."""
    return _cross_entropy_forward(logits_NxV, targets_N)[0]


def _cross_entropy_forward(logits, targets):
    highest = logits.max(-1, keepdims=True)
    log_normaliser = highest + jnp.log(jnp.exp(logits - highest).sum(-1, keepdims=True))
    loss = log_normaliser - jnp.take_along_axis(logits, targets[:, None], axis=-1)
    return loss[:, 0], (logits, targets, log_normaliser)


def _cross_entropy_backward(saved, dloss):
    logits, targets, log_normaliser = saved
    is_target = jnp.arange(logits.shape[1])[None] == targets[:, None]
    dlogits = jnp.exp(logits - log_normaliser) - is_target.astype(jnp.float32)
    return dlogits * dloss[:, None], None


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def hidden_states(shape: Shape, params: Params, tokens: jax.Array, batch: Batch) -> jax.Array:
    """`forward`, with the dropout of `shape` where the batch has `keys`, as in a training."""
    keys = batch.get("keys") if shape.dropout else None
    return forward(shape, params, tokens, None if keys is None else keys[0])


def next_token(shape: Shape) -> Objective:
    """Mean loss of every next token: batch `tokens` (B, L + 1)."""

    def objective(params, batch):
        tokens = batch["tokens"]
        hidden = hidden_states(shape, params, tokens[:, :-1], batch)
        logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
        losses = cross_entropy(logits, tokens[:, 1:].ravel())
        return losses.sum(), jnp.float32(losses.size)

    return objective


def at_positions(hidden_BxLxD: jax.Array, positions_BxP: jax.Array) -> jax.Array:
    """The hidden states at some positions of each row, (B, P, D)."""
    return jnp.take_along_axis(hidden_BxLxD, positions_BxP[:, :, None], axis=1)


def answers(shape: Shape) -> Objective:
    """Mean loss of chosen tokens: batch `tokens` (B, L); `positions` (B, P), from where each is
    predicted; `targets` (B, P); `weights` (B, P), 0 where there is none."""

    def objective(params, batch):
        hidden = hidden_states(shape, params, batch["tokens"], batch)
        hidden = at_positions(hidden, batch["positions"])
        logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
        weights = batch["weights"].ravel()
        loss = cross_entropy(logits, batch["targets"].ravel())
        return (loss * weights).sum(), weights.sum()

    return objective
