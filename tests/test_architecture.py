"""The rooms of the package: imports point one way, without cycles; sizes are limited.

config <- world <- corpus, config <- model, both <- train <- tasks and readouts <- pipeline <- sweep
and report <- cli; writers beside corpus.
"""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "kstore_jax"
LOW = {"errors", "files"}
ROOMS = {  # room or module: the rooms it may import
    "errors": set(),
    "files": {"errors"},
    "intervals": set(),
    "config": {"errors"},
    "charts": set(),
    "world": {"errors", "config"},
    "corpus": {*LOW, "config", "world"},
    "writers": {*LOW, "intervals", "config", "world", "corpus"},
    "model": {*LOW, "config"},
    "train": {*LOW, "config", "world", "corpus", "model"},
    "tasks": {*LOW, "config", "world", "corpus", "model", "train"},
    "readouts": {
        *(*LOW, "intervals", "config", "charts", "world", "corpus", "model", "train", "tasks")
    },
}
ROOMS["pipeline"] = {*ROOMS["readouts"], "readouts", "writers"}
ROOMS["report"] = {*ROOMS["pipeline"], "pipeline"}
ROOMS["api"] = {*ROOMS["pipeline"], "pipeline"}
ROOMS["bench"] = {*ROOMS["pipeline"], "pipeline"}
ROOMS["sweep"] = {*ROOMS["report"], "report", "bench"}
ROOMS["cli"] = {*ROOMS["sweep"], "sweep", "api"}
LIBRARIES = {  # library: the rooms that may import it
    "tensorflow_datasets": {"corpus"},
    "datasets": {"corpus"},
    "pyarrow": {"corpus"},
    "tensorflow": set(),
    "tensorboardX": {"train"},
    "wandb": {"train"},
    "aiohttp": {"writers"},
    "uvloop": {"writers"},
}
TFDS_BUILDER = "kstore_jax.corpus.bio_s"  # for other programs; no module imports it
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "configs"]
MOST_LINES = 400
MOST_OF_PACKAGE = 1 / 5


def imports_of(source: str) -> set[str]:
    """The dotted names of all imports of a source, in functions and `if TYPE_CHECKING` too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "expected absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def forbidden_imports(room: str, source: str) -> set[str]:
    """The imports of a source in `room` that the design forbids."""
    forbidden = set()
    for name in imports_of(source):
        package, *path = name.split(".")
        if package == "kstore_jax":
            allowed = path[0] in {room, *ROOMS[room]} and not name.startswith(TFDS_BUILDER)
        elif package in LIBRARIES:
            allowed = room in LIBRARIES[package]
        else:
            allowed = room != "world" or package in {"numpy", *sys.stdlib_module_names}
        forbidden |= set() if allowed else {name}
    return forbidden


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = room_of(path)
    assert room == "__init__" or room in ROOMS, f"{room} is not a room of the design"
    if room != "__init__":
        assert forbidden_imports(room, path.read_text()) == set()


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("world", "import jax"),
        ("world", "import grain.python as grain"),
        ("world", "from kstore_jax.corpus import encode"),
        ("world", "def f():\n    from flax import linen"),
        ("corpus", "from kstore_jax import model"),
        ("corpus", "import kstore_jax.train.fit"),
        ("model", "from kstore_jax.world.people import draw_people"),
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
def test_a_forbidden_import_is_detected(room, line):
    assert forbidden_imports(room, line)


@pytest.mark.parametrize("library", ["tensorflow_datasets", "datasets"])
def test_corpus_may_import_libraries_of_data_sets(library):
    assert forbidden_imports("corpus", f"import {library}") == set()


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_cycle(sources: dict[str, str]) -> list[str]:
    """The modules of one import cycle, the first one again at the end; empty where there is none.

    Args:
      sources: dotted module names and their sources.
    """
    graph = {}
    for name, source in sources.items():
        imports = imports_of(source)  # of modules and of things in them
        modules = imports | {imported.rpartition(".")[0] for imported in imports}
        graph[name] = modules & set(sources) - {name}
    finished: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        for target in sorted(graph[name] - finished):
            if cycle := search(target, [*path, name]):
                return cycle
        finished.add(name)
        return []

    return next((cycle for name in sorted(graph) if (cycle := search(name, []))), [])


def test_no_import_cycles():
    assert import_cycle({module_name(path): path.read_text() for path in SOURCES}) == []


@pytest.mark.parametrize(
    "last",
    [
        "import p.a",
        "from p import a",
        "from p.a import f",
        "def f():\n    from p.a import f",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import f",
    ],
)
def test_an_import_cycle_is_detected(last):
    sources = {"p.a": "from p import b", "p.b": "import p.c", "p.d": "from p.a import f"}
    assert import_cycle({**sources, "p.c": ""}) == []
    assert import_cycle({**sources, "p.c": last}) == ["p.a", "p.b", "p.c", "p.a"]


def long_files(lines: dict[str, int]) -> set[str]:
    """The files above MOST_LINES lines."""
    return {name for name, count in lines.items() if count > MOST_LINES}


def large_rooms(lines: dict[str, int]) -> set[str]:
    """The folders above MOST_OF_PACKAGE of all lines.

    Args:
      lines: paths within the package and their numbers of lines.
    """
    rooms: dict[str, int] = {}
    for name, count in lines.items():
        room, slash, _ = name.partition("/")
        if slash:
            rooms[room] = rooms.get(room, 0) + count
    return {room for room, count in rooms.items() if count > MOST_OF_PACKAGE * sum(lines.values())}


def package_lines() -> dict[str, int]:
    return {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in SOURCES
    }


def test_no_file_is_long():
    assert long_files(package_lines()) == set()


def test_a_long_file_is_detected():
    assert long_files({"a/b.py": MOST_LINES, "a/c.py": MOST_LINES + 1}) == {"a/c.py"}


def test_no_room_is_large():
    assert large_rooms(package_lines()) == set()


def test_a_large_room_is_detected():
    rooms = {f"{room}/x.py": 100 for room in "abcd"}
    assert large_rooms({**rooms, "e/x.py": 50, "e/y.py": 50}) == set()
    assert large_rooms({**rooms, "e/x.py": 50, "e/y.py": 51}) == {"e"}
    assert large_rooms({**rooms, "e.py": 1000}) == set()
