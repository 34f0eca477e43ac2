"""The network: a pre-LN decoder with rotary positions and tied embedding (the paper's GPT-2).

Shapes in names: B batch, L length, D width, H heads, K head width, F feed-forward, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from kstore_jax.model.attention import attend
from kstore_jax.model.matmul import dense

_ROTARY_BASE = 10_000.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """Everything that fixes the parameters and the computation of a Transformer.

    `rotary`: the rotated part of each head, GPT-NeoX style. `dtype`: of the inputs of products.
    """

    vocabulary: int
    layers: int
    heads: int
    width: int
    rotary: float = 0.25
    init_scale: float = 0.02
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
        into_residual = s.init_scale / (2 * s.layers) ** 0.5
        y_BxLxD = nn.LayerNorm(epsilon=1e-5, name="ln_1")(x_BxLxD)
        q_BxLxHxK, k_BxLxHxK, v_BxLxHxK = (
            Dense(s.width, s.init_scale, s.dtype, name=name)(y_BxLxD).reshape(
                *y_BxLxD.shape[:2], s.heads, s.width // s.heads
            )
            for name in ("query", "key", "value")
        )
        y_BxLxHxK = attend(
            rotate(q_BxLxHxK, rotation), rotate(k_BxLxHxK, rotation), v_BxLxHxK, s.dtype
        )
        y_BxLxD = y_BxLxHxK.reshape(x_BxLxD.shape)
        x_BxLxD += Dense(s.width, into_residual, s.dtype, name="out")(y_BxLxD)
        y_BxLxD = nn.LayerNorm(epsilon=1e-5, name="ln_2")(x_BxLxD)
        h_BxLxF = nn.gelu(Dense(4 * s.width, s.init_scale, s.dtype, name="up")(y_BxLxD))
        return x_BxLxD + Dense(s.width, into_residual, s.dtype, name="down")(h_BxLxF)


class Transformer(nn.Module):
    """tokens (B, L) int32 -> hidden states of the last layer, after the final norm (B, L, D)."""

    shape: Shape

    @nn.compact
    def __call__(self, tokens_BxL):
        s = self.shape
        embedding_VxD = self.param(
            "embedding", nn.initializers.normal(s.init_scale), (s.vocabulary, s.width)
        )
        x_BxLxD = embedding_VxD[tokens_BxL]
        rotation = rotary_angles(tokens_BxL.shape[1], int(s.rotary * s.width / s.heads))
        for layer in range(s.layers):
            x_BxLxD = Block(s, name=f"block_{layer}")(x_BxLxD, rotation)
        return nn.LayerNorm(epsilon=1e-5, name="ln_f")(x_BxLxD)


def rotary_angles(length: int, rotated: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines (length, rotated) of the GPT-NeoX rotary embedding, base 10,000."""
    frequency = _ROTARY_BASE ** (-jnp.arange(0, rotated, 2, dtype=jnp.float32) / max(rotated, 1))
    angle = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency[None, :]
    angle = jnp.concatenate([angle, angle], axis=1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BxLxHxK: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the first dimensions of each head by its position; the others pass unchanged."""
    cos, sin = (t[None, :, None, :] for t in rotation)
    rotated = cos.shape[-1]
    if not rotated:
        return x_BxLxHxK
    turned, passed = x_BxLxHxK[..., :rotated], x_BxLxHxK[..., rotated:]
    first, second = jnp.split(turned, 2, axis=-1)
    turned = turned * cos + jnp.concatenate([-second, first], axis=-1) * sin
    return jnp.concatenate([turned, passed], axis=-1)
