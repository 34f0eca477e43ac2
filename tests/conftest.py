"""Settings and fixtures of all tests."""

import os
import pathlib
import subprocess
import sys

# Read by JAX when it is imported, here and in the processes that tests start.
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# The models of the tests take longer to compile than to train. Set to 0 where it matters.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import filelock
import numpy as np
import pytest
from hypothesis import settings

import tests.compiled  # noqa: F401  # after the environment is set, before anything is compiled
from kstore_jax.corpus.encode import TokenTable, token_table
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.world.biographies import Biographies, Variant, write_biographies
from kstore_jax.world.language import Language, load_language
from kstore_jax.world.people import draw_people

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def language() -> Language:
    """The bundled pools, templates and questions."""
    return load_language()


@pytest.fixture(scope="session")
def biographies(language):
    """`(variant, ids, seed) -> Biographies`: every entry of these people, person by person."""

    def write(variant: str, ids: np.ndarray, seed: int = 0) -> Biographies:
        parsed = Variant.parse(variant)
        per_person = parsed.biographies_per_person
        entries = np.tile(np.arange(per_person), len(ids))
        people = draw_people(language.pools, seed, np.repeat(ids, per_person))
        return write_biographies(language, seed, parsed, people, entries)

    return write


@pytest.fixture(scope="session")
def table(language) -> TokenTable:
    """GPT-2's tokens of every piece of the bundled language."""
    return token_table(language, gpt2())


CONFIG = """
from kstore_jax.pipeline.experiment import default
from kstore_jax.config.rows import product


def get_config():
    config = default()
    config.world.people = 20
    config.data.vocabulary = "compact"
    config.model.update(layers=1, heads=2, width=16, dtype="float32")
    often = dict(steps_per_call=1, checkpoint_every=2)
    config.pretrain.update(steps=24, batch_size=4, seq_len=32, warmup_steps=4, **often)
    config.pretrain.learning_rate = 3e-3
    config.finetune.update(steps=24, batch_size=8, rank=2, embedding_rank=4, **often)
    config.readouts.p_probe.update(steps=24, batch_size=6, learning_rate=1e-2, **often)
    config.readouts.q_probe.update(steps=24, batch_size=8, embedding_rank=2, **often)
    config.readouts.q_probe.update(head="unembedding", embedding_update="shared", dropout=0.0)
    config.sweep = product(data__variant=["single", "multi2+permute"])
    return config
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory) -> pathlib.Path:
    """A configuration file of two tiny rows, which write a checkpoint every other step."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def sweep(config_file):
    """`(workdir, *overrides, **environment) -> Popen` of `kstore sweep` with two workers."""

    def start(workdir: pathlib.Path, *overrides: str, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "kstore_jax.cli", "sweep", f"--config={config_file}"]
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", "--workers=2", *overrides],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def finished(sweep, tmp_path_factory) -> pathlib.Path:
    """The workdir of a finished sweep, shared by all processes of the tests; read only."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the folder of the session holds one for each worker
        folder = folder.parent
    workdir = folder / "finished" / "run"
    with filelock.FileLock(folder / "finished.lock"):
        if not (workdir / "report.html").exists():
            process = sweep(workdir)
            output = process.communicate()
            assert process.returncode == 0, output
    return workdir
