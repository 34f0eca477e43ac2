"""Bad input to a run: paths, memory, files of the system and changed files each get one line."""

import dataclasses
import errno
import gc
import json
import os
import pathlib
import re
import resource

import jax
import jax.numpy as jnp
import pytest

from kstore_jax import files
from kstore_jax.cli import main as cli
from kstore_jax.corpus.shards import _checksum
from kstore_jax.errors import DamagedFileError, UserError, as_user_error
from kstore_jax.pipeline import memory
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.results import read_graphs
from kstore_jax.train.checkpoint import open_checkpoints
from tests.sweep.conftest import copied  # noqa: F401
from tests.sweep.sweeps import contents
from tests.train.training import orbax_drops_coroutines

TREE = {"a": jnp.arange(12.0).reshape(3, 4), "b": {"c": jnp.ones(3)}}


def complaint(capsys, *argv: str, status: int = 2) -> str:
    """The last line on stderr of a command that fails with this status."""
    assert cli.main([*map(str, argv)]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    "name", ["lr[1]", "a*b", "what?", "back\\slash", "[x]/run", "gs:/x", "latin\udce9"]
)
def test_a_path_that_a_library_reads_as_a_pattern_is_refused(tmp_path, config_file, capsys, name):
    config, workdir = f"--config={config_file}", f"--workdir={tmp_path / name}"
    message = complaint(capsys, "sweep", config, workdir)
    assert re.search("checkpoints cannot be in a path with '|expected a path in UTF-8", message)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "name",
    ["a b", "a@2", "a@*b".replace("*", ""), "#1", "é日", "s3:x", "x:", "{a,b}", "~", "a%20b", "-x"],
)
def test_any_other_path_holds_checkpoints(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(1, trainable=TREE)
    with open_checkpoints(folder) as checkpoints:
        step, trees = checkpoints.resume(trainable=jax.tree.map(jnp.zeros_like, TREE))
    assert step == 1
    assert trees["trainable"]["a"].tolist() == TREE["a"].tolist()


HUGE = [
    ("pretrain.seq_len=2000000000", "pretrain.batch_size, pretrain.seq_len"),
    ("pretrain.batch_size=2000000000", "pretrain.batch_size, pretrain.seq_len"),
    ("pretrain.steps=2000000000", "pretrain.steps"),
    ("finetune.batch_size=2000000000", "finetune.batch_size"),
    ("readouts.p_probe.batch_size=2000000000", "readouts.p_probe.batch_size"),
    ("data.variant=multi999999999", "data.variant, world.people"),
    ("model.width=1000000000", "model.layers, model.width, model.mlp_width"),
    ("model.layers=1000000000", "model.layers, model.width, model.mlp_width"),
    ("model.mlp_width=2000000000", "model.layers, model.width, model.mlp_width"),
]


@pytest.mark.parametrize(("setting", "fields"), HUGE)
def test_more_than_the_memory_is_refused_before_anything_begins(
    tmp_path, config_file, capsys, monkeypatch, setting, fields
):
    monkeypatch.setattr(memory, "_host_memory", lambda: 8e9)
    argv = f"--config={config_file}", f"--workdir={tmp_path / 'run'}", f"--config.{setting}"
    message = complaint(capsys, "sweep", *argv)
    size = r"[\d,]+\.\d GB"
    expected = rf"kstore: {fields}: expected to fit into memory, got at least {size}; "
    assert re.fullmatch(rf"{expected}this machine has {size}", message)
    assert [*tmp_path.iterdir()] == []


def test_beams_of_eval_are_counted(finished, capsys, monkeypatch):
    monkeypatch.setattr(memory, "_host_memory", lambda: 1e6)
    message = complaint(capsys, "eval", finished, "--beam=1000")
    assert message.startswith("kstore: --beam: expected to fit into memory, got at least ")


def test_memory_is_that_of_the_device_and_of_the_cgroup(monkeypatch, finished):
    experiment = read_graphs(finished)[0].experiment
    memory.check(experiment)
    monkeypatch.setattr(memory, "cgroup_settings", lambda name: ["max", "1000"])
    with pytest.raises(UserError, match=r"^world\.people, .* this machine has 0\.0 GB$"):
        memory.check(experiment)
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(memory, "_device_memory", lambda: 1000.0)
    with pytest.raises(UserError, match=r"^model\.layers, .* a device has 0\.0 GB$"):
        memory.check(experiment)


def test_weights_that_fit_in_parts_are_not_refused(monkeypatch, finished):
    experiment = read_graphs(finished)[0].experiment
    model = dataclasses.replace(experiment.model, layers=1000)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(memory, "_device_memory", lambda: 8e6)
    with pytest.raises(UserError, match=r"^model\.layers, model\.width, model\.mlp_width: "):
        memory.check(dataclasses.replace(experiment, model=model))
    mesh = dataclasses.replace(experiment.mesh, fsdp=8)
    memory.check(dataclasses.replace(experiment, model=model, mesh=mesh))


def wrapped(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/d/x"), "/d/x: Disk quota exceeded"),
        (
            RuntimeError("write() failed: File too large; writing /d/part-0; at byte 8192"),
            "/d/part-0: File too large; finished files are kept",
        ),
        (
            RuntimeError("close() failed: Stale file handle; writing /d/part-0"),
            "/d/part-0: Stale file handle; finished files are kept",
        ),
        (
            wrapped(KeyError("driver"), OSError(errno.EIO, "Input/output error")),
            "Input/output error; finished files are kept",
        ),
        (
            ValueError(
                'RESOURCE_EXHAUSTED: Error opening "zarr3" [OS error 24: Too many open files]'
            ),
            "Too many open files; finished files are kept",
        ),
        (
            MemoryError("Unable to allocate 7 TiB\nmore"),
            "not enough memory (Unable to allocate 7 TiB); ",
        ),
        (MemoryError(), "not enough memory (MemoryError); lower batch_size or raise "),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
            "not enough memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.); lower ",
        ),
        (ValueError("shapes differ"), None),
    ],
)
def test_what_the_system_refuses_is_one_line(error, line):
    found = as_user_error(error)
    if line is None:
        assert found is None
        return
    assert isinstance(found, UserError)
    assert found.status == 2
    assert str(found).startswith(line)


