"""`model.init_from` alone decides network and tokenizer; training continues from the folder."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kstore_jax.cli.main import main
from kstore_jax.config.fields import as_dict
from kstore_jax.corpus.tokenizer import load_tokenizer
from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint
from kstore_jax.model.config import IN_FOLDER
from kstore_jax.model.forward import forward, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline.experiment import Experiment, default, parse, parse_rows
from kstore_jax.pipeline.graph import ExperimentGraph, resolve_auto
from kstore_jax.pipeline.run import Runner, check
from kstore_jax.pipeline.stages import Cache
from kstore_jax.world.language import load_language
from kstore_jax.world.people import draw_people
from tests.model import reference

QWEN3 = {
    **{"layers": 2, "heads": 2, "width": 16, "num_kv_heads": 1, "head_width": 12, "mlp_width": 24},
    **{"rotary_pct": 1.0, "rotary_base": 500.0, "norm": "rms", "norm_epsilon": 1e-6},
    **{"activation": "swiglu", "bias": False, "qk_norm": True, "tie_embeddings": False},
    **{"max_positions": 256},
}
SMALL = {  # ranks that fit its width
    "finetune": {"embedding_rank": 4},
    "readouts": {"p_probe": {"enabled": False}, "q_probe": {"enabled": False}},
}
SITES = ("query", "up", "gate", "down")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A Qwen3 with the tokens of words, and 37 rows that no token has."""
    out = tmp_path_factory.mktemp("init_from") / "model"
    language = load_language("", 1.0, 1.0)
    tokenizer = load_tokenizer("word", language, 0, draw_people(language.pools, 0, np.arange(2)))
    shape = Shape(vocabulary=tokenizer.size + 37, **QWEN3)
    files = {"tokenizer.json": tokenizer.backend.to_str()}
    hf_checkpoint.write(out, shape, reference.parameters(shape), {}, files)
    return out


def experiment(folder: pathlib.Path, **pretrain) -> Experiment:
    """A pretraining of some steps from a folder, and nothing after it."""
    training = {"batch_size": 4, "seq_len": 32, "warmup_steps": 0, "steps": 3, **pretrain}
    values = parse(
        {
            "until": "pretrain",
            "world": {"people": 20},
            "model": {"init_from": str(folder), "dtype": "float32"},
            "pretrain": {"checkpoint_every": 1, **training},
            **SMALL,
        }
    )
    return resolve_auto(values)


def config_of(folder: pathlib.Path) -> Any:
    """A configuration file's content that starts from a folder."""
    config = default()
    config.update(SMALL)
    config.model.init_from = str(folder)
    return config


def runner_of(experiment: Experiment, tmp_path: pathlib.Path) -> Runner:
    runner = Runner(ExperimentGraph(experiment, Cache(tmp_path / "stages")))
    runner.ensure(runner.graph.pretrain)
    return runner


def test_the_folder_sets_the_network_and_the_tokenizer(folder):
    found = experiment(folder)
    expected = Shape(vocabulary=1, **QWEN3)
    for name in IN_FOLDER:
        assert getattr(found.model, name) == getattr(expected, name), name
    assert found.data.tokenizer == str(folder / "tokenizer.json")
    config = config_of(folder)
    (of_file,) = parse_rows(config)
    assert {name: getattr(of_file.model, name) for name in IN_FOLDER} == {
        name: getattr(found.model, name) for name in IN_FOLDER
    }
    assert of_file.data == found.data


def test_a_stored_configuration_needs_no_folder(folder, tmp_path):
    values = as_dict(experiment(folder))
    values["model"]["init_from"] = str(tmp_path / "gone")
    assert parse(values).model.head_width == 12


@pytest.mark.parametrize("of_command", [False, True])
def test_all_fields_that_differ_are_in_one_line(folder, of_command):
    """Of the file, unless the command line sets the folder: it replaces the file's network."""
    config = config_of(folder)
    config.model.update(layers=7, style="gpt2", num_kv_heads=1, dropout=0.1)
    config.data.tokenizer = "gpt2"
    if of_command:
        (found,) = parse_rows(config, {"model.init_from"})
        assert (found.model.layers, found.model.dropout) == (2, 0.1)
        assert found.data.tokenizer == str(folder / "tokenizer.json")
        with pytest.raises(UserError, match=r"^model\.layers: expected 2, as in [^;]*, got 7$"):
            parse_rows(config, {"model.init_from", "model.layers"})
        return
    with pytest.raises(UserError) as refused:
        parse_rows(config)
    path = folder / "config.json"
    assert str(refused.value) == (
        f"model.layers: expected 2, as in {path}, got 7; "
        "model.positions: expected 'rotary', got 'learned'; "
        "model.rotary_pct: expected 1.0, got 0.25; model.norm: expected 'rms', got 'layer'; "
        "model.activation: expected 'swiglu', got 'gelu'; model.bias: expected False, got True; "
        "model.tie_embeddings: expected False, got True"
    )


