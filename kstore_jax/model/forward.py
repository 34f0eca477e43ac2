"""The only way through the model.

`hidden = forward(shape, params, tokens)`, and `unembed(shape, params, hidden)` where logits are
wanted. Training, QA evaluation, P-probing and Q-probing all go through these two.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from kstore_jax.model.matmul import dense, transpose_copy
from kstore_jax.model.transformer import Shape, Transformer

Params = dict
Cache = dict


def init(shape: Shape, key: jax.Array) -> Params:
    """Initial parameters: a plain dictionary of float32 arrays."""
    return dict(Transformer(shape).init(key, jnp.zeros((1, 2), jnp.int32))["params"])


@functools.partial(jax.jit, static_argnums=0)
def forward(
    shape: Shape,
    params: Params,
    tokens: jax.Array,
    lengths: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Hidden states of the last layer, after its norm: tokens (B, L) int32 -> (B, L, D) float32.

    `params` may hold more than the network's own, such as the head of a probe. The embedding may
    have more rows than `shape.vocabulary` (adapters stack one table a task); tokens index into it.
    `lengths` (B,) int32 says how much of each row is text, where the rest fills it up to L: a
    bidirectional model sees no further, a causal one never does.
    Nothing is dropped without a `dropout_key`, and what is dropped depends on the key alone.

    Raises:
      UserError: the text is longer than learned positions go, or the attention asked for is not
        here.
    """
    shape, network = _network(shape, params)
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    seen = lengths if shape.direction == "bidirectional" else None
    return jnp.asarray(Transformer(shape).apply({"params": network}, tokens, seen, rngs=rngs))


def _network(shape: Shape, params: Params) -> tuple[Shape, Params]:
    """The network's own parameters, and its shape with as many tokens as its embedding has."""
    blocks = [f"block_{layer}" for layer in range(shape.layers)]
    learned = ["positions"] if shape.positions == "learned" else []
    network = {name: params[name] for name in ("embedding", *learned, *blocks, "ln_f")}
    return dataclasses.replace(shape, vocabulary=network["embedding"].shape[0]), network


def init_cache(shape: Shape, rows: int, length: int) -> Cache:
    """Room for the keys and values of so many texts of at most `length` tokens."""
    size = rows * shape.kv_heads, length, shape.width // shape.heads
    return {
        f"block_{layer}": {name: jnp.zeros(size) for name in ("keys", "values")}
        for layer in range(shape.layers)
    }


@functools.partial(jax.jit, static_argnums=0)
def forward_cached(
    shape: Shape, params: Params, tokens: jax.Array, cache_positions: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """`forward` of what comes next in texts whose keys and values are remembered.

    Args:
      tokens: (B, L) int32: the beginning of each text, or one token a text that is begun.
      cache_positions: (B,) int32: 0, or how many tokens of each text are in the cache.
      cache: as `init_cache` and this make it.

    Returns: hidden states (B, L, D), and the cache with these tokens. Entries of the
    cache beyond a text are not seen, and are overwritten as it goes on.
    """
    shape, network = _network(shape, params)
    given = {"params": network, "cache": cache}
    hidden, updated = Transformer(shape).apply(
        given, tokens, None, cache_positions, mutable=["cache"]
    )
    return hidden, dict(updated["cache"])


@functools.partial(jax.jit, static_argnums=0)
def unembed(shape: Shape, params: Params, hidden: jax.Array) -> jax.Array:
    """Logits (..., V) float32 of hidden states (..., D).

    The head is the embedding (tied), unless the network has one of its own under `unembedding`, or
    an adapter changed the embedding's input side alone and left the head as it was there.
    """
    table = params.get("unembedding", params["embedding"])
    return dense(hidden, transpose_copy(table), None, jnp.dtype(shape.dtype))
