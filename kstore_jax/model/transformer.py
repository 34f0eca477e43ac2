"""The network: pre-norm blocks that compute, by configuration, GPT-2 with rotary positions (the
paper's), plain GPT-2, GPT-NeoX, Llama, Mistral or Qwen, each causal or bidirectional.

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
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from kstore_jax.errors import UserError
from kstore_jax.model.attention import (
    attention_weights,
    dot_product_attention,
    heads_first,
    heads_last_attention,
    merge_heads,
    split_heads,
)
from kstore_jax.model.base import ARCHITECTURES, Architecture
from kstore_jax.model.cache import update_cache
from kstore_jax.model.config import Network
from kstore_jax.model.dropout import keep_mask, keep_prob
from kstore_jax.model.hf_layouts import HF_LAYOUTS
from kstore_jax.model.matmul import dense, in_float32
from kstore_jax.model.rotary import apply_rotary, apply_rotary_heads_last, rotary_cos_sin
from kstore_jax.model.taps import tap_attention, tap_residual


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape(Network):
    """The configuration of a network and its vocabulary: all that its parameters and computation
    depend on. Hashable, a static argument of compiled functions.

    Attributes:
      vocabulary: rows of the embedding.
      dtype: input dtype of matrix products, `float32` or `bfloat16`.
      activation_dtype: dtype of activations. It is the dtype of the embedded tokens; every function
        after that returns the dtype it gets.
    """

    vocabulary: int
    dtype: str = "float32"
    activation_dtype: str = "float32"

    @classmethod
    def of(cls, network: Network, vocabulary: int) -> "Shape":
        """Returns the shape of a configured network whose dtypes are no longer `auto`."""
        fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(Network)}
        return cls(vocabulary=vocabulary, **fields)

    @property
    def resolved_mlp_width(self) -> int:
        """F: `mlp_width`, or the default of the activation where that is 0."""
        if self.mlp_width:
            return self.mlp_width
        return -(-8 * self.width // 192) * 64 if self.activation == "swiglu" else 4 * self.width


class Dense(nn.Module):
    """A linear layer; `init_std` is the standard deviation of its initial kernel."""

    features: int
    init_std: float
    shape: Shape
    bias: bool | None = None  # `shape.bias` where None

    def __call__(self, x: jax.Array) -> jax.Array:
        return dense(x, *self.weights(x.shape[-1]), jnp.dtype(self.shape.dtype))

    @nn.compact
    def weights(self, inputs: int) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel (I, O) and the bias (O,), None where there is none."""
        normal = nn.initializers.normal(self.init_std)
        kernel = self.param("kernel", normal, (inputs, self.features))
        if not (self.shape.bias if self.bias is None else self.bias):
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


