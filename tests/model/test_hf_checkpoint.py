"""A network leaves as a folder of Hugging Face and comes back; a folder that is wrong is named."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint, hf_config, lora
from kstore_jax.model.config import STYLES, Network, style_fields
from kstore_jax.model.forward import forward, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.train.objectives import next_token, total_loss
from tests.model import reference

SMALL = Shape(vocabulary=23, layers=2, heads=4, width=32, max_positions=16)
HEADS = {"mistral": 2}  # key and value heads, where there are fewer than heads
STYLED = {
    style: dataclasses.replace(
        SMALL, **{**style_fields(style, SMALL.heads), "num_kv_heads": HEADS.get(style, 0)}
    )
    for style in STYLES
}
MORE = {
    "untied gpt2-rotary": dataclasses.replace(
        SMALL, tie_embeddings=False, rotary_pct=0.5, rotary_base=50.0
    ),
    "untied gpt2": dataclasses.replace(STYLED["gpt2"], tie_embeddings=False, mlp_width=20),
    "tied llama": dataclasses.replace(
        STYLED["llama"], tie_embeddings=True, bias=True, norm_epsilon=1e-3
    ),
    "gpt2 over 300 tokens": dataclasses.replace(STYLED["gpt2"], max_positions=300),
    "grouped llama with bias": dataclasses.replace(STYLED["llama"], num_kv_heads=1, bias=True),
}
FAMILIES = {  # the fields of model families that no style has
    "pythia": (
        "gpt2-rotary",
        {"parallel_residual": True, "activation": "gelu_exact", "tie_embeddings": False},
    ),
    "llama 3": (
        "llama",
        {
            **{"num_kv_heads": 2, "rotary_base": 100.0, "rotary_factor": 8.0},
            **{"rotary_original_positions": 64, "tie_embeddings": True},
        },
    ),
    "llama with wide heads": ("llama", {"head_width": 12}),
    "smollm": ("llama", {"num_kv_heads": 2, "tie_embeddings": True, "rotary_base": 1e5}),
    "mistral with a window": ("mistral", {"num_kv_heads": 2, "sliding_window": 11}),
    "qwen2": ("llama", {"num_kv_heads": 2, "qkv_bias": True}),
    "qwen3": ("llama", {"num_kv_heads": 2, "qk_norm": True, "head_width": 12}),
}
FAMILY_SHAPES = {
    name: dataclasses.replace(STYLED[style], **fields) for name, (style, fields) in FAMILIES.items()
}
BOTH_WAYS = {
    f"bidirectional {style}": dataclasses.replace(shape, direction="bidirectional")
    for style, shape in STYLED.items()
}
SHAPES = {**STYLED, **MORE, **FAMILY_SHAPES, **BOTH_WAYS}
KIND = {
    **{"gpt2-rotary": "gpt_neox", "gpt2": "gpt2", "llama": "llama", "mistral": "mistral"},
    **{"pythia": "gpt_neox", "llama 3": "llama", "qwen2": "qwen2", "qwen3": "qwen3"},
}
LONG_TOKENS = np.random.default_rng(0).integers(0, 23, (2, 300)).astype(np.int32)
TOKENS = LONG_TOKENS[:, :11]


def written(folder, shape):
    params = reference.parameters(shape)
    hf_checkpoint.write(folder, shape, params, {"eos_token_id": 0}, {"note.txt": "hello"})
    return params


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path, shape):
    params = written(tmp_path / "out", shape)
    back, found = hf_checkpoint.read(tmp_path / "out")
    assert back == dataclasses.replace(shape, mlp_width=shape.resolved_mlp_width)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert (tmp_path / "out" / "note.txt").read_text() == "hello"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 0


@pytest.mark.parametrize(("name", "kind"), KIND.items())
def test_each_style_and_family_is_an_architecture_of_hugging_face(name, kind):
    assert hf_config.model_type_of(SHAPES[name]) == kind


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_and_gradients_agree_with_transformers(tmp_path, shape):
    """Over so many as 300 tokens, attention goes by blocks of queries."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    params = written(tmp_path / "out", shape)
    tokens = LONG_TOKENS if shape.max_positions == 300 else TOKENS
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    weight = np.random.default_rng(1).normal(size=(*tokens.shape, 23)).astype(np.float32)
    expected = theirs(torch.from_numpy(tokens.astype(np.int64))).logits
    (expected * torch.from_numpy(weight)).sum().backward()

    def loss(params):
        logits = unembed(shape, params, forward(shape, params, tokens))
        return (logits * weight).sum(), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert relative_error(logits, expected.detach().numpy()) < 1e-4
    ours = hf_checkpoint.to_tensors(shape, gradient)
    renamed = {"embed_out.weight": "lm_head.weight"}
    grads = {name: leaf.grad.numpy() for name, leaf in theirs.named_parameters()}
    assert {renamed.get(name, name) for name in ours} == set(grads)
    # Keys' biases move every score of a row alike: their gradient is zero up to rounding.
    largest = max(np.abs(g).max() for g in grads.values())
    for name, found in ours.items():
        exact = grads[renamed.get(name, name)]
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5 * largest, err_msg=name)
        if not name.endswith("k_proj.bias"):
            assert relative_error(found, exact) < 1e-4, name


