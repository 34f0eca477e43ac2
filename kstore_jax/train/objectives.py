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
from kstore_jax.model.matmul import dot
from kstore_jax.model.transformer import Shape
from kstore_jax.train.masking import WordMasking, mask_words, max_predictions

Batch = dict[str, jax.Array]
Objective = Callable[[Params, Batch], tuple[jax.Array, jax.Array]]

_TILE_LOGITS = 2**30  # of one tile of `_tiled_loss`: 2 GiB
_MOST_TILES = 64


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


def summed_loss(
    shape: Shape, params: Params, hidden_NxD: jax.Array, targets_N, weights_N=None
) -> jax.Array:
    """Returns the sum of the negative log-likelihoods of `targets_N` in nats, each times its
    weight; no gradient reaches the weights.

    Hidden states in bfloat16 have logits in bfloat16, which are not kept for the gradient, and sums
    in float32.
    """
    if hidden_NxD.dtype == jnp.float32:
        losses_N = cross_entropy(unembed(shape, params, hidden_NxD), targets_N)
        return (losses_N if weights_N is None else losses_N * weights_N).sum()
    table_VxD = params.get("unembedding", params["embedding"])
    weights_N = jnp.ones(targets_N.shape) if weights_N is None else weights_N
    tiles = num_tiles(len(hidden_NxD), len(table_VxD))
    return _tiled_loss(hidden_NxD, table_VxD, targets_N, weights_N, tiles)


def num_tiles(rows: int, vocabulary: int) -> int:
    """Returns the smallest divisor of `rows` that limits the logits of a tile to `_TILE_LOGITS`;
    where none up to `_MOST_TILES` does, the largest of them."""
    divisors = [tiles for tiles in range(1, _MOST_TILES + 1) if rows % tiles == 0]
    fitting = (tiles for tiles in divisors if rows // tiles * vocabulary <= _TILE_LOGITS)
    return next(fitting, divisors[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _tiled_loss(hidden, table, targets, weights, tiles) -> jax.Array:
    """The sum of the losses, tile by tile of rows. With the loss of a tile its gradient is computed
    up to a factor, so that no tile's logits are kept or computed again."""
    return _tiled_loss_forward(hidden, table, targets, weights, tiles)[0]


def _tiled_loss_forward(hidden, table, targets, weights, tiles):
    table = table.astype(hidden.dtype)

    def add_tile(sums, rows):
        loss, dhidden, dtable = _loss_and_gradients(table, *rows)
        return (sums[0] + loss, sums[1] + dtable), dhidden

    if tiles == 1:
        loss, dhidden, dtable = _loss_and_gradients(table, hidden, targets, weights)
        return loss, (dhidden, dtable)
    # Each tile has rows of every device.
    rows = [x.reshape(-1, tiles, *x.shape[1:]).swapaxes(0, 1) for x in (hidden, targets, weights)]
    zero = jnp.float32(0), jnp.zeros(table.shape)
    (loss, dtable), dhidden = jax.lax.scan(add_tile, zero, rows)
    return loss, (dhidden.swapaxes(0, 1).reshape(hidden.shape), dtable)


@jax.named_scope("summed_loss")
def _loss_and_gradients(table, hidden, targets, weights):
    dtype = hidden.dtype
    logits = dot(hidden, table, -1, dtype, dtype)
    largest = logits.max(-1, keepdims=True).astype(jnp.float32)
    sums = jnp.exp(logits.astype(jnp.float32) - largest).sum(-1, keepdims=True)
    log_normaliser = largest + jnp.log(sums)
    of_target = jnp.take_along_axis(logits, targets[:, None], axis=-1).astype(jnp.float32)
    is_target = jnp.arange(logits.shape[1])[None] == targets[:, None]
    dlogits = jnp.exp(logits.astype(jnp.float32) - log_normaliser) - is_target.astype(jnp.float32)
    dlogits = (dlogits * weights[:, None]).astype(dtype)
    by_rows = (((0,), (0,)), ((), ()))
    dtable = jax.lax.dot_general(dlogits, hidden, by_rows, preferred_element_type=jnp.float32)
    loss = ((log_normaliser - of_target)[:, 0] * weights).sum()
    return loss, dot(dlogits, table, -2, dtype, dtype), dtable


@jax.named_scope("summed_loss")
def _tiled_loss_backward(tiles, saved, dloss):
    dhidden, dtable = saved
    return (dhidden.astype(jnp.float32) * dloss).astype(dhidden.dtype), dtable * dloss, None, None


_tiled_loss.defvjp(_tiled_loss_forward, _tiled_loss_backward)


def forward_batch(
    shape: Shape,
    params: Params,
    tokens: jax.Array,
    batch: Batch,
    positions: jax.Array | None = None,
) -> jax.Array:
    """`forward` with the `lengths` of the batch, if it has them, and with the dropout of `shape` if
    the batch has `keys`, as in training."""
    keys = batch.get("keys") if shape.dropout or shape.attention_dropout else None
    key, lengths = None if keys is None else keys[0], batch.get("lengths")
    return forward(shape, params, tokens, lengths, key, positions=positions)


@functools.cache
def next_token(shape: Shape) -> Objective:
    """Mean loss of every next token: batch `tokens` (B, L + 1)."""

    def objective(params, batch):
        tokens = batch["tokens"]
        hidden = forward_batch(shape, params, tokens[:, :-1], batch)
        targets = tokens[:, 1:].ravel()
        loss = summed_loss(shape, params, hidden.reshape(-1, hidden.shape[-1]), targets)
        return loss, jnp.float32(targets.size)

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
        positions = jnp.argsort(~masked, axis=1)[:, : limit(tokens.shape[1])]
        hidden = forward_batch(shape, params, inputs, batch, positions)
        targets, weights = (
            jnp.take_along_axis(x, positions, axis=1).ravel() for x in (tokens, masked)
        )
        weights = weights.astype(jnp.float32)
        hidden = hidden.reshape(-1, hidden.shape[-1])
        return summed_loss(shape, params, hidden, targets, weights), weights.sum()

    return objective


@functools.cache
def answer_tokens(shape: Shape) -> Objective:
    """Mean loss of chosen tokens.

    The batch has `tokens` (B, L), their `lengths` (B,), the `positions` (B, P) that predict the
    `targets` (B, P), and `weights` (B, P), 0 for padding.
    """

    def objective(params, batch):
        hidden = forward_batch(shape, params, batch["tokens"], batch, batch["positions"])
        hidden = hidden.reshape(-1, hidden.shape[-1])
        targets, weights = batch["targets"].ravel(), batch["weights"].ravel()
        return summed_loss(shape, params, hidden, targets, weights), weights.sum()

    return objective
