"""Imports point one way: config <- world <- corpus, config <- model, both <- train <- tasks and
readouts <- pipeline <- sweep and report <- cli; writers beside corpus."""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "kstore_jax"
LOW = {"errors", "files"}
ROOMS = {  # room or module: the rooms it may import
    "errors": set(),
    "files": {"errors"},
    "config": {"errors"},
    "world": {"errors", "config"},
    "corpus": {*LOW, "config", "world"},
    "writers": {*LOW, "config", "world", "corpus"},
    "model": {*LOW, "config"},
    "train": {*LOW, "config", "world", "corpus", "model"},
    "tasks": {*LOW, "config", "world", "corpus", "model", "train"},
    "readouts": {*LOW, "config", "world", "corpus", "model", "train", "tasks"},
}
ROOMS["pipeline"] = {*ROOMS["readouts"], "readouts", "writers"}
ROOMS["report"] = {*ROOMS["pipeline"], "pipeline"}
ROOMS["bench"] = {*ROOMS["pipeline"], "pipeline"}
ROOMS["sweep"] = {*ROOMS["report"], "report", "bench"}
ROOMS["cli"] = {*ROOMS["sweep"], "sweep"}
LIBRARIES = {  # the rooms that may import it
    "tensorflow_datasets": {"corpus"},
    "datasets": {"corpus"},
    "tensorflow": set(),
    "tensorboardX": {"train"},
    "wandb": {"train"},
    "aiohttp": {"writers"},
    "uvloop": {"writers"},
}
FOR_OTHERS = "kstore_jax.corpus.bio_s"  # the TFDS builder, which nothing of ours needs
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "configs"]


def imported(source: str) -> set[str]:
    """The dotted names of everything a source imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def broken_arrows(room: str, source: str) -> set[str]:
    """The imports of a source in `room` that the design forbids."""
    broken = set()
    for name in imported(source):
        package, *path = name.split(".")
        if package == "kstore_jax":
            allowed = path[0] in {room, *ROOMS[room]} and not name.startswith(FOR_OTHERS)
        elif package in LIBRARIES:
            allowed = room in LIBRARIES[package]
        else:
            allowed = room != "world" or package in {"numpy", *sys.stdlib_module_names}
        broken |= set() if allowed else {name}
    return broken


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room == "__init__" or room in ROOMS, f"{room} is no room of the design"
    if room != "__init__":
        assert broken_arrows(room, path.read_text()) == set()


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("world", "import jax"),
        ("world", "import grain.python as grain"),
        ("world", "from kstore_jax.corpus import encode"),
        ("world", "def f():\n    from flax import linen"),
        ("corpus", "from kstore_jax import model"),
        ("corpus", "import kstore_jax.train.fit"),
        ("model", "from kstore_jax.world.people import people"),
        ("model", "from kstore_jax.corpus.encode import TokenizedTexts"),
        ("train", "from kstore_jax.readouts import qa"),
        ("readouts", "from kstore_jax.pipeline.stages import Cache"),
        ("tasks", "from kstore_jax.readouts import qa"),
        ("pipeline", "from kstore_jax.report import page"),
        ("report", "from kstore_jax.sweep import run"),
        ("writers", "from kstore_jax.pipeline.experiment import Experiment"),
        ("corpus", "from kstore_jax.writers import journal"),
        ("config", "from kstore_jax.world.config import World"),
        ("sweep", "from kstore_jax.cli import main"),
        ("errors", "from kstore_jax.config import parse"),
        ("pipeline", "import tensorflow_datasets as tfds"),
        ("model", "import datasets"),
        ("corpus", "import tensorflow as tf"),
        ("pipeline", "import kstore_jax.corpus.bio_s"),
        ("corpus", "from kstore_jax.corpus.bio_s import BioS"),
    ],
)
def test_an_arrow_the_other_way_is_seen(room, line):
    assert broken_arrows(room, line)


@pytest.mark.parametrize("library", ["tensorflow_datasets", "datasets"])
def test_corpus_may_import_what_reads_data_sets(library):
    assert broken_arrows("corpus", f"import {library}") == set()
