"""Imports point one way, as the design says: world <- corpus <- train, model <- train and readout,
and lab alone knows them all."""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "kstore_jax"
ROOMS = {  # room or module: what it may import of ours, besides itself
    "errors": set(),
    "files": {"errors"},
    "rows": set(),
    "config": {"errors", "rows"},
    "recipes": {"errors", "config"},
    "journal": {"errors", "files"},
    "chat": {"errors"},
    "world": {"errors"},
    "corpus": {"errors", "files", "journal", "config", "world"},
    "model": {"errors", "config"},
    "train": {"errors", "files", "config", "world", "corpus", "model"},
    "readout": {"errors", "config", "corpus", "model", "train"},
    "lab": {
        "errors",
        "files",
        "journal",
        "chat",
        "config",
        "world",
        "corpus",
        "model",
        "train",
        "readout",
    },
    "arguments": {"errors"},
    "cli": {"errors", "arguments", "config", "lab"},
}
LIBRARIES = {  # the rooms that may import it
    "tensorflow_datasets": {"corpus"},
    "datasets": {"corpus"},
    "tensorflow": set(),
    "tensorboardX": {"train"},
    "wandb": {"train"},
    "aiohttp": {"chat"},
    "uvloop": {"chat"},
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
        ("model", "from kstore_jax.corpus.encode import TokenRows"),
        ("train", "from kstore_jax.readout import qa"),
        ("readout", "from kstore_jax.lab.stages import Cache"),
        ("readout", "from kstore_jax.world.people import people"),
        ("lab", "from kstore_jax.cli import main"),
        ("errors", "from kstore_jax.config import parse"),
        ("lab", "import tensorflow_datasets as tfds"),
        ("model", "import datasets"),
        ("corpus", "import tensorflow as tf"),
        ("lab", "import kstore_jax.corpus.bio_s"),
        ("corpus", "from kstore_jax.corpus.bio_s import BioS"),
    ],
)
def test_an_arrow_the_other_way_is_seen(room, line):
    assert broken_arrows(room, line)


@pytest.mark.parametrize("library", ["tensorflow_datasets", "datasets"])
def test_corpus_may_import_what_reads_data_sets(library):
    assert broken_arrows("corpus", f"import {library}") == set()