@pytest.mark.parametrize("most", [100, 8192])  # of bytes a file
def test_data_that_cannot_be_written_are_written_by_the_same_command(
    tmp_path, config_file, capsys, most
):
    out = tmp_path / "data"
    argv = "data", f"--config={config_file}", f"--out={out}", "--config.data.variant=multi5"
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        message = complaint(capsys, *argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert re.fullmatch(r"kstore: .*data.*: File too large(; finished files are kept)?", message)
    assert cli.main([*argv]) == 0


def test_as_many_files_may_be_open_as_the_system_allows(monkeypatch):
    limits = [(64, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    files.allow_open_files()
    assert limits[-1] == (4096, 4096)
    limits.append((24, 24))
    with pytest.raises(UserError, match=r"^ulimit -n: expected at least 256 open files, got 24$"):
        files.allow_open_files()
    limits.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    files.allow_open_files()


def save_two(folder: pathlib.Path) -> None:
    for step in (1, 2):
        with open_checkpoints(folder) as checkpoints:
            checkpoints.save(step, trainable=TREE)


@orbax_drops_coroutines
@pytest.mark.parametrize(
    "name",
    ["_CHECKPOINT_METADATA", "trainable/_METADATA", "trainable/manifest.ocdbt", "trainable/d/*"],
)
def test_a_checkpoint_that_may_not_be_read_is_not_deleted(tmp_path, name):
    save_two(tmp_path)
    for path in tmp_path.glob(f"2/{name}"):  # a link to itself; root may read every other file
        path.unlink()
        path.symlink_to(path)
    before = sorted(tmp_path.rglob("*"))
    reason = os.strerror(errno.ELOOP)
    with open_checkpoints(tmp_path) as checkpoints, pytest.raises(UserError) as raised:
        checkpoints.resume(trainable=TREE)
    assert not isinstance(raised.value, DamagedFileError)
    assert re.fullmatch(
        rf"{tmp_path}/2: cannot be read \({tmp_path}/2/.*: {reason}\)", str(raised.value)
    )
    assert sorted(tmp_path.rglob("*")) == before
    gc.collect()


def test_memory_that_runs_out_while_a_checkpoint_is_read_does_not_damage_it(tmp_path, monkeypatch):
    save_two(tmp_path)

    def read(*_):
        raise wrapped(ValueError("no handler"), MemoryError("9 bytes"))

    with open_checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints, "_read", read)
        with pytest.raises(ValueError, match="no handler") as raised:
            checkpoints.resume(trainable=TREE)
        assert checkpoints.steps == [1, 2]
    assert str(as_user_error(raised.value)).startswith("not enough memory (9 bytes); lower ")


@orbax_drops_coroutines
@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("eval", "config.json"),
        ("eval", "stages/finetune-*/result.json"),
        ("eval", "stages/pretrain-*/checkpoints/24/trainable/manifest.ocdbt"),
        ("sweep", "config.json"),
        ("sweep", "stages/shards-*/dataset/manifest.json"),
        ("sweep", "stages/shards-*/dataset/part-*"),
        ("sweep", "stages/qa-*/result.json"),
    ],
)
def test_a_file_that_may_not_be_read_is_named_with_the_systems_error(
    finished, config_file, capsys, monkeypatch, command, name
):
    unreadable = {str(path) for path in finished.glob(name)}
    assert unreadable
    original = pathlib.Path.open

    def refuse(path, *arguments, **options):
        if str(path) in unreadable:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "open", refuse)

    def read_text(path, encoding=None):
        with refuse(path, encoding=encoding) as file:
            return file.read()

    monkeypatch.setattr(pathlib.Path, "read_text", read_text)
    if command == "eval":
        message = complaint(capsys, "eval", finished, "--row=0", "--beam=1")
    else:
        message = complaint(capsys, "sweep", f"--config={config_file}", f"--workdir={finished}")
    assert message.removeprefix("kstore: ").removesuffix(": Permission denied") in unreadable
    gc.collect()


