"""One tiny sweep, run once, that the tests of this folder read."""

import os
import pathlib
import subprocess
import sys

import filelock
import pytest

import tests.compiled  # noqa: F401

CONFIG = """
from kstore_jax import config as c


def get_config():
    config = c.default()
    config.world.people = 20
    config.data.vocabulary = "compact"
    config.model.update(layers=1, heads=2, width=16, dtype="float32")
    often = dict(dispatch=1, checkpoint_every=2)
    config.pretrain.update(steps=24, batch=4, window=32, learning_rate=3e-3, warmup=4, **often)
    config.finetune.update(steps=24, batch=8, rank=2, embedding_rank=4, **often)
    config.p_probe.update(steps=24, batch=6, learning_rate=1e-2, **often)
    config.q_probe.update(steps=24, batch=8, embedding_rank=2, **often)
    config.q_probe.update(head="unembedding", updated="shared", dropout=0.0)
    config.sweep = c.product(data__variant=["single", "multi2+permute"])
    return config
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory) -> pathlib.Path:
    """The configuration of two tiny rows that write a checkpoint every other step."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def sweep(config_file):
    """`(workdir, overrides) -> Popen` of `kstore sweep` with two workers."""

    def start(workdir: pathlib.Path, *overrides: str, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "kstore_jax.cli", "sweep", f"--config={config_file}"]
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", "--workers=2", *overrides],
            env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def finished(sweep, tmp_path_factory) -> pathlib.Path:
    """The workdir of the sweep, which nothing disturbed; one for all processes of the tests. Not to
    be written to."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has its own folder in one of the session
        folder = folder.parent
    workdir = folder / "finished" / "run"
    with filelock.FileLock(folder / "finished.lock"):
        if not (workdir / "report.html").exists():
            process = sweep(workdir)
            said = process.communicate()
            assert process.returncode == 0, said
    return workdir