def finetuned(shape, side="input"):
    """Parameters with a merged low-rank update of queries, values and the embedding."""
    params = reference.parameters(shape)
    update = lora.init_lora(params, ("query", "value"), jax.random.key(1), 2, 4, 0.1)
    key = jax.random.key(2)
    trained = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), update)
    return lora.merge(params, trained, alpha=4.0, embedding_side=side)


FINETUNED = {
    **{f"finetuned {style}": (shape, "input") for style, shape in STYLED.items()},
    "finetuned tied llama": (MORE["tied llama"], "input"),
    "finetuned on both sides": (SMALL, "both"),
}


@pytest.mark.parametrize(("shape", "side"), FINETUNED.values(), ids=FINETUNED)
def test_a_finetuned_network_is_untied_where_the_update_acts_on_the_input_alone(
    tmp_path, shape, side
):
    params = finetuned(shape, side)
    hf_checkpoint.write(tmp_path / "out", shape, params, {}, {})
    is_tied = json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    assert is_tied == (side == "both")
    back, found = hf_checkpoint.read(tmp_path / "out")
    assert back.tie_embeddings == is_tied
    jax.tree.map(np.testing.assert_array_equal, found, params)
    ours, theirs = (
        unembed(s, p, forward(s, p, TOKENS)) for s, p in ((shape, params), (back, found))
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("shape", "side"),
    [*FINETUNED.values(), *((shape, None) for shape in (*STYLED.values(), *MORE.values()))],
    ids=[*FINETUNED, *STYLED, *MORE],
)
def test_logits_and_loss_agree_with_transformers(tmp_path, shape, side):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    params = finetuned(shape, side) if side else reference.parameters(shape)
    hf_checkpoint.write(tmp_path / "out", shape, params, {}, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    ).eval()
    ids = torch.from_numpy(TOKENS.astype(np.int64))
    with torch.no_grad():
        expected = theirs(ids, labels=ids)
    logits = unembed(shape, params, forward(shape, params, TOKENS))
    assert relative_error(logits, expected.logits.numpy()) < 1e-5
    loss = total_loss(*next_token(shape)(params, {"tokens": jnp.asarray(TOKENS)}))
    np.testing.assert_allclose(loss, expected.loss.numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", [*STYLED, *FAMILIES])
def test_a_model_of_transformers_is_read(tmp_path, name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**hf_config.to_config(SHAPES[name]))
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    theirs.eval().save_pretrained(tmp_path)
    shape, params = hf_checkpoint.read(tmp_path)
    logits = unembed(shape, params, forward(shape, params, TOKENS))
    expected = theirs(torch.from_numpy(TOKENS.astype(np.int64))).logits.detach().numpy()
    assert relative_error(logits, expected) < 1e-4


def relative_error(ours, exact) -> float:
    ours, exact = np.asarray(ours).ravel(), np.asarray(exact).ravel()
    return float(np.linalg.norm(ours - exact) / np.linalg.norm(exact))


def test_bfloat16_shards_without_prefix_and_with_old_buffers_are_read(tmp_path):
    shape = STYLED["gpt2"]
    params = written(tmp_path / "out", shape)
    path = tmp_path / "out" / "model.safetensors"
    tensors = {
        name.removeprefix("transformer."): np.asarray(jnp.asarray(tensor, jnp.bfloat16))
        for name, tensor in load_file(path).items()
    }
    tensors["h.0.attn.bias"] = np.zeros((1, 1, 4, 4), np.float32)
    path.unlink()
    files = {}
    for part in (0, 1):
        some = dict(list(tensors.items())[part::2])
        shard = f"model-0000{part + 1}-of-00002.safetensors"
        save_file(some, tmp_path / "out" / shard)
        files |= dict.fromkeys(some, shard)
    rounded = jax.tree.map(lambda x: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32), params)
    jax.tree.map(np.testing.assert_array_equal, hf_checkpoint.read(tmp_path / "out")[1], rounded)

    save_file({"tok_embeddings.weight": np.ones(3)}, tmp_path / "out" / "consolidated.safetensors")
    index = tmp_path / "out" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    jax.tree.map(np.testing.assert_array_equal, hf_checkpoint.read(tmp_path / "out")[1], rounded)
    (tmp_path / "out" / shard).unlink()
    with pytest.raises(UserError, match=f"{shard}: no such file, though model.*json lists it"):
        hf_checkpoint.read(tmp_path / "out")
    for text in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        index.write_text(text)
        with pytest.raises(UserError, match="expected a weight_map of tensors and files"):
            hf_checkpoint.read(tmp_path / "out")


