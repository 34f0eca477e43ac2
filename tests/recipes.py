"""The files that `docs/extending.md` shows, as plug-ins of a test."""

import contextlib
import importlib
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType

from kstore_jax.config.registry import Registry

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "extending.md"


def source(section: str) -> str:
    """The Python code of a section."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    return code


def write_files(folder: pathlib.Path) -> None:
    """Writes every file of the page, each a block below its name."""
    blocks = re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    for name, content in blocks:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


@contextlib.contextmanager
def plugin(section: str, registry: Registry) -> Iterator[ModuleType]:
    """Imports the code of a section; at the end, removes the entries that it registered."""
    before = set(registry)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, f"recipe_{section.split()[-1]}.py")
        path.write_text(source(section))
        sys.path.insert(0, folder)
        try:
            yield importlib.import_module(path.stem)
        finally:
            sys.path.remove(folder)
            sys.modules.pop(path.stem, None)
            for name in set(registry) - before:
                registry.unregister(name)
