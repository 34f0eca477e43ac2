"""The network: pre-norm blocks that compute, by configuration, GPT-2 with rotary positions (the
paper's), plain GPT-2, Llama or Mistral, each causal or bidirectional.

Letters of dimensions, in names such as `x_BxLxD` and in docstrings, one meaning in the whole
package. Two letters side by side are a product: BH is B * H rows, in the order of the texts.

| the network | | data, training, readouts | |
|---|---|---|---|
| B | texts in a batch | N | texts in a data set, or all rows of an array |
| L | positions of a text | S | spans of a text |
| M | positions of keys and values: L, or the length of the cache | J | tokens of a span |
| D | width of the residual stream | P | positions of a text that are predicted |
| H | query heads | Q | positions of a text that a probe reads |
| G | key and value heads | T | tasks (probes), each with its own update and head |
| R | query heads that share a key and value head: H / G | C | classes of a task |
| K | width of a head | A | attributes of a person |
| F | hidden width of the MLP | W | beams |
| V | vocabulary: rows of the embedding | I, O | inputs and outputs of a matrix |
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from kstore_jax.errors import UserError
from kstore_jax.model.attention import dot_product_attention
from kstore_jax.model.base import ARCHITECTURES, Architecture
from kstore_jax.model.cache import update_cache
from kstore_jax.model.config import Network
from kstore_jax.model.dropout import keep_mask, keep_prob
from kstore_jax.model.hf_layouts import HF_LAYOUTS
from kstore_jax.model.matmul import dense


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape(Network):
    """The configuration of a network and its vocabulary: all that its parameters and computation
    depend on. Hashable, a static argument of compiled functions.

    Attributes:
      vocabulary: rows of the embedding.
      dtype: input dtype of matrix products, `float32` or `bfloat16`.
    """

    vocabulary: int
    dtype: str = "float32"

    @classmethod
    def of(cls, network: Network, vocabulary: int) -> "Shape":
        """Returns the shape of a configured network whose `dtype` is no longer `auto`."""
        fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(Network)}
        return cls(vocabulary=vocabulary, **fields)

    @property
    def resolved_mlp_width(self) -> int:
        """F: `mlp_width`, or the default of the activation where that is 0."""
        if self.mlp_width:
            return self.mlp_width
        return 4 * self.width if self.activation == "gelu" else -(-8 * self.width // 192) * 64


class Dense(nn.Module):
    """A linear layer; `init_std` is the standard deviation of its initial kernel."""

    features: int
    init_std: float
    shape: Shape

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        normal = nn.initializers.normal(self.init_std)
        kernel = self.param("kernel", normal, (x.shape[-1], self.features))
        bias = None
        if self.shape.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return dense(x, kernel, bias, jnp.dtype(self.shape.dtype))


def _norm(shape: Shape, name: str) -> nn.LayerNorm | nn.RMSNorm:
    norm = nn.LayerNorm if shape.norm == "layer" else nn.RMSNorm
    return norm(epsilon=shape.norm_epsilon, name=name)


class Block(nn.Module):
    """Attention and MLP, added to the residual stream. Before each: a norm, and the architecture's
    layer, if it has one there."""

    shape: Shape

    @nn.compact
    def __call__(self, x_BxLxD, cos_sin, lengths_B, cache_positions_B) -> jax.Array:
        s = self.shape
        residual_init_std = s.init_std / (2 * s.layers) ** 0.5
        texts = lengths_B, cache_positions_B
        y_BxLxD = self._before("attention", _norm(s, "ln_1")(x_BxLxD), *texts)
        y_BxLxD = self._attention(y_BxLxD, cos_sin, *texts)
        y_BxLxD = Dense(s.width, residual_init_std, s, name="out")(y_BxLxD)
        x_BxLxD += apply_dropout(self, y_BxLxD)
        h_BxLxF = self._mlp_hidden(self._before("mlp", _norm(s, "ln_2")(x_BxLxD), *texts))
        y_BxLxD = Dense(s.width, residual_init_std, s, name="down")(h_BxLxF)
        return x_BxLxD + apply_dropout(self, y_BxLxD)

    def _before(self, place: str, y_BxLxD, lengths_B, cache_positions_B) -> jax.Array:
        """Applies the architecture's layer before `attention` or `mlp`."""
        architecture = ARCHITECTURES.of(self.shape.architecture)
        if (layer := getattr(architecture, f"before_{place}")) is None:
            return y_BxLxD
        name = f"{architecture.name}_{place}"
        return layer(self.shape, name=name)(y_BxLxD, lengths_B, cache_positions_B)

    def _attention(self, y_BxLxD, cos_sin, lengths_B, cache_positions_B) -> jax.Array:
        s = self.shape
        head_width = s.width // s.heads
        causal, implementation = s.direction == "causal", s.attention
        q_BHxLxK, k_BGxLxK, v_BGxLxK = (
            _split_heads(Dense(heads * head_width, s.init_std, s, name=name)(y_BxLxD), heads)
            for name, heads in (("query", s.heads), ("key", s.kv_heads), ("value", s.kv_heads))
        )
        q_BHxLxK, k_BGxLxK = apply_rotary(q_BHxLxK, cos_sin), apply_rotary(k_BGxLxK, cos_sin)
        k_BGxMxK, v_BGxMxK = k_BGxLxK, v_BGxLxK
        if cache_positions_B is not None:
            cached_k = update_cache(self, "keys", k_BGxLxK, cache_positions_B)
            cached_v = update_cache(self, "values", v_BGxLxK, cache_positions_B)
            if y_BxLxD.shape[1] == 1:  # one new token, which sees all of its text so far
                k_BGxMxK, v_BGxMxK, lengths_B = cached_k, cached_v, cache_positions_B + 1
                causal, implementation = False, "dense"
        y_BHxLxK = dot_product_attention(
            q_BHxLxK,
            k_BGxMxK,
            v_BGxMxK,
            s.dtype,
            batch=y_BxLxD.shape[0],
            lengths=lengths_B,
            causal=causal,
            implementation=implementation,
            dropout=s.dropout,
            key=self.make_rng("dropout") if s.dropout and self.has_rng("dropout") else None,
        )
        return _merge_heads(y_BHxLxK, s.heads)

    def _mlp_hidden(self, y_BxLxD) -> jax.Array:
        """The activations (B, L, F) between the two matrices of the MLP."""
        s = self.shape
        up = Dense(s.resolved_mlp_width, s.init_std, s, name="up")
        if s.activation == "gelu":
            return gelu(up(y_BxLxD))
        gate_BxLxF = Dense(s.resolved_mlp_width, s.init_std, s, name="gate")(y_BxLxD)
        return jax.nn.silu(gate_BxLxF) * up(y_BxLxD)


