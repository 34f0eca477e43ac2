"""The network as it was when the recorded results were made, kept to be compared bit for bit.

Not to be changed with the network. Of the package it uses the products of `matmul.py` alone.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from kstore_jax.model.matmul import dense, dot, transpose_copy

_ROTARY_BASE = 10_000.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """Everything that fixes the parameters and the computation of a Transformer.

    `rotary_pct`: the rotated part of each head, GPT-NeoX style. `dtype`: of the inputs of products.
    """

    vocabulary: int
    layers: int
    heads: int
    width: int
    rotary_pct: float = 0.25
    init_std: float = 0.02
    dtype: str = "float32"


class Dense(nn.Module):
    features: int
    scale: float
    dtype: str

    @nn.compact
    def __call__(self, x):
        kernel = self.param(
            "kernel", nn.initializers.normal(self.scale), (x.shape[-1], self.features)
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return dense(x, kernel, bias, jnp.dtype(self.dtype))


class Block(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self, x_BxLxD, rotation):
        s = self.shape
        into_residual = s.init_std / (2 * s.layers) ** 0.5
        y_BxLxD = nn.LayerNorm(epsilon=1e-5, name="ln_1")(x_BxLxD)
        q_NxLxK, k_NxLxK, v_NxLxK = (
            _to_heads(Dense(s.width, s.init_std, s.dtype, name=name)(y_BxLxD), s.heads)
            for name in ("query", "key", "value")
        )
        y_NxLxK = attend(rotate(q_NxLxK, rotation), rotate(k_NxLxK, rotation), v_NxLxK, s.dtype)
        y_BxLxD = _from_heads(y_NxLxK, s.heads)
        x_BxLxD += Dense(s.width, into_residual, s.dtype, name="out")(y_BxLxD)
        y_BxLxD = nn.LayerNorm(epsilon=1e-5, name="ln_2")(x_BxLxD)
        h_BxLxF = gelu(Dense(4 * s.width, s.init_std, s.dtype, name="up")(y_BxLxD))
        return x_BxLxD + Dense(s.width, into_residual, s.dtype, name="down")(h_BxLxF)


def gelu(x: jax.Array) -> jax.Array:
    """GPT-2's GELU, the tanh form, written with one exponential: x * sigmoid(2 z)."""
    z = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x * jax.nn.sigmoid(2 * z)


def _to_heads(x_BxLxD: jax.Array, heads: int) -> jax.Array:
    """(B, L, H K) -> (B H, L, K)."""
    batch, length, width = x_BxLxD.shape
    x_BxLxHxK = x_BxLxD.reshape(batch, length, heads, width // heads)
    return x_BxLxHxK.swapaxes(1, 2).reshape(batch * heads, length, width // heads)


def _from_heads(x_NxLxK: jax.Array, heads: int) -> jax.Array:
    """(B H, L, K) -> (B, L, H K)."""
    rows, length, width = x_NxLxK.shape
    x_BxHxLxK = x_NxLxK.reshape(rows // heads, heads, length, width)
    return x_BxHxLxK.swapaxes(1, 2).reshape(rows // heads, length, heads * width)


class Transformer(nn.Module):
    """tokens (B, L) int32 -> hidden states of the last layer, after the final norm (B, L, D)."""

    shape: Shape

    @nn.compact
    def __call__(self, tokens_BxL):
        s = self.shape
        embedding_VxD = self.param(
            "embedding", nn.initializers.normal(s.init_std), (s.vocabulary, s.width)
        )
        x_BxLxD = embedding_VxD[tokens_BxL]
        rotation = rotary_angles(tokens_BxL.shape[1], int(s.rotary_pct * s.width / s.heads))
        for layer in range(s.layers):
            x_BxLxD = Block(s, name=f"block_{layer}")(x_BxLxD, rotation)
        return nn.LayerNorm(epsilon=1e-5, name="ln_f")(x_BxLxD)


def rotary_angles(length: int, rotated: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines (length, rotated) of the GPT-NeoX rotary embedding, base 10,000."""
    frequency = _ROTARY_BASE ** (-jnp.arange(0, rotated, 2, dtype=jnp.float32) / max(rotated, 1))
    angle = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency[None, :]
    angle = jnp.concatenate([angle, angle], axis=1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_NxLxK: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the first dimensions of each head by its position; the others pass unchanged."""
    cos, sin = (table[None] for table in rotation)
    rotated = cos.shape[-1]
    if not rotated:
        return x_NxLxK
    turned, passed = x_NxLxK[..., :rotated], x_NxLxK[..., rotated:]
    first, second = jnp.split(turned, 2, axis=-1)
    turned = turned * cos + jnp.concatenate([-second, first], axis=-1) * sin
    return jnp.concatenate([turned, passed], axis=-1)


def attend(q_NxLxK: jax.Array, k_NxLxK: jax.Array, v_NxLxK: jax.Array, dtype: str) -> jax.Array:
    """Softmax attention, causal: (N, L, K) float32. `dtype`: of the inputs of the products."""
    return _attend(q_NxLxK * q_NxLxK.shape[-1] ** -0.5, k_NxLxK, v_NxLxK, jnp.dtype(dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(q, k, v, dtype):
    return _attend_forward(q, k, v, dtype)[0]


def _attend_forward(q, k, v, dtype):
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    length = q.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    scores_NxLxM = jnp.where(causal[None], dot(q, k, -1, dtype), jnp.finfo(jnp.float32).min)
    weights_NxLxM = jax.nn.softmax(scores_NxLxM, axis=-1).astype(dtype)
    out = dot(weights_NxLxM, v, -2, dtype)
    return out, (q, k, v, weights_NxLxM, out.astype(dtype))


def _attend_backward(dtype, saved, dout):
    q, k, v, weights, out = saved
    dout = dout.astype(dtype)
    dv = transpose_copy(dot(transpose_copy(dout), weights, -2, dtype))
    dweights = dot(dout, v, -1, dtype)
    row = (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    dscores = (weights.astype(jnp.float32) * (dweights - row)).astype(dtype)
    dq = dot(dscores, k, -2, dtype)
    dk = transpose_copy(dot(transpose_copy(q), dscores, -2, dtype))
    return dq, dk, dv


_attend.defvjp(_attend_forward, _attend_backward)
