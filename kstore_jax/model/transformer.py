"""The network: pre-norm blocks whose configuration gives GPT-2 with rotary positions (the paper's),
plain GPT-2, Llama, Mistral, and each of them bidirectional.

Shapes in names: B batch, L length, D width, H heads, G key and value heads, K head width,
F feed-forward, V vocabulary, C longest text with learned positions; N = B H, M = B G.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kstore_jax.errors import UserError
from kstore_jax.model.attention import dot_product_attention
from kstore_jax.model.config import Network
from kstore_jax.model.dropout import keep_mask, keep_prob
from kstore_jax.model.matmul import dense


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape(Network):
    """Everything that fixes the parameters and the computation of a Transformer.

    Attributes:
      vocabulary: rows of the embedding.
      dtype: of the inputs of products, `float32` or `bfloat16`.
    """

    vocabulary: int
    dtype: str = "float32"

    @classmethod
    def of(cls, network: Network, vocabulary: int) -> "Shape":
        """The shape of a configured network, whose `dtype` is decided."""
        fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(Network)}
        return cls(vocabulary=vocabulary, **fields)

    @property
    def resolved_mlp_width(self) -> int:
        """The width between the two halves of a block's second part."""
        if self.mlp_width:
            return self.mlp_width
        return 4 * self.width if self.activation == "gelu" else -(-8 * self.width // 192) * 64


class Dense(nn.Module):
    """The products of all blocks; `scale`: standard deviation of the initial kernel."""

    features: int
    scale: float
    shape: Shape

    @nn.compact
    def __call__(self, x):
        kernel = self.param(
            "kernel", nn.initializers.normal(self.scale), (x.shape[-1], self.features)
        )
        bias = None
        if self.shape.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return dense(x, kernel, bias, jnp.dtype(self.shape.dtype))


def _norm(shape: Shape, name: str) -> nn.Module:
    kind = nn.LayerNorm if shape.norm == "layer" else nn.RMSNorm
    return kind(epsilon=shape.norm_epsilon, name=name)


class Block(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self, x_BxLxD, rotation, lengths_B, cache_positions_B):
        s = self.shape
        residual_init_std = s.init_std / (2 * s.layers) ** 0.5
        y_BxLxD = self._attention(_norm(s, "ln_1")(x_BxLxD), rotation, lengths_B, cache_positions_B)
        x_BxLxD += apply_dropout(self, Dense(s.width, residual_init_std, s, name="out")(y_BxLxD))
        h_BxLxF = self._mlp_hidden(_norm(s, "ln_2")(x_BxLxD))
        return x_BxLxD + apply_dropout(
            self, Dense(s.width, residual_init_std, s, name="down")(h_BxLxF)
        )

    def _attention(self, y_BxLxD, rotation, lengths_B, cache_positions_B):
        s = self.shape
        head_width = s.width // s.heads
        causal, implementation = s.direction == "causal", s.attention
        q_NxLxK, k_MxLxK, v_MxLxK = (
            _to_heads(Dense(heads * head_width, s.init_std, s, name=name)(y_BxLxD), heads)
            for name, heads in (("query", s.heads), ("key", s.kv_heads), ("value", s.kv_heads))
        )
        q_NxLxK, k_MxLxK = apply_rotary(q_NxLxK, rotation), apply_rotary(k_MxLxK, rotation)
        if cache_positions_B is not None:
            keys_MxTxK = self._update_kv_cache("keys", k_MxLxK, cache_positions_B)
            values_MxTxK = self._update_kv_cache("values", v_MxLxK, cache_positions_B)
            if y_BxLxD.shape[1] == 1:
                k_MxLxK, v_MxLxK, lengths_B = keys_MxTxK, values_MxTxK, cache_positions_B + 1
                causal, implementation = False, "dense"
        y_NxLxK = dot_product_attention(
            q_NxLxK,
            k_MxLxK,
            v_MxLxK,
            s.dtype,
            batch=y_BxLxD.shape[0],
            lengths=lengths_B,
            causal=causal,
            implementation=implementation,
            dropout=s.dropout,
            key=self.make_rng("dropout") if s.dropout and self.has_rng("dropout") else None,
        )
        return _from_heads(y_NxLxK, s.heads)

    def _update_kv_cache(self, name: str, new_MxLxK, cache_positions_B) -> jax.Array:
        """The keys or values of the text so far (M, T, K), with new ones at each row's place."""
        cache: Any = self.variable("cache", name, lambda: None)
        starts_M = cache_positions_B.repeat(self.shape.kv_heads)
        write = jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice(old, new, (at, 0)))
        cache.value = write(cache.value, new_MxLxK, starts_M)
        return cache.value

    def _mlp_hidden(self, y_BxLxD):
        s = self.shape
        if s.activation == "gelu":
            return gelu(Dense(s.resolved_mlp_width, s.init_std, s, name="up")(y_BxLxD))
        gate_BxLxF = Dense(s.resolved_mlp_width, s.init_std, s, name="gate")(y_BxLxD)
        return jax.nn.silu(gate_BxLxF) * Dense(s.resolved_mlp_width, s.init_std, s, name="up")(
            y_BxLxD
        )


