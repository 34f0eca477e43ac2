"""batch -> loss. An objective is a pure function `(params, batch) -> scalar loss`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kstore_jax.model.forward import Params, forward, unembed
from kstore_jax.model.transformer import Shape

Objective = Callable[[Params, dict[str, jax.Array]], jax.Array]


def cross_entropy(logits_NxV: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats, (N,) float32."""
    log_normaliser_N = jax.nn.logsumexp(logits_NxV, axis=-1)
    return log_normaliser_N - jnp.take_along_axis(logits_NxV, targets_N[:, None], axis=-1)[:, 0]


def next_token(shape: Shape) -> Objective:
    """Mean loss of every next token: batch `tokens` (B, L + 1)."""

    def objective(params, batch):
        tokens = batch["tokens"]
        hidden = forward(shape, params, tokens[:, :-1])
        logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
        return cross_entropy(logits, tokens[:, 1:].ravel()).mean()

    return objective


def at_positions(hidden_BxLxD: jax.Array, positions_BxP: jax.Array) -> jax.Array:
    """The hidden states at some positions of each row, (B, P, D)."""
    return jnp.take_along_axis(hidden_BxLxD, positions_BxP[:, :, None], axis=1)


def answers(shape: Shape) -> Objective:
    """Mean loss of chosen tokens: batch `tokens` (B, L); `positions` (B, P), from where each is
    predicted; `targets` (B, P); `weights` (B, P), 0 where there is none."""

    def objective(params, batch):
        hidden = forward(shape, params, batch["tokens"])
        hidden = at_positions(hidden, batch["positions"])
        logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
        weights = batch["weights"].ravel()
        loss = cross_entropy(logits, batch["targets"].ravel())
        return (loss * weights).sum() / weights.sum()

    return objective
