"""The `config.json` of published models: networks of ours with as many parameters as theirs."""

import jax
import pytest

from kstore_jax.errors import UserError
from kstore_jax.model.forward import init
from kstore_jax.model.hf_config import from_config, to_config

OF_LLAMA = {
    **{"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    **{"num_attention_heads": 32, "pretraining_tp": 1, "use_cache": True, "rope_scaling": None},
}
LLAMA_3 = {
    **{"high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"},
    "original_max_position_embeddings": 8192,
}
PUBLISHED = {  # settings, parameters
    "gpt2": (
        {
            **{"model_type": "gpt2", "activation_function": "gelu_new", "n_ctx": 1024},
            **{"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024},
            **{"layer_norm_epsilon": 1e-05, "vocab_size": 50257},
        },
        124_439_808,
    ),
    "pythia-70m": (
        {
            **{"model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": 512},
            **{"intermediate_size": 2048, "layer_norm_eps": 1e-05, "vocab_size": 50304},
            **{"max_position_embeddings": 2048, "num_attention_heads": 8, "num_hidden_layers": 6},
            **{"rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False},
            "use_parallel_residual": True,
        },
        70_426_624,
    ),
    "Llama-2-7b": (
        {
            **{**OF_LLAMA, "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 32000},
            **{"max_position_embeddings": 4096, "num_hidden_layers": 32, "rms_norm_eps": 1e-05},
            **{"num_key_value_heads": 32, "tie_word_embeddings": False},
        },
        6_738_415_616,
    ),
    "Llama-3.2-1B": (
        {
            **{**OF_LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "vocab_size": 128256},
            **{"max_position_embeddings": 131072, "num_hidden_layers": 16, "rms_norm_eps": 1e-05},
            **{"num_key_value_heads": 8, "tie_word_embeddings": True, "head_dim": 64},
            **{"rope_theta": 500000.0, "rope_scaling": {**LLAMA_3, "factor": 32.0}},
        },
        1_235_814_400,
    ),
    "Llama-3.1-8B": (
        {
            **{**OF_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256},
            **{"max_position_embeddings": 131072, "num_hidden_layers": 32, "rms_norm_eps": 1e-05},
            **{"num_key_value_heads": 8, "tie_word_embeddings": False},
            **{"rope_theta": 500000.0, "rope_scaling": {**LLAMA_3, "factor": 8.0}},
        },
        8_030_261_248,
    ),
    "SmolLM2-135M": (
        {
            **{**OF_LLAMA, "hidden_size": 576, "intermediate_size": 1536, "vocab_size": 49152},
            **{"max_position_embeddings": 8192, "num_hidden_layers": 30, "rms_norm_eps": 1e-05},
            **{"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
            **{"rope_theta": 100000, "rope_interleaved": False},
        },
        134_515_008,
    ),
    "Mistral-7B-v0.1": (
        {
            **{"model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096},
            **{"intermediate_size": 14336, "max_position_embeddings": 32768, "vocab_size": 32000},
            **{"num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8},
            **{"rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096},
            "tie_word_embeddings": False,
        },
        7_241_732_096,
    ),
    "Qwen2.5-0.5B": (
        {
            **{"model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896},
            **{"intermediate_size": 4864, "max_position_embeddings": 32768, "vocab_size": 151936},
            **{"num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2},
            **{"rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768},
            **{"max_window_layers": 24, "use_sliding_window": False, "tie_word_embeddings": True},
        },
        494_032_768,
    ),
    "Qwen3-0.6B": (
        {
            **{"model_type": "qwen3", "hidden_act": "silu", "hidden_size": 1024, "head_dim": 128},
            **{"intermediate_size": 3072, "max_position_embeddings": 40960, "vocab_size": 151936},
            **{"num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8},
            **{"rms_norm_eps": 1e-06, "rope_theta": 1000000, "rope_scaling": None},
            **{"sliding_window": None, "use_sliding_window": False, "tie_word_embeddings": True},
            **{"attention_bias": False, "max_window_layers": 28},
        },
        596_049_920,
    ),
}


@pytest.mark.parametrize(("settings", "parameters"), PUBLISHED.values(), ids=PUBLISHED)
def test_a_published_model_is_a_network_of_ours(settings, parameters):
    shape = from_config(settings, "config.json")
    params = jax.eval_shape(lambda: init(shape, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    assert shape.rotary_base == settings.get("rope_theta", 10000)
    assert shape.rotary_factor == (settings.get("rope_scaling") or {}).get("factor", 1)
    assert shape.longest_text == {
        "gpt2": ("max_positions", 1024), "mistral": ("sliding_window", 4096)
    }.get(settings["model_type"])  # fmt: skip
    written = to_config(shape)
    assert from_config(written, "config.json") == shape
    of_rope = "rope_theta", "rope_scaling", "rope_parameters"
    for name in settings.keys() & written.keys() - {"model_type", *of_rope}:
        assert written[name] == settings[name], name
    if settings["model_type"] != "llama" or shape.rotary_factor > 1:  # else Mistral is the same
        assert written["model_type"] == settings["model_type"]


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "smollm3", "gemma2", "phi3"])
def test_another_architecture_is_refused_by_name(kind):
    settings = {**PUBLISHED["Mistral-7B-v0.1"][0], "model_type": kind}
    with pytest.raises(UserError, match=f"model_type: expected one of gpt_neox, .* got '{kind}'$"):
        from_config(settings, "config.json")