def test_the_one_file_of_all_weights_is_read_whatever_lies_beside_it(tmp_path):
    params = written(tmp_path / "out", SMALL)
    save_file({"tok_embeddings.weight": np.ones(3)}, tmp_path / "out" / "consolidated.safetensors")
    jax.tree.map(np.testing.assert_array_equal, hf_checkpoint.read(tmp_path / "out")[1], params)


@pytest.mark.parametrize(
    ("style", "setting", "value", "message"),
    [
        ("gpt2", "model_type", "bert", "model_type: expected one of gpt_neox, gpt2, "),
        ("gpt2", "n_layer", None, "n_layer: missing"),
        (
            "gpt2",
            "activation_function",
            "relu",
            "activation_function: expected one of 'gelu_new', ",
        ),
        ("gpt2", "quantization_config", {}, "quantization_config: expected None, got {}"),
        ("gpt2-rotary", "head_dim", 64, "head_dim: expected 8"),
        (
            "gpt2-rotary",
            "rope_parameters",
            {"rope_type": "llama3"},
            "rope_type: expected 'default'",
        ),
        ("mistral", "sliding_window", -1, "sliding_window: expected a number over 0, got -1"),
        (
            "mistral",
            "model_type",
            "mixtral",
            "expected one of gpt_neox, gpt2, llama, mistral, qwen",
        ),
        ("llama", "rope_parameters", {"rope_type": "yarn"}, "expected one of 'default', 'llama3'"),
        ("llama", "rope_scaling", {"type": "linear"}, "'default', 'llama3', got 'linear'"),
        ("llama", "rope_parameters", {"rope_type": "llama3"}, "factor: expected a number over 0"),
        ("llama", "mlp_bias", True, "mlp_bias: expected False"),
        ("llama", "head_dim", 64, "shape ("),
        ("qwen2", "use_sliding_window", True, "use_sliding_window: expected False, got True"),
        ("qwen2", "layer_types", ["sliding_attention"], "layer_types: expected 'full_attention'"),
        ("qwen3", "attention_bias", True, "attention_bias: expected False, got True"),
        ("llama", "intermediate_size", 72, "shape ("),
        ("gpt2-rotary", "hidden_size", 64, "shape ("),
        ("llama", "num_hidden_layers", 3, "model.layers.2."),
        ("llama", "num_hidden_layers", 1, "model.layers.1."),
    ],
)
def test_a_folder_that_holds_no_network_of_ours_is_refused(
    tmp_path, style, setting, value, message
):
    folder = tmp_path / "out"
    written(folder, SHAPES[style])
    config = json.loads((folder / "config.json").read_text())
    config[setting] = value
    if value is None:
        del config[setting]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as refused:
        hf_checkpoint.read(folder)
    assert message in str(refused.value)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_files_or_with_broken_ones_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        hf_checkpoint.read(tmp_path)
    written(tmp_path / "out", SMALL)
    (tmp_path / "out" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="not safetensors"):
        hf_checkpoint.read(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors there"):
        hf_checkpoint.read(tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        hf_checkpoint.read(tmp_path / "out")


@pytest.mark.parametrize("field", [{"norm": "rms"}, {"mlp_width": -1}])
def test_a_network_that_hugging_face_lacks_is_refused_and_nothing_written(tmp_path, field):
    shape = dataclasses.replace(SMALL, **field)
    with pytest.raises(UserError, match=r"none of gpt_neox, gpt2, llama, .* of Hugging Face"):
        written(tmp_path / "out", shape)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is there already"):
        written(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_training_may_start_where_every_field_agrees(tmp_path):
    folder = tmp_path / "out"
    params = written(folder, SMALL)
    network = Network(layers=2, heads=4, width=32, dropout=0.1, dtype="bfloat16", max_positions=7)
    found = hf_checkpoint.init_digest(network, folder)
    params["embedding"] += 1.0
    hf_checkpoint.write(tmp_path / "other", SMALL, params, {}, {})
    assert hf_checkpoint.init_digest(network, tmp_path / "other") != found
    for field, value in {
        "layers": 3,
        "tie_embeddings": False,
        "rotary_pct": 0.5,
        "mlp_width": 64,
        "parallel_residual": True,
    }.items():
        with pytest.raises(UserError, match=f"model.{field}: expected .* as in .*config.json, got"):
            hf_checkpoint.init_digest(dataclasses.replace(network, **{field: value}), folder)
    several = dataclasses.replace(network, layers=3, bias=False, rotary_low_freq=2.0)
    with pytest.raises(UserError) as refused:
        hf_checkpoint.init_digest(several, folder)
    path = folder / "config.json"
    expected = (
        f"model.layers: expected 2, as in {path}, got 3; model.bias: expected True, got False"
    )
    assert str(refused.value) == expected
    with pytest.raises(UserError, match=r"init_from: .*config\.json: no such file"):
        hf_checkpoint.init_digest(network, tmp_path / "nowhere")


@pytest.mark.parametrize("style", ["gpt2-rotary", "llama"])
def test_training_starts_from_the_rows_of_its_own_tokens(tmp_path, style):
    shape = STYLED[style]
    params = written(tmp_path / "out", shape)
    ids = np.array([1, 5, 22])
    started = hf_checkpoint.load_init(
        tmp_path / "out", dataclasses.replace(shape, vocabulary=8, dropout=0.1), ids
    )
    for name in {"embedding", "unembedding"}.intersection(params):
        assert started[name].shape == (8, 32)
        np.testing.assert_array_equal(started[name][:3], params[name][ids])
        np.testing.assert_allclose(started[name][7], params[name].mean(0), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, started["block_1"], params["block_1"])
    with pytest.raises(UserError, match="has 23 tokens, and the texts use token 23"):
        hf_checkpoint.load_init(tmp_path / "out", shape, np.array([23]))
