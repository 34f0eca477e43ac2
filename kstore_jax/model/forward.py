"""The one forward pass: `hidden = forward(shape, params, tokens)`, and `unembed(shape, params,
hidden)` where logits are needed.

Training, question answering, P-probing and Q-probing all call these two. `forward_cached` computes
the same, token by token, for text generation.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from kstore_jax.model.matmul import dense, transpose_copy
from kstore_jax.model.taps import Tapped, Taps, apply_tapped
from kstore_jax.model.transformer import Shape, Transformer, at_positions

Params = dict
Cache = dict


def init(shape: Shape, key: jax.Array) -> Params:
    """Returns initial parameters: a nested dictionary of float32 arrays."""
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)  # only its shape matters
    return dict(Transformer(shape).lazy_init(key, tokens)["params"])


@functools.partial(jax.jit, static_argnums=0)
def forward(
    shape: Shape,
    params: Params,
    tokens: jax.Array,
    lengths: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
    taps: Taps | None = None,
    positions: jax.Array | None = None,
) -> jax.Array | tuple[jax.Array, Tapped]:
    """Returns hidden states (B, L, D) of the last layer, after the final norm, of
    `shape.activation_dtype`; with `taps` also what they ask for.

    Args:
      params: the network's parameters; other entries, such as a probe's `head`, are ignored. The
        embedding may have more rows than `shape.vocabulary` (`lora.merge` stacks one table per
        task); tokens index into it.
      tokens: (B, L) int32.
      lengths: (B,) int32: tokens of each text; the rest of L is padding, which a bidirectional
        model does not attend to. A causal model ignores it: no text position comes after padding.
      dropout_key: the only randomness of dropout; None: no dropout.
      taps: what to return from inside the network and to replace there; None: nothing, at no cost.
      positions: (B, P) int32: where hidden states are wanted, (B, P, D), which saves most of the
        last block; None: everywhere. `taps` see the whole text, and then nothing is saved.

    Raises:
      UserError: a text is longer than `shape.longest_text`, or this machine lacks the attention
        implementation.
    """
    shape, network = _network(shape, params)
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    lengths = lengths if shape.direction == "bidirectional" else None
    transformer, variables = Transformer(shape), {"params": network}
    if taps is not None:
        hidden, tapped = apply_tapped(transformer, variables, taps, tokens, lengths, rngs=rngs)
        return hidden if positions is None else at_positions(hidden, positions), tapped
    return jnp.asarray(transformer.apply(variables, tokens, lengths, None, positions, rngs=rngs))


def _network(shape: Shape, params: Params) -> tuple[Shape, Params]:
    """Returns the network's own parameters, and its shape with the rows of its embedding."""
    blocks = [f"block_{layer}" for layer in range(shape.layers)]
    positions = ["positions"] if shape.positions == "learned" else []
    network = {name: params[name] for name in ("embedding", *positions, *blocks, "ln_f")}
    return dataclasses.replace(shape, vocabulary=network["embedding"].shape[0]), network


def init_cache(shape: Shape, batch: int, length: int) -> Cache:
    """Returns an empty cache for `length` tokens of each text: keys and values (BG, M, K) with
    M = `length`, and what layers of the architecture keep."""
    longest = max(shape.max_positions, length)  # the last of these tokens is never read
    shape = dataclasses.replace(
        shape, max_positions=longest, sliding_window=0, attention="dense", remat=False
    )
    tokens, starts = jnp.zeros((batch, length), jnp.int32), jnp.zeros(batch, jnp.int32)
    variables = jax.eval_shape(
        lambda key: Transformer(shape).init(key, tokens, None, starts), jax.random.key(0)
    )
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(variables["cache"]))


@functools.partial(jax.jit, static_argnums=0)
def forward_cached(
    shape: Shape, params: Params, tokens: jax.Array, cache_positions: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Returns the hidden states (B, L, D) of the next tokens of texts, and the cache with them.

    Cached entries beyond the end of a text are not attended to; later tokens overwrite them.

    Args:
      tokens: (B, L) int32: the beginning of each text, or (B, 1): its next token.
      cache_positions: (B,) int32: the number of tokens of each text before these; 0 for beginnings.
      cache: from `init_cache` or an earlier call.
    """
    shape, network = _network(shape, params)
    hidden, updates = Transformer(shape).apply(
        {"params": network, "cache": cache}, tokens, None, cache_positions, mutable=["cache"]
    )
    return hidden, dict(updates["cache"])


def prefill(
    shape: Shape, params: Params, prompts_BxL: jax.Array, lengths_B: jax.Array, steps: int
) -> tuple[jax.Array, Cache]:
    """Returns the last hidden states (B, D) of prompts, and a cache with room for `steps` more
    tokens of each. Tokens beyond a prompt's length are ignored."""
    batch, longest = prompts_BxL.shape
    cache = init_cache(shape, batch, longest + steps)
    hidden, cache = forward_cached(shape, params, prompts_BxL, jnp.zeros_like(lengths_B), cache)
    return at_positions(hidden, lengths_B[:, None] - 1)[:, 0], cache


@functools.partial(jax.jit, static_argnums=0)
def unembed(shape: Shape, params: Params, hidden: jax.Array) -> jax.Array:
    """Returns logits (..., V) float32 of hidden states (..., D).

    The head is `unembedding` if `params` has one: in an untied network, or where `lora.merge`
    changed only the input side of the embedding. Otherwise it is the embedding.
    """
    table = params.get("unembedding", params["embedding"])
    hidden = hidden.astype(jnp.float32)
    return dense(hidden, transpose_copy(table), None, jnp.dtype(shape.dtype))