def test_an_unchanged_model_is_the_folder_s(folder, tmp_path):
    """With all its rows, also those without a token."""
    runner = runner_of(experiment(folder, learning_rate=0.0, weight_decay=0.0), tmp_path)
    theirs, expected = hf_checkpoint.read(folder)
    context = runner.context
    assert context.shape.vocabulary == -(-theirs.vocabulary // 128) * 128
    tokens = np.arange(60, dtype=np.int32).reshape(2, 30)
    ours = unembed(
        context.shape, context.pretrained, forward(context.shape, context.pretrained, tokens)
    )
    logits = unembed(theirs, expected, forward(theirs, expected, tokens))
    np.testing.assert_allclose(ours[..., : theirs.vocabulary], logits, rtol=1e-5, atol=1e-5)


def test_shards_in_bfloat16_are_a_start(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    halves = {name: np.asarray(jax.numpy.bfloat16(tensor)) for name, tensor in tensors.items()}
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    index = {}
    for part in (0, 1):
        some = dict([*halves.items()][part::2])
        save_file(some, tmp_path / f"model-{part}.safetensors")
        index |= dict.fromkeys(some, f"model-{part}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    runner = runner_of(experiment(tmp_path, learning_rate=0.0, weight_decay=0.0), tmp_path)
    expected = halves["model.layers.1.mlp.up_proj.weight"].astype(np.float32).T
    np.testing.assert_array_equal(runner.context.pretrained["block_1"]["up"]["kernel"], expected)


def test_low_rank_pretraining_changes_its_sites_alone(folder, tmp_path):
    lora = {"method": "lora", "sites": SITES, "rank": 3, "learning_rate": 1e-2}
    runner = runner_of(experiment(folder, **lora), tmp_path)
    before = hf_checkpoint.load_init(folder, runner.context.shape, runner.context.vocabulary.ids)
    after = runner.context.pretrained
    assert jax.tree.structure(after) == jax.tree.structure(before)
    changed = jax.tree_util.tree_map_with_path(
        lambda path, a, b: not np.array_equal(a, b), before, after
    )
    for path, is_changed in jax.tree_util.tree_leaves_with_path(changed):
        names = [key.key for key in path]
        assert is_changed == (names[-1] == "kernel" and names[-2] in SITES), names
    delta = after["block_0"]["up"]["kernel"] - before["block_0"]["up"]["kernel"]
    assert np.linalg.matrix_rank(delta, tol=1e-6) == 3
    out = tmp_path / "out"
    hf_checkpoint.write(out, runner.context.shape, after, {}, {})
    shape, exported = hf_checkpoint.read(out)
    assert dataclasses.replace(shape, vocabulary=1) == Shape(vocabulary=1, **QWEN3)
    jax.tree.map(np.testing.assert_array_equal, exported, after)


def test_a_block_without_a_site_names_those_it_has(folder, tmp_path):
    graph = ExperimentGraph(
        experiment(folder, method="lora", sites=("gates",)), Cache(tmp_path / "stages")
    )
    with pytest.raises(UserError, match=r"^pretrain\.sites: no module 'gates'.* 'gate'"):
        check(graph)


def test_gradient_checkpointing_trains_alike(folder, tmp_path):
    found = []
    for remat in (False, True):
        e = experiment(folder, learning_rate=1e-2)
        e = dataclasses.replace(e, model=dataclasses.replace(e.model, remat=remat))
        runner = runner_of(e, tmp_path / str(remat))
        found.append(runner.context.pretrained)
        stages = {path.name for path in (tmp_path / str(remat) / "stages").iterdir()}
    assert runner.graph.pretrain.folder in stages
    assert (
        runner.graph.pretrain.key
        == ExperimentGraph(
            experiment(folder, learning_rate=1e-2), Cache(tmp_path / "stages")
        ).pretrain.key
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *found)


def test_a_dry_run_needs_no_weights_and_prints_memory_and_gpu_hours(
    folder, tmp_path, config_file, capsys
):
    (tmp_path / "model").mkdir()
    config = (folder / "config.json").read_bytes()
    (tmp_path / "model" / "config.json").write_bytes(config)
    small = tmp_path / "model" / "config.json"
    settings = {**json.loads(config), "vocab_size": 50304, "hidden_size": 64}
    small.write_text(json.dumps(settings))
    argv = ["sweep", f"--config={config_file}", f"--config.model.init_from={small.parent}"]
    argv += [f"--workdir={tmp_path / 'run'}", "--config.data.vocabulary=full"]
    argv += ["--config.mesh.fsdp=4", "--config.pretrain.batch_size=8"]
    assert main([*argv, "--dry-run", "--on=H200", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    for row in status["rows"]:
        memory = row["memory"]
        assert memory["devices"] == 4
        assert row["parameters"] / 4 <= memory["parameters"] / 4 < 1.01 * row["parameters"] / 4
        assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], rel=0.01)
        assert memory["gradients"] == memory["parameters"]
        assert memory["residuals"] > 0
    assert main([*argv, "--dry-run", "--on=H200"]) == 0
    *_, whole, parts, _, left = capsys.readouterr().out.splitlines()
    assert whole.startswith("memory of pretraining: at most ")
    assert whole.endswith(" MB on each of 4 devices, H200 has 141 GB")
    assert parts.startswith(f"  parameters {memory['parameters'] / 1e6:.2f}, gradients ")
    hours = float(re.search(r", ([\d.]+) GPU hours of H200", left)[1])
    assert hours == pytest.approx(status["seconds_left"] / 3600, rel=0.01)
    assert main(argv) == 2
    assert "mesh: data 1 x fsdp 4" in capsys.readouterr().err
    assert main([*argv, "--config.mesh.fsdp=1"]) == 2
    assert f"{small.parent}: no *.safetensors there" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
