"""Attention over a packed window, by one of several programs; documents in it see each other, as in
the paper.

Shapes in names: B batch, L length, H heads, G key and value heads, K head width; N = B H, M = B G,
and R = H / G query heads to one key and value head.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kstore_jax.errors import UserError
from kstore_jax.model.dropout import keep_mask, keep_prob
from kstore_jax.model.matmul import dot, transpose_copy

_LANES = 128  # of a TPU: splash attention takes lengths in multiples of it
_BLOCK, _MOST_BLOCKS = 128, 4  # queries at least: products of fewer are slow on a CPU


def dot_product_attention(
    q_NxLxK: jax.Array,
    k_MxLxK: jax.Array,
    v_MxLxK: jax.Array,
    dtype: str,
    *,
    batch: int = 1,
    lengths: jax.Array | None = None,
    causal: bool = True,
    implementation: str = "dense",
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention, scaled by K^-1/2: (N, L, K) float32.

    Args:
      q_NxLxK: row `b H + h` is head h of text b.
      k_MxLxK: row `b G + g` is read by the heads g R to (g + 1) R - 1 of text b.
      v_MxLxK: as the keys.
      dtype: of the inputs of the products.
      batch: B, which `dense` needs not know without `lengths`.
      lengths: (B,) int32: how much of each text is there; nothing sees what fills it up to L.
      causal: whether a position sees only itself and what is before it.
      implementation: what computes it, as `choose` gives it.
      dropout: the share of the weights that is dropped, where there is a `key`.

    Raises:
      UserError: the implementation is not here, or cannot do it.
    """
    implementation = choose_implementation(implementation, dtype, q_NxLxK.shape[-1], dropout)
    if implementation == "dense":
        dropout = 0.0 if key is None else dropout
        if lengths is not None:
            lengths = lengths.repeat(k_MxLxK.shape[0] // batch)
        return _dense(q_NxLxK, k_MxLxK, v_MxLxK, lengths, dtype, causal, dropout, key)
    q_BxHxLxK, k_BxGxLxK, v_BxGxLxK = (
        x.reshape(batch, -1, *x.shape[1:]).astype(dtype) for x in (q_NxLxK, k_MxLxK, v_MxLxK)
    )
    compute = _splash if implementation == "splash" else functools.partial(_library, implementation)
    out_BxHxLxK = compute(q_BxHxLxK, k_BxGxLxK, v_BxGxLxK, lengths, causal)
    return out_BxHxLxK.astype(jnp.float32).reshape(q_NxLxK.shape)


def choose_implementation(
    implementation: str, dtype: str, head_width: int, dropout: float = 0.0
) -> str:
    """The implementation that `model.attention` means on this machine.

    `dense` keeps the matrix of weights, and reaches the matrix unit of CPUs (`matmul.py`); `xla`
    and `cudnn` are those of `jax.nn.dot_product_attention`; `splash` is JAX's for a TPU. `auto` is
    `cudnn` where it can do it, else `dense`.

    Raises:
      UserError: this machine lacks the given implementation, or it cannot do this; there is no
        fallback.
    """
    backend = jax.default_backend()
    lacks = {
        "dense": None,
        "xla": None,
        "cudnn": _cudnn_lacks(backend, dtype, head_width),
        "splash": _splash_lacks(backend),
    }
    if dropout:
        lacks.update(dict.fromkeys(("xla", "cudnn", "splash"), "model.dropout = 0"))
    best = "dense" if lacks["cudnn"] else "cudnn"
    if implementation == "auto":
        return best
    if lacks[implementation]:
        raise UserError(
            f"model.attention: {implementation} needs {lacks[implementation]}; auto is {best} here"
        )
    return implementation


def _cudnn_lacks(backend: str, dtype: str, head_width: int) -> str | None:
    if backend != "gpu" or "cuda" not in jax.devices()[0].client.platform_version:
        return "an NVIDIA GPU"
    if dtype != "bfloat16":
        return "model.dtype = bfloat16"
    if head_width % 8 or head_width > 128:
        return f"heads of a multiple of 8 and at most 128 dimensions, not {head_width}"
    return None


def _splash_lacks(backend: str) -> str | None:
    if backend != "tpu":
        return "a TPU"
    if (count := jax.device_count()) > 1:  # XLA does not divide its kernel among devices
        return f"a single TPU device, not {count}"
    return None


def _library(
    implementation: str, q_BxHxLxK, k_BxGxLxK, v_BxGxLxK, lengths, causal: bool
) -> jax.Array:
    """JAX's own attention, which takes the heads after the positions."""
    given = (x.swapaxes(1, 2) for x in (q_BxHxLxK, k_BxGxLxK, v_BxGxLxK))
    how = {"is_causal": causal, "implementation": implementation, "key_value_seq_lengths": lengths}
    out_BxLxHxK = jax.nn.dot_product_attention(*given, **how)
    return out_BxLxHxK.swapaxes(1, 2)


def _splash(
    q_BxHxLxK, k_BxGxLxK, v_BxGxLxK, lengths, causal: bool, interpret: bool = False
) -> jax.Array:
    """JAX's flash attention for TPUs; `interpret`: without a TPU.

    Texts are padded to a length that it takes. The padding is a document of its own.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    heads, length, width = q_BxHxLxK.shape[1:]
    missing = -length % _LANES
    given = (q_BxHxLxK * width**-0.5, k_BxGxLxK, v_BxGxLxK)
    given = (jnp.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0))) for x in given)
    whole = (length + missing, length + missing)
    mask = (splash.CausalMask if causal else splash.FullMask)(whole)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads), head_shards=1, q_seq_shards=1, interpret=interpret
    )
    ends = jnp.full(q_BxHxLxK.shape[0], length) if lengths is None else lengths
    document_BxL = (jnp.arange(length + missing)[None] >= ends[:, None]).astype(jnp.int32)
    segments = splash.SegmentIds(document_BxL, document_BxL)
    out_BxHxLxK: Any = jax.vmap(kernel)(*given, segments)
    return out_BxHxLxK[:, :, :length]


def _dense(q_NxLxK, k_MxTxK, v_MxTxK, lengths_M, dtype, causal, dropout, key):
    """The heads that share a key are rows of one product: R L queries to T keys.

    Causal attention goes by blocks of queries, each with the keys up to its end: the others would
    be multiplied by nothing.
    """
    rows, _, width = k_MxTxK.shape
    length = q_NxLxK.shape[1]
    if dropout:
        v_MxTxK = v_MxTxK / keep_prob(dropout)
    q_MxRxLxK = (q_NxLxK * width**-0.5).reshape(rows, -1, length, width)
    outs = []
    for first, end in _blocks(length) if causal else [(0, length)]:
        q_MxQxK = q_MxRxLxK[:, :, first:end].reshape(rows, -1, width)
        k_MxSxK, v_MxSxK = (x[:, :end] if causal else x for x in (k_MxTxK, v_MxTxK))
        used = None
        if dropout:
            shape = (*q_MxQxK.shape[:2], k_MxSxK.shape[1])
            used = keep_mask(jax.random.fold_in(key, first), dropout, shape)
        queries = end - first if causal else None
        out: Any = _softmax_attention(
            q_MxQxK, k_MxSxK, v_MxSxK, used, lengths_M, queries, jnp.dtype(dtype)
        )
        outs.append(out.reshape(rows, -1, end - first, width))
    return jnp.concatenate(outs, axis=2).reshape(q_NxLxK.shape)


def _blocks(length: int) -> list[tuple[int, int]]:
    """Where each block of queries begins and ends."""
    size = -(-length // max(1, min(_MOST_BLOCKS, length // _BLOCK)))
    return [(first, min(first + size, length)) for first in range(0, length, size)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _softmax_attention(q, k, v, used, lengths, queries, dtype):
    """`used`: which weights are not dropped, None where none are. `queries`: how many of each head
    there are, the last of which sees all keys, the one before all but the last, and so on; None
    where every query sees all keys."""
    return _softmax_attention_forward(q, k, v, used, lengths, queries, dtype)[0]


def _softmax_attention_forward(q, k, v, used, lengths, queries, dtype):
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    scores = dot(q, k, -1, dtype)
    if queries is not None:
        seen = jnp.tril(jnp.ones((queries, k.shape[1]), bool), k.shape[1] - queries)
        seen = jnp.tile(seen, (q.shape[1] // queries, 1))
        scores = jnp.where(seen[None], scores, jnp.finfo(jnp.float32).min)
    if lengths is not None:
        there = jnp.arange(k.shape[1])[None] < lengths[:, None]
        scores = jnp.where(there[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    mixing = (weights if used is None else jnp.where(used, weights, 0.0)).astype(dtype)
    out = dot(mixing, v, -2, dtype)
    return out, (q, k, v, weights.astype(dtype), mixing, used, out.astype(dtype))


def _softmax_attention_backward(queries, dtype, saved, dout):
    q, k, v, weights, mixing, used, out = saved
    dout = dout.astype(dtype)
    dv = transpose_copy(dot(transpose_copy(dout), mixing, -2, dtype))
    dweights = dot(dout, v, -1, dtype)
    if used is not None:
        dweights = jnp.where(used, dweights, 0.0)
    row = (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    dscores = (weights.astype(jnp.float32) * (dweights - row)).astype(dtype)
    dq = dot(dscores, k, -2, dtype)
    dk = transpose_copy(dot(transpose_copy(q), dscores, -2, dtype))
    return dq, dk, dv, None, None


_softmax_attention.defvjp(_softmax_attention_forward, _softmax_attention_backward)
