"""The configuration of the network, with named sizes and styles."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kstore_jax.config.fields import choice, flag, number, path
from kstore_jax.config.registry import one_of
from kstore_jax.errors import UserError, nearest
from kstore_jax.model.base import ARCHITECTURES

SIZES = {  # Part 3.1, section 2.2: GPT-2 with about as many parameters with GPT-2's vocabulary
    "124M": {"layers": 12, "heads": 12, "width": 768},
    "302M": {"layers": 12, "heads": 20, "width": 1280},
    "682M": {"layers": 12, "heads": 32, "width": 2048},
}
_GPT2 = {
    "num_kv_heads": 0,
    "positions": "rotary",
    "rotary_pct": 0.25,
    "norm": "layer",
    "activation": "gelu",
    "bias": True,
    "tie_embeddings": True,
}
_LLAMA = {
    "num_kv_heads": 0,
    "positions": "rotary",
    "rotary_pct": 1.0,
    "norm": "rms",
    "activation": "swiglu",
    "bias": False,
    "tie_embeddings": False,
}
STYLES: dict[str, dict[str, Any]] = {
    "gpt2-rotary": _GPT2,
    "gpt2": {**_GPT2, "positions": "learned"},
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "num_kv_heads": lambda heads: heads // 4},
}
PRESETS: dict[str, Mapping[str, Mapping[str, Any]]] = {"size": SIZES, "style": STYLES}
"""Names a configuration may give in place of the fields they list; the first is the default."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The network: by default the paper's GPT-2, rotary on a quarter of each head, tied embedding.

    A configuration may also name a `size` and a `style` (`PRESETS`): they set the fields they list,
    except those that are set themselves.
    """

    architecture: Any = one_of(ARCHITECTURES, "transformer")
    """Layers of the blocks besides attention and MLP; `transformer`: none."""
    layers: int = number(12, 1)
    """Transformer blocks."""
    heads: int = number(12, 1)
    """Attention heads a block."""
    width: int = number(768, 1)
    """Width of the residual stream; a multiple of `heads`."""
    num_kv_heads: int = number(0, 0)
    """Key and value heads (grouped queries), a divisor of `heads`; 0: one a head."""
    head_width: int = number(0, 0, in_identity="set")
    """Dimensions of a head; 0: `width` / `heads`."""
    mlp_width: int = number(0, -1)
    """Hidden width of the MLP; 0: 4 `width`, or 8/3 `width` rounded up to a multiple of 64 for
    `swiglu`; -1: no MLP."""
    positions: str = choice("rotary", "rotary", "learned")
    """`rotary`, or `learned`: a table of `max_positions` rows added to the embedding."""
    max_positions: int = number(1024, 1)
    """Longest text with learned positions, in tokens."""
    rotary_pct: float = number(0.25, 0.0, 1.0)
    """Rotated fraction of each head."""
    rotary_base: float = number(10_000.0, 1.0)
    """Base of the rotary frequencies: the longest wavelength is 2 pi times it."""
    rotary_factor: float = number(1.0, 1.0, in_identity="set")
    """Factor by which long rotary wavelengths are stretched as in Llama 3 (`llama3`); 1: none."""
    rotary_low_freq: float = number(1.0, 0.0, in_identity="set")
    """With `rotary_factor`: wavelengths over `rotary_original_positions` / this are stretched by
    the whole factor."""
    rotary_high_freq: float = number(4.0, 0.0, in_identity="set")
    """With `rotary_factor`: wavelengths under `rotary_original_positions` / this stay as they are;
    those between are stretched in part."""
    rotary_original_positions: int = number(8192, 1, in_identity="set")
    """With `rotary_factor`: longest text of the model before its wavelengths were stretched."""
    sliding_window: int = number(0, 0, in_identity="set")
    """Positions that each position of a model read from a folder attends to. Only texts that are
    no longer are computed, for which it changes nothing; 0: no window."""
    parallel_residual: bool = flag(False, in_identity="set")
    """Whether attention and MLP of a block read the same residual stream (GPT-NeoX)."""
    qk_norm: bool = flag(False, in_identity="set")
    """Whether the queries and the keys of each head are normalised (Qwen3)."""
    norm: str = choice("layer", "layer", "rms")
    """LayerNorm or RMSNorm."""
    norm_epsilon: float = number(1e-5, 0.0)
    """Epsilon of the norms."""
    activation: str = choice("gelu", "gelu", "gelu_exact", "swiglu")
    """Activation of the MLP; `gelu` is the tanh form, `gelu_exact` that with the error function."""
    bias: bool = flag(True)
    """Whether products add a bias."""
    qkv_bias: bool = flag(False, in_identity="set")
    """Whether the products of queries, keys and values add one where `bias` is False (Qwen2)."""
    tie_embeddings: bool = flag(True)
    """Whether the output head is the embedding."""
    direction: str = choice("causal", "causal", "bidirectional")
    """GPT, or BERT: each position attends to all."""
    dropout: float = number(0.0, 0.0, 0.99)
    """Dropout rate of embeddings and residual updates in pretraining and finetuning, rounded to a
    256th."""
    attention_dropout: float = number(0.0, 0.0, 0.99)
    """The same of attention weights; more than 0 needs `dense` attention."""
    attention: str = choice("auto", "auto", "dense", "xla", "cudnn", "splash")
    """Attention implementation; `auto`: `cudnn` where that is possible, else `dense`; a note says
    which and why."""
    init_std: float = number(0.02, 0.0)
    """Standard deviation of the initial weights."""
    dtype: str = choice("auto", "auto", "float32", "bfloat16")
    """Input dtype of matrix products (sums are float32); `auto`: bfloat16 where the hardware
    multiplies it (accelerators, CPUs with AMX), else float32."""
    activation_dtype: str = choice("auto", "auto", "float32", "bfloat16")
    """Dtype of activations and their gradients between operations; `auto`: bfloat16 on accelerators
    where `dtype` is bfloat16, else float32. Parameters and sums are float32."""
    remat: bool = flag(False, affects_result=False)
    """Gradient checkpointing: training keeps the input of each block alone and computes the block
    again for the gradient, a third more work for a fraction of the memory."""

    def __post_init__(self):
        if self.dtype == "float32" and self.activation_dtype == "bfloat16":
            raise UserError("activation_dtype: expected float32 beside dtype = float32")
        if not self.head_width and self.width % self.heads:
            raise UserError(f"width: expected a multiple of heads = {self.heads}, got {self.width}")
        if self.heads % self.kv_heads:
            raise UserError(
                f"num_kv_heads: expected a divisor of heads = {self.heads}, got {self.num_kv_heads}"
            )
        if (rotated := self.rotary_pct * self.resolved_head_width) % 2:
            raise UserError(
                f"rotary_pct: expected an even number of rotated dimensions a head, got {rotated}"
            )
        if self.rotary_low_freq >= self.rotary_high_freq:
            raise UserError(
                f"rotary_low_freq: expected less than rotary_high_freq = {self.rotary_high_freq}, "
                f"got {self.rotary_low_freq}"
            )

    @property
    def kv_heads(self) -> int:
        """Key and value heads a block."""
        return self.num_kv_heads or self.heads

    @property
    def resolved_head_width(self) -> int:
        """K: `head_width`, or `width` / `heads` where that is 0."""
        return self.head_width or self.width // self.heads

    @property
    def longest_text(self) -> tuple[str, int] | None:
        """The field that limits the length of texts, and its value; None: nothing does."""
        if self.positions == "learned":
            return "max_positions", self.max_positions
        return ("sliding_window", self.sliding_window) if self.sliding_window else None


_NOT_IN_FOLDER = {  # they change no pretrained weight
    *("architecture", "dropout", "attention_dropout", "attention", "init_std", "dtype"),
    *("activation_dtype", "remat"),
}
IN_FOLDER = tuple(f.name for f in dataclasses.fields(Network) if f.name not in _NOT_IN_FOLDER)
"""The fields of a network that the `config.json` of `init_from` decides."""


@dataclasses.dataclass(frozen=True)
class Model(Network):
    """The network, and the weights pretraining starts from."""

    init_from: str = path("")
    """Hugging Face folder (config.json and safetensors) with the initial weights; empty: random.
    Its `config.json` sets the fields of the network that are not set, and its tokenizer
    `data.tokenizer`."""

    @staticmethod
    def expand(given: dict) -> dict:
        """Replaces `size` and `style` by the fields they stand for.

        Raises:
          UserError: there is no such size or style.
        """
        model = dict(given)
        for name, presets in PRESETS.items():
            if (chosen := model.pop(name, None)) is None:
                continue
            if not isinstance(chosen, str) or chosen not in presets:
                raise UserError(
                    f"model.{name}: no {name} {chosen!r}{nearest(str(chosen), presets)}"
                )
            for field, value in presets[chosen].items():
                if model.get(field) is None:
                    heads = model.get("heads", Network.heads)
                    model[field] = value(heads) if callable(value) else value
        unset = {name for name in IN_FOLDER if model.get(name, "") is None}
        return {name: value for name, value in model.items() if name not in unset}


def style_fields(style: str, heads: int) -> dict[str, Any]:
    """The fields that a style stands for, of a network with so many heads."""
    fields = STYLES[style].items()
    return {name: value(heads) if callable(value) else value for name, value in fields}