def swap(one: pathlib.Path, other: pathlib.Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def swap_datasets(run: pathlib.Path) -> None:
    swap(*sorted(run.glob("stages/shards-*/dataset")))


def sign_anew(run: pathlib.Path) -> None:
    path = next(run.glob("stages/shards-*/dataset/manifest.json"))
    manifest = json.loads(path.read_text())
    manifest["config"]["people"] = 7
    path.write_text(json.dumps({**manifest, "sha256": _checksum(manifest)}))


def swap_stages(run: pathlib.Path) -> None:
    swap(*sorted(run.glob("stages/qa-*")))


def swap_checkpoints(run: pathlib.Path) -> None:
    swap(*sorted(run.glob("stages/pretrain-*/checkpoints")))
    for path in run.glob("stages/pretrain-*/result.json"):
        path.unlink()


@pytest.mark.parametrize(
    ("change", "status", "line"),
    [
        (swap_datasets, 1, "stages/(shards-.*)/dataset/manifest.json: damaged; remove .*/\\1 and"),
        (sign_anew, 1, "stages/(shards-.*)/dataset/manifest.json: damaged; remove .*/\\1 and"),
        (swap_stages, 1, "stages/(qa-.*)/result.json: is of qa-.*; remove .*/\\1 and"),
        (swap_checkpoints, 2, "checkpoints/24: is a checkpoint of pretrain-.*; remove it and"),
    ],
)
def test_files_of_another_stage_are_named(copied, config_file, capsys, change, status, line):  # noqa: F811
    change(copied)
    before = {path for path in contents(copied) if "provenance" not in path}
    argv = "sweep", f"--config={config_file}", f"--workdir={copied}", "--workers=1"
    assert cli.main([*argv]) == status
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert re.search(f"kstore: .*{line} run again", errors)
    assert before <= set(contents(copied))


def test_a_run_of_several_devices_is_read_on_one(copied, capsys):  # noqa: F811
    path = copied / "config.json"
    config = json.loads(path.read_text())
    for row in config["rows"]:
        row["mesh"] = {"data": 1, "fsdp": 2, "tensor": 2}
    path.write_text(json.dumps(config))
    assert cli.main(["eval", str(copied), "--row=0", "--beam=1", "--show=0"]) == 0
    out = copied / "model"
    assert cli.main(["export", str(copied), "--row=0", f"--out={out}"]) == 0
    assert (out / "config.json").exists()


def test_a_run_of_an_accelerator_is_read_with_the_attention_there_is(finished):
    graph = read_graphs(finished)[0]
    object.__setattr__(graph.experiment.model, "attention", "splash")
    assert build_context(graph).shape.attention == "splash"
    assert build_context(graph, to_read=True).shape.attention == "dense"