def apply_dropout(module: nn.Module, x: jax.Array) -> jax.Array:
    """`x` with the dropout of `module.shape`, where the network was given a key for it."""
    rate = module.shape.dropout
    if not rate or not module.has_rng("dropout"):
        return x
    stays = keep_mask(module.make_rng("dropout"), rate, x.shape)
    return jnp.where(stays, x / keep_prob(rate), 0.0)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """GPT-2's GELU, the tanh form, written with one exponential: x * sigmoid(2 z).

    Its gradient computes the exponential anew: cheaper than to write down and read again the parts
    that would be kept of it.
    """
    return x * _gate(x)


def _gate(x):
    return jax.nn.sigmoid(2 * 0.7978845608028654 * (x + 0.044715 * x * x * x))


def _gelu_backward(x, dy):
    gate = _gate(x)
    slope = 2 * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x)
    return (dy * (gate + x * gate * (1 - gate) * slope),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


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
    """tokens (B, L) int32 -> hidden states of the last layer, after the final norm (B, L, D).

    `lengths` (B,): how much of each text is there, where something fills it up to L. `places` (B,):
    where each row's tokens go in the cache of keys and values: 0 for the beginning of a text, or
    how much of it was read before, where there is one token a row.
    """

    shape: Shape

    @nn.compact
    def __call__(self, tokens_BxL, lengths_B=None, cache_positions_B=None):
        s = self.shape
        length = tokens_BxL.shape[1]
        table = nn.initializers.normal(s.init_std)
        embedding_VxD = self.param("embedding", table, (s.vocabulary, s.width))
        if not s.tie_embeddings and self.is_initializing():
            self.param("unembedding", table, (s.vocabulary, s.width))  # for `unembed`
        x_BxLxD = embedding_VxD[tokens_BxL]
        at_BxL = jnp.arange(length)[None]
        if cache_positions_B is not None and length == 1:
            at_BxL = cache_positions_B[:, None]
        rotated = 0
        if s.positions == "rotary":
            rotated = int(s.rotary_pct * s.width / s.heads)
        elif length > s.max_positions:
            raise UserError(
                f"model.max_positions: expected at least the text's {length}, got {s.max_positions}"
            )
        else:
            x_BxLxD += self.param("positions", table, (s.max_positions, s.width))[at_BxL]
        rotation = rotary_cos_sin(at_BxL, rotated, s.rotary_base)
        x_BxLxD = apply_dropout(self, x_BxLxD)
        for layer in range(s.layers):
            x_BxLxD = Block(s, name=f"block_{layer}")(
                x_BxLxD, rotation, lengths_B, cache_positions_B
            )
        return _norm(s, "ln_f")(x_BxLxD)


def rotary_cos_sin(at_BxL: jax.Array, rotated: int, base: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines (B, L, rotated) of the GPT-NeoX rotary embedding (half-split pairs) of
    positions; B is 1 where all rows have the same."""
    frequency = base ** (-jnp.arange(0, rotated, 2, dtype=jnp.float32) / max(rotated, 1))
    angle = at_BxL.astype(jnp.float32)[:, :, None] * frequency[None, None]
    angle = jnp.concatenate([angle, angle], axis=2)
    return jnp.cos(angle), jnp.sin(angle)


def apply_rotary(x_NxLxK: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the first dimensions of each head by its position; the others pass unchanged."""
    rows = rotation[0].shape[0]
    cos, sin = (table.repeat(len(x_NxLxK) // rows if rows > 1 else 1, 0) for table in rotation)
    rotated = cos.shape[-1]
    if not rotated:
        return x_NxLxK
    turned, passed = x_NxLxK[..., :rotated], x_NxLxK[..., rotated:]
    first, second = jnp.split(turned, 2, axis=-1)
    turned = turned * cos + jnp.concatenate([-second, first], axis=-1) * sin
    return jnp.concatenate([turned, passed], axis=-1)
