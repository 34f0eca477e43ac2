"""The Hugging Face architectures that our network covers, as tables of names."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class HFLayout:
    """A Hugging Face architecture in terms of our network.

    Attributes:
      architecture: the class in transformers.
      style: the values of our fields that the architecture fixes.
      settings: name of a number in `config.json` -> our field.
      flags: name of a truth value in `config.json` -> our field; of two names both have to agree.
      activation: name in `config.json` of the activation.
      activations: its supported values -> ours.
      dropouts: name of a dropout rate in `config.json` -> our field.
      always: the only supported value of other settings.
      defaults: value of a setting that `config.json` leaves out.
      base: prefix of all tensor names except the head's; some files leave it out.
      block: format of the prefix of a block's tensors.
      modules: module of a block -> our modules in it; query, key and value may share one.
      outside: the same for modules outside the blocks.
      tables: embedding module -> our parameter, with one row per token or position.
      transposed: whether kernels are (outputs, inputs).
      grouped_queries: whether several query heads may share a key and value head.
    """

    architecture: str
    style: dict
    settings: dict[str, str]
    flags: dict[str, str]
    activation: str
    activations: dict[str, str]
    dropouts: dict[str, str]
    always: dict
    defaults: dict
    base: str
    block: str
    modules: dict[str, tuple[str, ...]]
    outside: dict[str, tuple[str, ...]]
    tables: dict[str, str]
    transposed: bool
    grouped_queries: bool = False


_PLAIN = {  # fields that only some of them change
    "head_width": 0, "rotary_factor": 1.0, "sliding_window": 0, "parallel_residual": False,
    "qk_norm": False, "qkv_bias": False,
}  # fmt: skip
_GELU = {  # the first name of each of ours is written
    "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "gelu": "gelu_exact",
}  # fmt: skip


def _varying(*fields: str) -> dict:
    """`_PLAIN` without the fields that an architecture changes."""
    return {name: value for name, value in _PLAIN.items() if name not in fields}


_GPT2 = HFLayout(
    architecture="GPT2LMHeadModel",
    style={**_varying(), "positions": "learned", "norm": "layer", "bias": True},
    settings={
        "n_layer": "layers", "n_head": "heads", "n_embd": "width", "n_positions": "max_positions",
        "n_inner": "mlp_width", "layer_norm_epsilon": "norm_epsilon",
    },
    flags={},
    activation="activation_function",
    activations=_GELU,
    dropouts={
        "resid_pdrop": "dropout", "embd_pdrop": "dropout", "attn_pdrop": "attention_dropout"
    },
    always={
        "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    defaults={
        "tie_word_embeddings": True, "n_inner": None, "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
    },
    base="transformer.",
    block="h.{}.",
    modules={
        "ln_1": ("ln_1",), "ln_2": ("ln_2",), "attn.c_attn": ("query", "key", "value"),
        "attn.c_proj": ("out",), "mlp.c_fc": ("up",), "mlp.c_proj": ("down",),
    },
    outside={"ln_f": ("ln_f",)},
    tables={"wte": "embedding", "wpe": "positions"},
    transposed=False,
)  # fmt: skip
_SETTINGS = {
    "num_hidden_layers": "layers", "num_attention_heads": "heads", "hidden_size": "width",
    "intermediate_size": "mlp_width", "max_position_embeddings": "max_positions",
}  # fmt: skip
_NEOX = HFLayout(
    architecture="GPTNeoXForCausalLM",
    style={
        **_varying("parallel_residual"), "positions": "rotary", "norm": "layer", "bias": True,
    },
    settings={**_SETTINGS, "layer_norm_eps": "norm_epsilon"},
    flags={"use_parallel_residual": "parallel_residual"},
    activation="hidden_act",
    activations=_GELU,
    dropouts={"hidden_dropout": "dropout", "attention_dropout": "attention_dropout"},
    always={"attention_bias": True},
    defaults={
        "use_parallel_residual": True, "hidden_act": "gelu", "rotary_pct": 0.25,
        "layer_norm_eps": 1e-5, "tie_word_embeddings": False, "intermediate_size": 24576,
    },
    base="gpt_neox.",
    block="layers.{}.",
    modules={
        "input_layernorm": ("ln_1",), "post_attention_layernorm": ("ln_2",),
        "attention.query_key_value": ("query", "key", "value"), "attention.dense": ("out",),
        "mlp.dense_h_to_4h": ("up",), "mlp.dense_4h_to_h": ("down",),
    },
    outside={"final_layer_norm": ("ln_f",)},
    tables={"embed_in": "embedding"},
    transposed=True,
)  # fmt: skip
_LLAMA = HFLayout(
    architecture="LlamaForCausalLM",
    style={
        **_varying("head_width", "rotary_factor"), "positions": "rotary", "rotary_pct": 1.0,
        "norm": "rms",
    },
    settings={**_SETTINGS, "rms_norm_eps": "norm_epsilon"},
    flags={"attention_bias": "bias", "mlp_bias": "bias"},
    activation="hidden_act",
    activations={"silu": "swiglu"},
    dropouts={"attention_dropout": "attention_dropout"},
    always={},
    defaults={
        "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False,
    },
    base="model.",
    block="layers.{}.",
    modules={
        "input_layernorm": ("ln_1",), "post_attention_layernorm": ("ln_2",),
        "self_attn.q_proj": ("query",), "self_attn.k_proj": ("key",),
        "self_attn.v_proj": ("value",), "self_attn.o_proj": ("out",),
        "mlp.gate_proj": ("gate",), "mlp.up_proj": ("up",), "mlp.down_proj": ("down",),
    },
    outside={"norm": ("ln_f",)},
    tables={"embed_tokens": "embedding"},
    transposed=True,
    grouped_queries=True,
)  # fmt: skip
_UNSTRETCHED = {**_LLAMA.style, "rotary_factor": 1.0, "bias": False}
_MISTRAL = dataclasses.replace(
    _LLAMA,
    architecture="MistralForCausalLM",
    style={name: value for name, value in _UNSTRETCHED.items() if name != "sliding_window"},
    flags={},
    defaults={**_LLAMA.defaults, "num_key_value_heads": 8, "sliding_window": 4096},
)
_QWEN2 = dataclasses.replace(
    _LLAMA,
    architecture="Qwen2ForCausalLM",
    style={**_UNSTRETCHED, "qkv_bias": True},
    flags={},
    always={"use_sliding_window": False},
    defaults={**_LLAMA.defaults, "num_key_value_heads": 32},
)
_QWEN3 = dataclasses.replace(
    _QWEN2,
    architecture="Qwen3ForCausalLM",
    style={**_UNSTRETCHED, "qk_norm": True},
    always={**_QWEN2.always, "attention_bias": False},
    defaults={**_QWEN2.defaults, "head_dim": 128},
    modules={
        **_LLAMA.modules, "self_attn.q_norm": ("query_norm",), "self_attn.k_norm": ("key_norm",),
    },
)  # fmt: skip
HF_LAYOUTS = {
    "gpt_neox": _NEOX, "gpt2": _GPT2, "llama": _LLAMA, "mistral": _MISTRAL, "qwen2": _QWEN2,
    "qwen3": _QWEN3,
}  # fmt: skip
HEAD_NAMES = {"gpt_neox": "embed_out"}  # the head's name, `lm_head` in the others