def apply_dropout(module: nn.Module, x: jax.Array) -> jax.Array:
    """Returns `x` with the dropout of `module.shape`, or `x` itself in a forward without a key."""
    rate = module.shape.dropout
    if not rate or not module.has_rng("dropout"):
        return x
    mask = keep_mask(module.make_rng("dropout"), rate, x.shape)
    return jnp.where(mask, x / keep_prob(rate), 0.0)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """GPT-2's GELU (the tanh form), written with one exponential: x * sigmoid(2 z).

    Its gradient recomputes the exponential, which costs less than writing the intermediate values
    to memory and reading them again.
    """
    return x * _gate(x)


def _gate(x):
    return jax.nn.sigmoid(2 * 0.7978845608028654 * (x + 0.044715 * x * x * x))


def _gelu_backward(x, dy):
    gate = _gate(x)
    slope = 2 * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x)
    return (dy * (gate + x * gate * (1 - gate) * slope),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def _split_heads(x_BxLxD: jax.Array, heads: int) -> jax.Array:
    """(B, L, HK) -> (BH, L, K)."""
    batch, length, width = x_BxLxD.shape
    x_BxLxHxK = x_BxLxD.reshape(batch, length, heads, width // heads)
    return x_BxLxHxK.swapaxes(1, 2).reshape(batch * heads, length, width // heads)


def _merge_heads(x_BHxLxK: jax.Array, heads: int) -> jax.Array:
    """(BH, L, K) -> (B, L, HK)."""
    rows, length, width = x_BHxLxK.shape
    x_BxHxLxK = x_BHxLxK.reshape(rows // heads, heads, length, width)
    return x_BxHxLxK.swapaxes(1, 2).reshape(rows // heads, length, heads * width)


@dataclasses.dataclass(frozen=True)
class Plain:
    """The transformer without additions."""


@ARCHITECTURES.register
class PlainTransformer(Architecture):
    """The transformer without additions."""

    name, Config = "transformer", Plain
    sharding = dict.fromkeys(  # `out` and `down` read what the tensor axis divides
        ("embedding", "unembedding", "out/kernel", "down/kernel"), ("tensor", "fsdp")
    )
    hf_layouts = HF_LAYOUTS


class Transformer(nn.Module):
    """tokens (B, L) int32 -> hidden states (B, L, D) of the last layer, after the final norm.

    Args of a call:
      lengths_B: tokens of each text; the rest of L is padding that no position attends to.
      cache_positions_B: where the keys and values of each text's tokens go in the cache: 0 for the
        beginning of a text; for one token, the number of tokens before it.

    Raises:
      UserError: the texts are longer than `max_positions`, with learned positions.
    """

    shape: Shape

    @nn.compact
    def __call__(self, tokens_BxL, lengths_B=None, cache_positions_B=None) -> jax.Array:
        s = self.shape
        length = tokens_BxL.shape[1]
        normal = nn.initializers.normal(s.init_std)
        embedding_VxD = self.param("embedding", normal, (s.vocabulary, s.width))
        if not s.tie_embeddings and self.is_initializing():
            self.param("unembedding", normal, (s.vocabulary, s.width))  # for `unembed`
        x_BxLxD = embedding_VxD[tokens_BxL]
        positions_BxL = jnp.arange(length)[None]
        if cache_positions_B is not None and length == 1:
            positions_BxL = cache_positions_B[:, None]
        rotary_dims = 0
        if s.positions == "rotary":
            rotary_dims = int(s.rotary_pct * s.width / s.heads)
        elif length > s.max_positions:
            raise UserError(
                f"model.max_positions: expected at least the text's {length}, got {s.max_positions}"
            )
        else:
            x_BxLxD += self.param("positions", normal, (s.max_positions, s.width))[positions_BxL]
        cos_sin = rotary_cos_sin(positions_BxL, rotary_dims, s.rotary_base)
        x_BxLxD = apply_dropout(self, x_BxLxD)
        for layer in range(s.layers):
            block = Block(s, name=f"block_{layer}")
            x_BxLxD = block(x_BxLxD, cos_sin, lengths_B, cache_positions_B)
        return _norm(s, "ln_f")(x_BxLxD)


def rotary_cos_sin(
    positions_BxL: jax.Array, rotary_dims: int, base: float
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines (B, L, rotary_dims) of the GPT-NeoX rotary embedding, where dimension i
    turns with dimension i + rotary_dims / 2. B is 1 where all texts have the same positions."""
    frequencies = base ** (-jnp.arange(0, rotary_dims, 2, dtype=jnp.float32) / max(rotary_dims, 1))
    angles = positions_BxL.astype(jnp.float32)[:, :, None] * frequencies[None, None]
    angles = jnp.concatenate([angles, angles], axis=2)
    return jnp.cos(angles), jnp.sin(angles)


def apply_rotary(x_BHxLxK: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the first dimensions of each head by its position; the others stay as they are."""
    texts = cos_sin[0].shape[0]
    heads = len(x_BHxLxK) // texts if texts > 1 else 1
    cos, sin = (table.repeat(heads, 0) for table in cos_sin)
    rotary_dims = cos.shape[-1]
    if not rotary_dims:
        return x_BHxLxK
    rotated, rest = x_BHxLxK[..., :rotary_dims], x_BHxLxK[..., rotary_dims:]
    first, second = jnp.split(rotated, 2, axis=-1)
    rotated = rotated * cos + jnp.concatenate([-second, first], axis=-1) * sin
    return jnp.concatenate([rotated, rest], axis=-1)
