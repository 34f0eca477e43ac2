"""batch -> loss.

An objective is a pure function `(params, batch) -> (totals, counts)`: summed losses and how many
terms each sums, scalars or one a task. The loss is the sum of `totals / counts`; kept apart, they
make the gradient of a batch in parts equal to that of the whole. That of a shape is one function,
by which `fit` knows what it has compiled.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kstore_jax.model.forward import Params, forward, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.train.masking import Words, mask_words, most_masked

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
    """`forward` of texts as long as the `lengths` of the batch, where it has them; with the dropout
    of `shape` where it has `keys`, as in a training."""
    keys = batch.get("keys") if shape.dropout else None
    return forward(shape, params, tokens, batch.get("lengths"), None if keys is None else keys[0])


@functools.cache
def next_token(shape: Shape) -> Objective:
    """Mean loss of every next token: batch `tokens` (B, L + 1)."""

    def objective(params, batch):
        tokens = batch["tokens"]
        hidden = hidden_states(shape, params, tokens[:, :-1], batch)
        logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
        losses = cross_entropy(logits, tokens[:, 1:].ravel())
        return losses.sum(), jnp.float32(losses.size)

    return objective


def masked_words(shape: Shape, words: Words, most: Callable[[int], int] = most_masked) -> Objective:
    """Mean loss of masked tokens (whole words, Part 3.1, section 7): batch `tokens` (B, L + 1), the
    last of which is the first of another window; `keys` (B,), of what is masked.

    Logits are those of at most `most(L)` tokens a row: six of seven would be thrown away.
    """

    def objective(params, batch):
        tokens = batch["tokens"][:, :-1]
        inputs, masked = mask_words(words, batch["keys"], tokens)
        hidden = hidden_states(shape, params, inputs, batch)
        positions = jnp.argsort(~masked, axis=1)[:, : most(tokens.shape[1])]
        hidden = at_positions(hidden, positions)
        logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
        targets, weights = (jnp.take_along_axis(x, positions, axis=1) for x in (tokens, masked))
        weights = weights.ravel().astype(jnp.float32)
        return (cross_entropy(logits, targets.ravel()) * weights).sum(), weights.sum()

    return objective


def at_positions(hidden_BxLxD: jax.Array, positions_BxP: jax.Array) -> jax.Array:
    """The hidden states at some positions of each row, (B, P, D)."""
    return jnp.take_along_axis(hidden_BxLxD, positions_BxP[:, :, None], axis=1)


@functools.cache
def answers(shape: Shape) -> Objective:
    """Mean loss of chosen tokens: batch `tokens` (B, L) of `lengths` (B,); `positions` (B, P), from
    where each is predicted; `targets` (B, P); `weights` (B, P), 0 where there is none."""

    def objective(params, batch):
        hidden = hidden_states(shape, params, batch["tokens"], batch)
        hidden = at_positions(hidden, batch["positions"])
        logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
        weights = batch["weights"].ravel()
        loss = cross_entropy(logits, batch["targets"].ravel())
        return (loss * weights).sum(), weights.sum()

    return objective
