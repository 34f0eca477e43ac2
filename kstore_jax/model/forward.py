"""The only way through the model.

`hidden = forward(shape, params, tokens)`, and `unembed(shape, params, hidden)` where logits are
wanted. Training, QA evaluation, P-probing and Q-probing all go through these two.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from kstore_jax.model.matmul import dense, transposed
from kstore_jax.model.transformer import Shape, Transformer

Params = dict


def init(shape: Shape, key: jax.Array) -> Params:
    """Initial parameters: a plain dictionary of float32 arrays."""
    return Transformer(shape).init(key, jnp.zeros((1, 2), jnp.int32))["params"]


@functools.partial(jax.jit, static_argnums=0)
def forward(shape: Shape, params: Params, tokens: jax.Array) -> jax.Array:
    """Hidden states of the last layer, after its norm: tokens (B, L) int32 -> (B, L, D) float32.

    `params` may hold more than the network's own, such as the head of a probe. The embedding may
    have more rows than `shape.vocabulary` (adapters stack one table a task); tokens index into it.
    """
    blocks = [f"block_{layer}" for layer in range(shape.layers)]
    network = {name: params[name] for name in ("embedding", *blocks, "ln_f")}
    shape = dataclasses.replace(shape, vocabulary=network["embedding"].shape[0])
    return Transformer(shape).apply({"params": network}, tokens)


@functools.partial(jax.jit, static_argnums=0)
def unembed(shape: Shape, params: Params, hidden: jax.Array) -> jax.Array:
    """Logits (..., V) float32 of hidden states (..., D).

    The head is the embedding (tied), unless an adapter changed the embedding's input side alone
    and left the head as it was under `unembedding`.
    """
    table = params.get("unembedding", params["embedding"])
    return dense(hidden, transposed(table), None, jnp.dtype(shape.dtype))
