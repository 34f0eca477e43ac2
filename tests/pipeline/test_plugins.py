"""A whole experiment with the architecture and the optimizer of `docs/extending.md`."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import recipes
from tests.conftest import CONFIG

CHOICES = """
    add_plugins(config, "canon", "lion")
    config.model.architecture = "canon"
    config.model.canon.width = 3
    config.pretrain.optimizer = "lion"
    config.pretrain.lion.b2 = 0.98
    config.sweep = ()
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A folder with the two plug-ins and a configuration that chooses them."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "canon.py").write_text(recipes.source("An architecture"))
    (folder / "lion.py").write_text(recipes.source("An optimizer"))
    config = CONFIG.replace("import default\n", "import add_plugins, default\n")
    (folder / "tiny.py").write_text(config.replace("\n    return config\n", CHOICES))
    return folder


def kstore(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment["PYTHONPATH"] = str(recipes.PAGE.parents[1])
    command = [sys.executable, "-m", "kstore_jax.cli", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )


def test_an_experiment_of_plugins_runs_and_is_not_exported(folder):
    ran = kstore(folder, "run", "--config=tiny.py", "--workdir=out", "--config.model.canon.width=2")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert len(json.loads((folder / "out" / "results.json").read_text())["rows"]) == 1
    (row,) = json.loads((folder / "out" / "config.json").read_text())["rows"]
    assert row["plugins"] == ["canon", "lion"]
    assert (row["model"]["architecture"], row["model"]["canon"]) == ("canon", {"width": 2})
    pretrain = row["pretrain"]
    assert (pretrain["optimizer"], pretrain["lion"]) == ("lion", {"b1": 0.9, "b2": 0.98})
    assert "adamw" not in pretrain
    exported = kstore(folder, "export", "--run=out", "--out=model")
    assert exported.returncode == 2
    (line,) = exported.stderr.splitlines()
    assert line.endswith("expected transformer for an exchange with Hugging Face, got canon")
    assert not (folder / "model").exists()
