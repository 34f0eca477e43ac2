"""batch -> loss.

An objective is a pure function `(params, batch) -> (totals, counts)`: summed losses and the number
of terms in each, scalars or one a task. The loss is the sum of `totals / counts`; returned apart,
they make the gradient of a batch in micro-batches equal to the gradient of the whole. Objectives
are cached by shape, so that `fit` compiles each once.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kstore_jax.model.forward import Params, forward, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.train.masking import WordMasking, mask_words, max_predictions

Batch = dict[str, jax.Array]
Objective = Callable[[Params, Batch], tuple[jax.Array, jax.Array]]


def total_loss(totals: jax.Array, counts: jax.Array) -> jax.Array:
    """The loss, a scalar; a task without terms adds nothing."""
    return (totals / jnp.maximum(counts, 1.0)).sum()


@jax.custom_vjp
def cross_entropy(logits_NxV: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats, (N,) float32."""
    return _cross_entropy_forward(logits_NxV, targets_N)[0]


def _cross_entropy_forward(logits, targets):
    largest = logits.max(-1, keepdims=True)
    log_normaliser = largest + jnp.log(jnp.exp(logits - largest).sum(-1, keepdims=True))
    loss = log_normaliser - jnp.take_along_axis(logits, targets[:, None], axis=-1)
    return loss[:, 0], (logits, targets, log_normaliser)


def _cross_entropy_backward(saved, dloss):
    logits, targets, log_normaliser = saved
    is_target = jnp.arange(logits.shape[1])[None] == targets[:, None]
    dlogits = jnp.exp(logits - log_normaliser) - is_target.astype(jnp.float32)
    return dlogits * dloss[:, None], None


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def forward_batch(shape: Shape, params: Params, tokens: jax.Array, batch: Batch) -> jax.Array:
    """`forward` with the `lengths` of the batch, if it has them, and with the dropout of `shape` if
    the batch has `keys`, as in training."""
    keys = batch.get("keys") if shape.dropout else None
    return forward(shape, params, tokens, batch.get("lengths"), None if keys is None else keys[0])


@functools.cache
def next_token(shape: Shape) -> Objective:
    """Mean loss of every next token: batch `tokens` (B, L + 1)."""

    def objective(params, batch):
        tokens = batch["tokens"]
        hidden = forward_batch(shape, params, tokens[:, :-1], batch)
        logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
        losses = cross_entropy(logits, tokens[:, 1:].ravel())
        return losses.sum(), jnp.float32(losses.size)

    return objective


def masked_words(
    shape: Shape, words: WordMasking, limit: Callable[[int], int] = max_predictions
) -> Objective:
    """Mean loss of masked tokens (whole words, Part 3.1, section 7).

    The batch has `tokens` (B, L + 1), whose last column is ignored (it begins the next window), and
    `keys` (B,) that choose the masked words. Logits are computed for at most `most(L)` tokens a
    row; six of seven would be unused.
    """

    def objective(params, batch):
        tokens = batch["tokens"][:, :-1]
        inputs, masked = mask_words(words, batch["keys"], tokens)
        hidden = forward_batch(shape, params, inputs, batch)
        positions = jnp.argsort(~masked, axis=1)[:, : limit(tokens.shape[1])]
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
def answer_tokens(shape: Shape) -> Objective:
    """Mean loss of chosen tokens.

    The batch has `tokens` (B, L), their `lengths` (B,), the `positions` (B, P) that predict the
    `targets` (B, P), and `weights` (B, P), 0 for padding.
    """

    def objective(params, batch):
        hidden = forward_batch(shape, params, batch["tokens"], batch)
        hidden = at_positions(hidden, batch["positions"])
        logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
        weights = batch["weights"].ravel()
        loss = cross_entropy(logits, batch["targets"].ravel())
        return (loss * weights).sum(), weights.sum()

    return objective
