"""Registries of plug-ins, and the fields of a configuration that they fill.

An entry of a registry is an instance of a class with a `name` and a `Config`, a frozen dataclass
that holds the entry's own fields. A configuration has the fields of one chosen entry (`one_of`) or
of every entry (`group`):

>>> @dataclasses.dataclass(frozen=True)
... class Beta:
...     beta: float = 0.9
>>> SHAPES = Registry("shape")
>>> @SHAPES.register
... class Round:
...     name, Config = "round", Beta
>>> @dataclasses.dataclass(frozen=True)
... class Drawing:
...     shape: Any = one_of(SHAPES, "round")
...     shapes: Any = group(SHAPES)
>>> Drawing().shape.beta, Drawing().shapes.round.beta
(0.9, 0.9)
>>> SHAPES.of(Drawing().shape).name
'round'
"""

import contextlib
import dataclasses
import importlib
import keyword
import pkgutil
import sys
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Generic, TypeVar

from ml_collections import ConfigDict

from kstore_jax.errors import UserError, nearest, shown, user_path

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """The entries of one kind by name.

    Args:
      kind: what an entry is, in words, for error messages.
      package: the package whose modules register the built-in entries; they are imported when an
        entry is first needed. Empty: none.
      reserved: names that no entry may have.
    """

    def __init__(self, kind: str, package: str = "", reserved: Collection[str] = ()):
        self.kind = kind
        self._reserved = reserved
        self._package = package
        self._entries: dict[str, Any] = {}
        self._group: type | None = None

    def register(self, cls: type) -> type:
        """Adds an instance of `cls`; a decorator.

        Raises:
          ValueError: another class has the name or the `Config`, or the name is reserved or not an
            identifier.
        """
        entry: Any = cls()
        if not entry.name.isidentifier() or keyword.iskeyword(entry.name):
            raise ValueError(
                f"{self.kind} {entry.name!r}: expected a name of letters, digits and _"
            )
        if entry.name in self._reserved or entry.name in dir(ConfigDict):
            raise ValueError(f"{self.kind} {entry.name}: another thing has this name")
        for name, other in self._entries.items():
            same = (type(other).__module__, type(other).__qualname__)
            if same == (cls.__module__, cls.__qualname__):
                continue  # the module was reloaded
            if name == entry.name or other.Config is entry.Config:
                raise ValueError(f"{self.kind} {entry.name}: {name} has the same name or Config")
        self._entries[entry.name] = entry
        self._group = None
        return cls

    def unregister(self, name: str) -> None:
        """Removes an entry."""
        del self._entries[name]
        self._group = None

    def _loaded(self) -> dict[str, Any]:
        if package := self._package:
            self._package = ""
            path = importlib.import_module(package).__path__
            for module in pkgutil.iter_modules(path, f"{package}."):
                importlib.import_module(module.name)
        return self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._loaded()))

    def __contains__(self, name: str) -> bool:
        return name in self._loaded()

    def __getitem__(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
          UserError: there is none.
        """
        entries = self._loaded()
        if name not in entries:
            raise UserError(f"no {self.kind} {name!r}{nearest(str(name), entries)}")
        return entries[name]

    def entries(self) -> dict[str, Entry]:
        """All entries by name, in the order of their names."""
        return {name: self[name] for name in self}

    def of(self, config: Any) -> Entry:
        """The entry whose `Config` a configuration is.

        Raises:
          KeyError: there is none.
        """
        for entry in self._loaded().values():
            if entry.Config is type(config):
                return entry
        raise KeyError(f"{type(config).__name__}: not the configuration of a {self.kind}")

    def group(self) -> type:
        """The frozen dataclass with the configuration of every entry, a field each."""
        entries: dict[str, Any] = dict(sorted(self._loaded().items()))
        if self._group is None:
            fields = [(name, e.Config, _nested(e.Config)) for name, e in entries.items()]
            title = f"{self.kind.capitalize()}s"
            docs = f"Every {self.kind}, with its own fields."
            namespace = {"__doc__": docs}
            self._group = dataclasses.make_dataclass(
                title, fields, frozen=True, namespace=namespace
            )
        return self._group


def _nested(kind: type) -> Any:
    return dataclasses.field(default_factory=kind, metadata={"affects_result": True})


def one_of(registry: Registry, default: str, *, affects_result: bool = True) -> Any:
    """A field that names one entry of a registry; its value is that entry's `Config`.

    As plain values it is two keys beside each other: the name, and under that name the entry's own
    fields, `{"optimizer": "muon", "muon": {"momentum": 0.95}}`.
    """

    def chosen() -> Any:
        entry: Any = registry[default]
        return entry.Config()

    metadata = {"affects_result": affects_result, "one_of": registry, "default": default}
    return dataclasses.field(default_factory=chosen, metadata=metadata)


def group(registry: Registry, *, affects_result: bool = True) -> Any:
    """A field that holds the configuration of every entry of a registry."""
    metadata = {"affects_result": affects_result, "group": registry}
    return dataclasses.field(default_factory=lambda: registry.group()(), metadata=metadata)


class MissingPlugin(UserError):
    """No module has the name of a plug-in."""


def import_plugins(modules: Any, folders: Any = ()) -> None:
    """Imports modules that register plug-ins. They are looked for where Python looks, then in the
    current folder, then in `folders`.

    Raises:
      MissingPlugin: there is no such module.
      UserError: a module fails; one line that names it.
    """
    for field, names in (("plugins", modules), ("plugin_folders", folders)):
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{field}: expected a list of names, got {shown(names)}")
    with search_path([str(user_path(folder)) for folder in folders]):
        for name in modules:
            _import(name)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a plug-in is a program and may raise anything
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise MissingPlugin(f"plugins: {name}: no such module") from None
        raise UserError(f"plugins: {name}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def search_path(folders: Iterable[str]) -> Iterator[None]:
    """Lets Python find modules in the current folder and in `folders` too, last, while the block
    runs. Afterwards no file there is taken for a package that is not installed."""
    added = [folder for folder in ("", *folders) if folder not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)
