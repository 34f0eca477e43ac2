"""Attention over a packed window, by one of four implementations.

Documents of a window attend to each other, as in the paper. The letters of dimensions are explained
in `transformer.py`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kstore_jax.errors import UserError
from kstore_jax.model.dropout import keep_mask, keep_prob
from kstore_jax.model.matmul import dot, transpose_copy

_TPU_LANES = 128  # splash attention takes lengths in multiples of it
_MIN_BLOCK, _MAX_BLOCKS = 128, 4  # products of fewer queries are slow on a CPU


def dot_product_attention(
    q_BHxLxK: jax.Array,
    k_BGxMxK: jax.Array,
    v_BGxMxK: jax.Array,
    dtype: str,
    *,
    batch: int = 1,
    lengths: jax.Array | None = None,
    causal: bool = True,
    implementation: str = "dense",
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Returns softmax attention (BH, L, K) float32, with scores scaled by K^-1/2; heads come before
    positions, as `dense` and `splash` need them.

    Args:
      q_BHxLxK: row `b H + h` is head h of text b.
      k_BGxMxK: row `b G + g` is read by the heads g R to (g + 1) R - 1 of text b.
      v_BGxMxK: rows as in the keys.
      dtype: input dtype of the matrix products.
      batch: B; `dense` needs it only together with `lengths`.
      lengths: (B,) int32: tokens of each text; the rest is padding that no position attends to.
      causal: whether a position attends only to itself and earlier ones.
      implementation: as `choose_implementation` takes it.
      dropout: the rate at which attention weights are dropped if there is a `key`.

    Raises:
      UserError: this machine lacks the implementation, or it cannot compute this.
    """
    implementation = choose_implementation(implementation, dtype, q_BHxLxK.shape[-1], dropout)
    if implementation == "dense":
        dropout = 0.0 if key is None else dropout
        if lengths is not None:
            lengths = lengths.repeat(k_BGxMxK.shape[0] // batch)
        return _dense(q_BHxLxK, k_BGxMxK, v_BGxMxK, lengths, dtype, causal, dropout, key)
    q_BxHxLxK, k_BxGxMxK, v_BxGxMxK = (
        x.reshape(batch, -1, *x.shape[1:]).astype(dtype) for x in (q_BHxLxK, k_BGxMxK, v_BGxMxK)
    )
    if implementation == "splash":
        out_BxHxLxK = _splash(q_BxHxLxK, k_BxGxMxK, v_BxGxMxK, lengths, causal)
    else:
        q, k, v = (x.swapaxes(1, 2) for x in (q_BxHxLxK, k_BxGxMxK, v_BxGxMxK))
        out_BxHxLxK = _jax(implementation, q, k, v, lengths, causal).swapaxes(1, 2)
    return out_BxHxLxK.astype(jnp.float32).reshape(q_BHxLxK.shape)


def heads_last_attention(
    q_BxLxHxK: jax.Array,
    k_BxMxGxK: jax.Array,
    v_BxMxGxK: jax.Array,
    dtype: str,
    *,
    lengths: jax.Array | None = None,
    causal: bool = True,
    implementation: str = "dense",
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Returns the same as `dot_product_attention` with positions before heads, (B, L, H, K) in the
    dtype of the queries. `cudnn` and `xla` read and write this layout without a copy."""
    implementation = choose_implementation(implementation, dtype, q_BxLxHxK.shape[-1], dropout)
    if implementation in ("cudnn", "xla"):
        return _jax(implementation, q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, lengths, causal)
    batch, _, heads, width = q_BxLxHxK.shape
    q, k, v = map(heads_first, (q_BxLxHxK, k_BxMxGxK, v_BxMxGxK))
    out_BHxLxK = dot_product_attention(
        q,
        k,
        v,
        dtype,
        batch=batch,
        lengths=lengths,
        causal=causal,
        implementation=implementation,
        dropout=dropout,
        key=key,
    )
    out_BxHxLxK = out_BHxLxK.reshape(batch, heads, -1, width)
    return out_BxHxLxK.swapaxes(1, 2).astype(q_BxLxHxK.dtype)


def heads_first(x: jax.Array) -> jax.Array:
    """(B, L, H, K), or (B, L, G, R, K), -> (BH, L, K) float32."""
    batch, length, *_, width = x.shape
    x_BxHxLxK = x.reshape(batch, length, -1, width).swapaxes(1, 2)
    return x_BxHxLxK.reshape(-1, length, width).astype(jnp.float32)


def split_heads(x_BxLxD: jax.Array, heads: int) -> jax.Array:
    """(B, L, HK) -> (BH, L, K)."""
    batch, length, width = x_BxLxD.shape
    x_BxLxHxK = x_BxLxD.reshape(batch, length, heads, width // heads)
    return x_BxLxHxK.swapaxes(1, 2).reshape(batch * heads, length, width // heads)


def merge_heads(x_BHxLxK: jax.Array, heads: int) -> jax.Array:
    """(BH, L, K) -> (B, L, HK)."""
    rows, length, width = x_BHxLxK.shape
    x_BxHxLxK = x_BHxLxK.reshape(rows // heads, heads, length, width)
    return x_BxHxLxK.swapaxes(1, 2).reshape(rows // heads, length, heads * width)


def attention_weights(
    q_BHxLxK: jax.Array,
    k_BGxLxK: jax.Array,
    dtype: str,
    batch: int,
    lengths: jax.Array | None,
    causal: bool,
) -> jax.Array:
    """Returns the weights (B, H, L, L) float32 of `dense` attention without dropout; those of a
    query sum to 1. Other implementations keep none.

    Args:
      As `dot_product_attention` takes them.
    """
    rows, length, width = k_BGxLxK.shape
    q_BGxRLxK = (q_BHxLxK * width**-0.5).reshape(rows, -1, width)
    lengths_BG = None if lengths is None else lengths.repeat(rows // batch)
    queries = length if causal else None
    weights = _softmax_weights(q_BGxRLxK, k_BGxLxK, lengths_BG, queries, jnp.dtype(dtype))
    return weights.reshape(batch, -1, length, length)


def choose_implementation(
    implementation: str, dtype: str, head_width: int, dropout: float = 0.0
) -> str:
    """Returns the implementation that `model.attention` means on this machine.

    * `dense` keeps the matrix of weights, and reaches the matrix unit of CPUs (`matmul.py`).
    * `xla` and `cudnn` are implementations of `jax.nn.dot_product_attention`.
    * `splash` is JAX's flash attention for TPUs.
    * `auto` is `cudnn` where that is possible, else `dense`.

    Args:
      dropout: `model.attention_dropout`.

    Raises:
      UserError: this machine lacks the implementation, or it cannot compute this; there is no
        fallback.
    """
    missing = _missing(dtype, head_width, dropout)
    auto = "dense" if missing["cudnn"] else "cudnn"
    if implementation == "auto":
        return auto
    if missing[implementation]:
        raise UserError(
            f"model.attention: {implementation} needs {missing[implementation]}; "
            f"auto is {auto} here"
        )
    return implementation


def explain_auto(dtype: str, head_width: int, dropout: float) -> str:
    """Returns what `model.attention=auto` means on this machine, and why."""
    if missing := _missing(dtype, head_width, dropout)["cudnn"]:
        return f"auto is dense, since cudnn needs {missing}"
    return "auto is cudnn, the fastest on NVIDIA GPUs"


def _missing(dtype: str, head_width: int, dropout: float) -> dict[str, str | None]:
    """Returns what each implementation needs and lacks; None: nothing."""
    missing = {
        "dense": None,
        "xla": None,
        "cudnn": _missing_for_cudnn(dtype, head_width),
        "splash": _missing_for_splash(jax.default_backend()),
    }
    if dropout:
        without = "model.attention_dropout = 0"
        missing = {name: lack or without for name, lack in missing.items()} | {"dense": None}
    return missing


def has_cuda() -> bool:
    """Whether JAX computes on an NVIDIA GPU."""
    return jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version


def _missing_for_cudnn(dtype: str, head_width: int) -> str | None:
    if not has_cuda():
        return "an NVIDIA GPU"
    if dtype != "bfloat16":
        return "model.dtype = bfloat16"
    if head_width % 8 or head_width > 128:
        return f"heads of a multiple of 8 and at most 128 dimensions, not {head_width}"
    return None


def _missing_for_splash(backend: str) -> str | None:
    if backend != "tpu":
        return "a TPU"
    if (count := jax.device_count()) > 1:  # XLA does not divide its kernel among devices
        return f"a single TPU device, not {count}"
    return None


def _jax(implementation, q_BxLxHxK, k_BxMxGxK, v_BxMxGxK, lengths, causal: bool) -> jax.Array:
    """JAX's own attention."""
    return jax.nn.dot_product_attention(
        q_BxLxHxK,
        k_BxMxGxK,
        v_BxMxGxK,
        is_causal=causal,
        implementation=implementation,
        key_value_seq_lengths=lengths,
    )


def _splash(
    q_BxHxLxK, k_BxGxLxK, v_BxGxLxK, lengths, causal: bool, interpret: bool = False
) -> jax.Array:
    """JAX's flash attention for TPUs; `interpret` runs it without one.

    Texts are padded to a length that it takes. The padding is a document of its own.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    heads, length, width = q_BxHxLxK.shape[1:]
    pad = -length % _TPU_LANES
    padded_length = length + pad
    q_k_v = (
        jnp.pad(x, ((0, 0), (0, 0), (0, pad), (0, 0)))
        for x in (q_BxHxLxK * width**-0.5, k_BxGxLxK, v_BxGxLxK)
    )
    mask = (splash.CausalMask if causal else splash.FullMask)((padded_length, padded_length))
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads), head_shards=1, q_seq_shards=1, interpret=interpret
    )
    ends_B = jnp.full(q_BxHxLxK.shape[0], length) if lengths is None else lengths
    document_BxL = (jnp.arange(padded_length)[None] >= ends_B[:, None]).astype(jnp.int32)
    segments = splash.SegmentIds(document_BxL, document_BxL)
    out_BxHxLxK: Any = jax.vmap(kernel)(*q_k_v, segments)
    return out_BxHxLxK[:, :, :length]


def _dense(
    q_BHxLxK, k_BGxMxK, v_BGxMxK, lengths_BG, dtype: str, causal: bool, dropout: float, key
) -> jax.Array:
    """The R heads that share a key are rows of one product, of R L queries and M keys.

    Causal attention is computed block by block of queries, each with the keys up to its end: later
    keys have weight 0.
    """
    rows, _, width = k_BGxMxK.shape
    length = q_BHxLxK.shape[1]
    if dropout:
        v_BGxMxK = v_BGxMxK / keep_prob(dropout)
    q_BGxRxLxK = (q_BHxLxK * width**-0.5).reshape(rows, -1, length, width)
    blocks = []
    for start, end in _query_blocks(length) if causal else [(0, length)]:
        q = q_BGxRxLxK[:, :, start:end].reshape(rows, -1, width)
        k, v = (x[:, :end] if causal else x for x in (k_BGxMxK, v_BGxMxK))
        mask = None
        if dropout:
            mask = keep_mask(jax.random.fold_in(key, start), dropout, (*q.shape[:2], k.shape[1]))
        causal_queries = end - start if causal else None
        out: Any = _softmax_attention(q, k, v, mask, lengths_BG, causal_queries, jnp.dtype(dtype))
        blocks.append(out.reshape(rows, -1, end - start, width))
    return jnp.concatenate(blocks, axis=2).reshape(q_BHxLxK.shape)


def _query_blocks(length: int) -> list[tuple[int, int]]:
    """Returns the start and end of each block of queries."""
    size = -(-length // max(1, min(_MAX_BLOCKS, length // _MIN_BLOCK)))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _softmax_attention(q, k, v, mask, lengths, causal_queries, dtype) -> jax.Array:
    """Returns attention (rows, queries, K) for q (rows, queries, K), and k and v (rows, keys, K).

    Args:
      mask: (rows, queries, keys) bool: the weights that dropout keeps; None: all.
      lengths: (rows,) keys that are text; None: all.
      causal_queries: the number of queries of one head, if causal: the last of them attends to all
        keys, the one before it to all but the last key, and so on.
    """
    return _softmax_attention_forward(q, k, v, mask, lengths, causal_queries, dtype)[0]


def _softmax_attention_forward(q, k, v, mask, lengths, causal_queries, dtype):
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    weights = _softmax_weights(q, k, lengths, causal_queries, dtype)
    kept_weights = (weights if mask is None else jnp.where(mask, weights, 0.0)).astype(dtype)
    out = dot(kept_weights, v, -2, dtype)
    return out, (q, k, v, weights.astype(dtype), kept_weights, mask, out.astype(dtype))


def _softmax_weights(q, k, lengths, causal_queries, dtype) -> jax.Array:
    """Returns the weights (rows, queries, keys) float32 of `_softmax_attention`."""
    scores = dot(q, k, -1, dtype)
    keys = k.shape[1]
    if causal_queries is not None:
        visible = jnp.tril(jnp.ones((causal_queries, keys), bool), keys - causal_queries)
        visible = jnp.tile(visible, (q.shape[1] // causal_queries, 1))
        scores = jnp.where(visible[None], scores, jnp.finfo(jnp.float32).min)
    if lengths is not None:
        is_text = jnp.arange(keys)[None] < lengths[:, None]
        scores = jnp.where(is_text[:, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def _softmax_attention_backward(causal_queries, dtype, saved, dout):
    q, k, v, weights, kept_weights, mask, out = saved
    dout = dout.astype(dtype)
    dv = transpose_copy(dot(transpose_copy(dout), kept_weights, -2, dtype))
    dweights = dot(dout, v, -1, dtype)
    if mask is not None:
        dweights = jnp.where(mask, dweights, 0.0)
    row = (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    dscores = (weights.astype(jnp.float32) * (dweights - row)).astype(dtype)
    dq = dot(dscores, k, -2, dtype)
    dk = transpose_copy(dot(transpose_copy(q), dscores, -2, dtype))
    return dq, dk, dv, None, None


_softmax_attention.defvjp(_softmax_attention_forward, _softmax_attention_backward)
