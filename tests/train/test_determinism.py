"""The option for the same bits after a restart on a GPU, as far as a CPU shows it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from importlib import metadata

import pytest

from kstore_jax.config.fields import identity
from kstore_jax.pipeline.experiment import parse
from kstore_jax.train import determinism
from tests.sweep.sweeps import states

FLAGS = (
    "xla_gpu_exclude_nondeterministic_ops",
    "xla_gpu_per_fusion_autotune_cache_dir",
)


@pytest.fixture
def environment(monkeypatch) -> pytest.MonkeyPatch:
    """Restores XLA_FLAGS at the end; the backend counts as not started."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    monkeypatch.setattr(determinism.xla_bridge, "backends_are_initialized", lambda: False)
    return monkeypatch


def flags() -> dict[str, str]:
    words = os.environ["XLA_FLAGS"].split()
    return dict(word.removeprefix("--").split("=") for word in words)


def test_the_flags_are_added_to_those_of_the_user(environment, tmp_path, capsys):
    folder = determinism.set_flags(tmp_path)
    assert folder == tmp_path / ".autotune" / metadata.version("jaxlib")
    assert flags() == {
        "xla_force_host_platform_device_count": "1",
        FLAGS[0]: "true",
        FLAGS[1]: str(folder),
    }
    assert not list(tmp_path.iterdir())  # `run` makes the folder after its checks
    determinism.set_flags(tmp_path)
    assert os.environ["XLA_FLAGS"].count(FLAGS[0]) == 1
    environment.setenv("XLA_FLAGS", f"--{FLAGS[0]}=false")
    determinism.set_flags(tmp_path)
    assert flags()[FLAGS[0]] == "false"
    assert capsys.readouterr().err == ""


def test_a_flag_that_jaxlib_does_not_know_is_left_out(environment, tmp_path):
    assert all(map(determinism.is_known, FLAGS))
    assert not determinism.is_known("xla_gpu_no_such_flag_of_any_version")
    environment.setattr(determinism, "_EXCLUDE", "xla_gpu_no_such_flag_of_any_version")
    determinism.set_flags(tmp_path)
    assert set(flags()) == {"xla_force_host_platform_device_count", FLAGS[1]}


def test_flags_that_come_too_late_are_noted(environment, tmp_path, capsys):
    environment.setattr(determinism.xla_bridge, "backends_are_initialized", lambda: True)
    determinism.set_flags(tmp_path)
    assert capsys.readouterr().err.startswith("note: mesh.deterministic: JAX has started already")


def test_the_option_changes_no_key():
    plain, exact = parse({}), parse({"mesh": {"deterministic": True}})
    assert plain != exact
    assert identity(plain) == identity(exact)


def test_with_the_option_a_resumed_run_ends_with_the_same_bits(config_file, tmp_path):
    """Every process starts JAX after the flags are set."""
    argv = [sys.executable, "-m", "kstore_jax.cli", "run", f"--config={config_file}"]
    argv += ["--config.mesh.deterministic=True", "--config.until=pretrain"]

    def run(name: str) -> pathlib.Path:
        workdir = tmp_path / name
        done = subprocess.run(
            [*argv, f"--workdir={workdir}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "mesh.deterministic" not in done.stderr  # the flags were in time
        assert list(workdir.glob("stages/.autotune/*"))
        (stage,) = workdir.glob("stages/pretrain-*")
        *_, last = sorted(stage.glob("provenance-*.json"))
        of_process = json.loads(last.read_text())["flags"]["XLA_FLAGS"]
        assert all(flag in of_process for flag in FLAGS)
        return stage

    run("whole")
    stage = run("cut")
    (stage / "result.json").unlink()  # as after a kill before the last checkpoint
    shutil.rmtree(stage / "checkpoints" / "24")
    run("cut")
    assert len(list(stage.glob("provenance-*.json"))) == 2
    whole, cut = states(tmp_path / "whole"), states(tmp_path / "cut")
    assert len(whole) > 10
    assert whole == cut