def apply_norm(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Returns the norm `name` of a module, computed in float32; of bfloat16 it keeps `x` alone for
    the gradient, as `in_float32` does."""
    shape: Shape = module.shape

    def _norm(_: nn.Module, x: jax.Array) -> jax.Array:
        layer = nn.LayerNorm if shape.norm == "layer" else nn.RMSNorm
        y = layer(epsilon=shape.norm_epsilon, name=name)(x.astype(jnp.float32))
        return y.astype(x.dtype)

    return (_norm if x.dtype == jnp.float32 else nn.remat(_norm))(module, x)


class Block(nn.Module):
    """Attention and MLP (none with `mlp_width` -1), added to the residual stream. Before each: a
    norm, and the architecture's layer, if it has one there. With `positions_BxP` only the states at
    these positions go on from attention, (B, P, D)."""

    shape: Shape

    @nn.compact
    def __call__(
        self, x_BxLxD, cos_sin, lengths_B, cache_positions_B, positions_BxP=None
    ) -> jax.Array:
        s, whole = self.shape, x_BxLxD.shape
        residual_init_std = s.init_std / (2 * s.layers) ** 0.5
        texts = lengths_B, cache_positions_B
        y_BxLxD = self._before("attention", apply_norm(self, "ln_1", x_BxLxD), *texts)
        attention = self._attention if x_BxLxD.dtype == jnp.float32 else self._heads_last_attention
        y_BxLxHK = attention(y_BxLxD, cos_sin, *texts)
        if positions_BxP is not None:
            x_BxLxD, y_BxLxHK = (at_positions(z, positions_BxP) for z in (x_BxLxD, y_BxLxHK))
        y_BxLxD = Dense(s.width, residual_init_std, s, name="out")(y_BxLxHK)
        read_BxLxD = x_BxLxD
        x_BxLxD += apply_dropout(self, y_BxLxD, whole, positions_BxP)
        if s.mlp_width < 0:
            return tap_residual(self, x_BxLxD)
        if not s.parallel_residual:
            read_BxLxD = x_BxLxD
        y_BxLxD = self._before("mlp", apply_norm(self, "ln_2", read_BxLxD), *texts)
        y_BxLxD = Dense(s.width, residual_init_std, s, name="down")(self._mlp_hidden(y_BxLxD))
        x_BxLxD += apply_dropout(self, y_BxLxD, whole, positions_BxP)
        return tap_residual(self, x_BxLxD)

    def _before(self, place: str, y_BxLxD, lengths_B, cache_positions_B) -> jax.Array:
        """Applies the architecture's layer before `attention` or `mlp`."""
        architecture = ARCHITECTURES.of(self.shape.architecture)
        if (layer := getattr(architecture, f"before_{place}")) is None:
            return y_BxLxD
        name = f"{architecture.name}_{place}"
        out_BxLxD = layer(self.shape, name=name)(y_BxLxD, lengths_B, cache_positions_B)
        return out_BxLxD.astype(y_BxLxD.dtype)

    def _attention(self, y_BxLxD, cos_sin, lengths_B, cache_positions_B) -> jax.Array:
        s = self.shape
        causal, implementation = s.direction == "causal", s.attention
        q_BHxLxK, k_BGxLxK, v_BGxLxK = (
            split_heads(projection(y_BxLxD), heads)
            for projection, heads in zip(
                self._projections(), (s.heads, s.kv_heads, s.kv_heads), strict=True
            )
        )
        q_BHxLxK, k_BGxLxK = self._normed(q_BHxLxK, k_BGxLxK)
        q_BHxLxK, k_BGxLxK = apply_rotary(q_BHxLxK, cos_sin), apply_rotary(k_BGxLxK, cos_sin)
        batch = y_BxLxD.shape[0]
        q_k = q_BHxLxK, k_BGxLxK
        tap_attention(self, lambda: attention_weights(*q_k, s.dtype, batch, lengths_B, causal))
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
            batch=batch,
            lengths=lengths_B,
            causal=causal,
            implementation=implementation,
            dropout=s.attention_dropout,
            key=self._attention_key(),
        )
        return merge_heads(y_BHxLxK, s.heads)

    def _heads_last_attention(self, y_BxLxD, cos_sin, lengths_B, cache_positions_B) -> jax.Array:
        """`_attention` with one product for queries, keys and values, and heads after positions
        all the way: for accelerators, where copies and small products cost time."""
        s = self.shape
        head_width, shared = s.resolved_head_width, s.heads // s.kv_heads
        batch, length, _ = y_BxLxD.shape
        causal, implementation = s.direction == "causal", s.attention
        kernels, biases = zip(*(p.weights(s.width) for p in self._projections()), strict=True)
        bias = _join_heads(biases, s.kv_heads) if s.bias or s.qkv_bias else None
        x_BxLxO = dense(y_BxLxD, _join_heads(kernels, s.kv_heads), bias, jnp.dtype(s.dtype))
        x_BxLxGxRxK = x_BxLxO.reshape(batch, length, s.kv_heads, shared + 2, head_width)
        turned, v_BxLxGx1xK = jnp.split(x_BxLxGxRxK, [shared + 1], axis=3)
        if s.qk_norm:
            normed = self._normed(*jnp.split(turned, [shared], axis=3))
            turned = jnp.concatenate(normed, axis=3)
        turned = apply_rotary_heads_last(turned, cos_sin)
        q_BxLxGxRxK, k_BxLxGx1xK = jnp.split(turned, [shared], axis=3)
        k_BxMxGxK, v_BxMxGxK = k_BxLxGx1xK[:, :, :, 0], v_BxLxGx1xK[:, :, :, 0]
        tap_attention(
            self,
            lambda: attention_weights(
                heads_first(q_BxLxGxRxK),
                heads_first(k_BxMxGxK),
                s.dtype,
                batch,
                lengths_B,
                causal,
            ),
        )
        if cache_positions_B is not None:
            cached = (
                update_cache(self, name, new.reshape(batch, length, -1), cache_positions_B)
                for name, new in (("keys", k_BxMxGxK), ("values", v_BxMxGxK))
            )
            cached_k, cached_v = (x.reshape(batch, -1, s.kv_heads, head_width) for x in cached)
            if length == 1:  # one new token, which sees all of its text so far
                k_BxMxGxK, v_BxMxGxK, lengths_B = cached_k, cached_v, cache_positions_B + 1
                causal, implementation = False, "dense"
        y_BxLxHxK = heads_last_attention(
            q_BxLxGxRxK.reshape(batch, length, s.heads, head_width),
            k_BxMxGxK,
            v_BxMxGxK,
            s.dtype,
            lengths=lengths_B,
            causal=causal,
            implementation=implementation,
            dropout=s.attention_dropout,
            key=self._attention_key(),
        )
        return y_BxLxHxK.reshape(batch, length, -1)

    def _projections(self) -> tuple[Dense, Dense, Dense]:
        """The linear layers of queries, keys and values."""
        s = self.shape
        query, kv = (heads * s.resolved_head_width for heads in (s.heads, s.kv_heads))
        bias = s.bias or s.qkv_bias
        return (
            Dense(query, s.init_std, s, bias, name="query"),
            Dense(kv, s.init_std, s, bias, name="key"),
            Dense(kv, s.init_std, s, bias, name="value"),
        )

    def _normed(self, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Queries and keys (..., K), each head normalised where the network has norms there."""
        if not self.shape.qk_norm:
            return q, k
        return apply_norm(self, "query_norm", q), apply_norm(self, "key_norm", k)

    def _attention_key(self) -> jax.Array | None:
        """The key of the dropout of attention weights; None without."""
        drops = self.shape.attention_dropout and self.has_rng("dropout")
        return self.make_rng("dropout") if drops else None

    def _mlp_hidden(self, y_BxLxD) -> jax.Array:
        """The activations (B, L, F) between the two matrices of the MLP."""
        s = self.shape
        up = Dense(s.resolved_mlp_width, s.init_std, s, name="up")
        if s.activation == "gelu":
            return in_float32(gelu, up(y_BxLxD))
        if s.activation == "gelu_exact":
            return in_float32(lambda up: jax.nn.gelu(up, approximate=False), up(y_BxLxD))
        gate_BxLxF = Dense(s.resolved_mlp_width, s.init_std, s, name="gate")(y_BxLxD)
        return in_float32(lambda gate, up: jax.nn.silu(gate) * up, gate_BxLxF, up(y_BxLxD))


def apply_dropout(
    module: nn.Module, x: jax.Array, whole: Sequence[int], positions_BxP: jax.Array | None = None
) -> jax.Array:
    """Returns `x` with the dropout of `module.shape`, or `x` itself in a forward without a key.

    Args:
      x: (B, L, D), of the shape `whole`, or (B, P, D), its states at `positions_BxP`, for which the
        same are dropped.
    """
    rate = module.shape.dropout
    if not rate or not module.has_rng("dropout"):
        return x
    mask = keep_mask(module.make_rng("dropout"), rate, tuple(whole))
    if positions_BxP is not None:
        mask = at_positions(mask, positions_BxP)
    return jnp.where(mask, x / keep_prob(rate), 0.0)


def at_positions(x_BxLxD: jax.Array, positions_BxP: jax.Array) -> jax.Array:
    """The states at some positions of each text, (B, P, D)."""
    return jnp.take_along_axis(x_BxLxD, positions_BxP[:, :, None], axis=1)


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


def _join_heads(parts: Sequence[jax.Array], kv_heads: int) -> jax.Array:
    """Joins the kernels (I, O), or the biases (O,), of queries, keys and values into one, where the
    key and the value of a head follow the queries that read them. Split over devices by heads, each
    part stays where it is."""
    leading = parts[0].shape[:-1]
    by_head = [x.reshape(*leading, kv_heads, -1) for x in parts]
    return jnp.concatenate(by_head, axis=-1).reshape(*leading, -1)


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
    """tokens (B, L) int32 -> hidden states (B, L, D) of the last layer, after the final norm, of
    `shape.activation_dtype`.

    Args of a call:
      lengths_B: tokens of each text; the rest of L is padding that no position attends to.
      cache_positions_B: where the keys and values of each text's tokens go in the cache: 0 for the
        beginning of a text; for one token, the number of tokens before it.
      positions_BxP: where states are wanted, (B, P, D); None: at all positions.

    Raises:
      UserError: the texts are longer than `shape.longest_text`.
    """

    shape: Shape

    @nn.compact
    def __call__(
        self, tokens_BxL, lengths_B=None, cache_positions_B=None, positions_BxP=None
    ) -> jax.Array:
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
        if s.longest_text and length > s.longest_text[1]:
            field, most = s.longest_text
            raise UserError(f"model.{field}: expected at least the text's {length}, got {most}")
        if s.positions == "rotary":
            rotary_dims = int(s.rotary_pct * s.resolved_head_width)
        else:
            x_BxLxD += self.param("positions", normal, (s.max_positions, s.width))[positions_BxL]
        cos_sin = rotary_cos_sin(positions_BxL, rotary_dims, s)
        x_BxLxD = x_BxLxD.astype(s.activation_dtype)
        x_BxLxD = tap_residual(self, apply_dropout(self, x_BxLxD, x_BxLxD.shape))
        mixes = ARCHITECTURES.of(s.architecture).before_mlp  # may read other positions
        fewer = positions_BxP is not None and positions_BxP.shape[1] < length
        in_last_block = fewer and s.layers > 0 and not mixes
        of_block = nn.remat(Block) if s.remat and cache_positions_B is None else Block
        for layer in range(s.layers):
            block = of_block(s, name=f"block_{layer}")
            chosen_BxP = positions_BxP if in_last_block and layer == s.layers - 1 else None
            x_BxLxD = block(x_BxLxD, cos_sin, lengths_B, cache_positions_B, chosen_BxP)
        if positions_BxP is not None and not in_last_block:
            x_BxLxD = at_positions(x_BxLxD, positions_BxP)
        return apply_norm(self, "ln_f", x_BxLxD)
