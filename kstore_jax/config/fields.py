"""Fields of a configuration: declared with default, limits and documentation.

A configuration is a frozen dataclass. One of these functions declares each field, and the string
below the field documents it:

>>> @dataclasses.dataclass(frozen=True)
... class Head:
...     width: int = number(64, 1)
...     "Units of the hidden layer."
...     name: str = text("", affects_result=False)
...     "Label on the page."
>>> identity(Head())
{'width': 64}
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import textwrap
import typing
from typing import Any

LARGEST = 2**31 - 1
"""The largest whole number of a field: compiled programs count in 32 bits."""


def number(
    default: float,
    minimum: float,
    maximum: float | None = None,
    *,
    affects_result: bool = True,
    in_identity: str = "always",
) -> Any:
    """A finite number from `minimum` to `maximum`, both included; the annotation is its type. An
    `int` without a maximum is at most `LARGEST`.

    Args:
      in_identity: `always`; or `set`: `identity` leaves the field out where it has its default. A
        field that is added later keeps the keys of stages that way.
    """
    limits = {"minimum": minimum, "maximum": maximum, "in_identity": in_identity}
    return _field(default, affects_result, **limits)


def choice(
    default: str, *choices: str, affects_result: bool = True, in_identity: str = "always"
) -> Any:
    """One of several names; `in_identity` as `number` takes it."""
    return _field(default, affects_result, choices=choices, in_identity=in_identity)


def text(default: str, *, affects_result: bool = True) -> Any:
    """Any text."""
    return _field(default, affects_result)


def flag(default: bool, *, affects_result: bool = True, in_identity: str = "always") -> Any:
    """True or false.

    Args:
      in_identity: as for `number`.
    """
    return _field(default, affects_result, in_identity=in_identity)


def rows(*, affects_result: bool = True) -> Any:
    """Rows of (field, value) pairs, as the functions of `config.rows` return; empty by default."""
    return _field((), affects_result)


def path(default: str, *, affects_result: bool = True) -> Any:
    """The path of a file or folder, where `~` is the home folder, also after a prefix such as
    `tfds:`; a text without `~` may also be a name."""
    return _field(default, affects_result, kind="path")


def names(*default: str, affects_result: bool = True, in_identity: str = "always") -> Any:
    """A tuple of texts; `in_identity` as `number` takes it."""
    return _field(default, affects_result, kind="names", in_identity=in_identity)


def section(kind: type, *, affects_result: bool = True) -> Any:
    """A configuration inside another."""
    metadata = {"affects_result": affects_result}
    return dataclasses.field(default_factory=kind, metadata=metadata)


def _field(default: Any, affects_result: bool, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"affects_result": affects_result, **limits})


@functools.cache
def docs_of(kind: type) -> dict[str, str]:
    """The documentation of every field of a configuration by name, inherited fields included."""
    docs = {}
    for base in reversed(kind.__mro__[:-1]):
        class_node = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(class_node, ast.ClassDef)
        for field, doc in itertools.pairwise(class_node.body):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                docs[ast.unparse(field.target)] = " ".join(ast.literal_eval(doc.value).split())
    return docs


def types_of(kind: type) -> dict[str, Any]:
    """The types of the fields of a configuration by name."""
    types = dict(_declared_types(kind))
    for name, field in fields_of(kind).items():
        if (registry := field.metadata.get("group")) is not None:
            types[name] = registry.group()
    return types


@functools.cache
def _declared_types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@functools.cache
def fields_of(kind: type) -> dict[str, dataclasses.Field]:
    """The declared fields of a configuration by name."""
    return {field.name: field for field in dataclasses.fields(kind)}


def default_of(field: dataclasses.Field) -> Any:
    """The default value of a field."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def defaults(kind: type) -> dict[str, Any]:
    """The defaults of a configuration as nested dictionaries, with the fields of every entry that
    may be chosen (`registry.one_of`)."""
    plain: dict[str, Any] = {}
    types = types_of(kind)
    for name, field in fields_of(kind).items():
        if (registry := field.metadata.get("one_of")) is not None:
            plain[name] = field.metadata["default"]
            options = {n: defaults(e.Config) for n, e in registry.entries().items()}
            plain |= {n: fields for n, fields in options.items() if fields}
        elif dataclasses.is_dataclass(types[name]):
            plain[name] = defaults(types[name])
        else:
            plain[name] = default_of(field)
    return plain


def as_dict(config: Any) -> dict:
    """Returns a configuration as nested dictionaries of plain JSON values."""
    return _plain(config, every_field=True)


def identity(config: Any) -> dict:
    """Returns the fields of a configuration that affect results, as plain JSON values.

    Fields declared with `affects_result=False` (names, checkpoint intervals, devices) are left out,
    and fields with `in_identity="set"` where they have their default.
    """
    return _plain(config, every_field=False)


def _plain(config: Any, every_field: bool) -> dict:
    plain: dict[str, Any] = {}
    for name, field in fields_of(type(config)).items():
        value = getattr(config, name)
        if not every_field and not in_identity(field, value):
            continue
        if (registry := field.metadata.get("one_of")) is not None:
            plain[name] = registry.of(value).name
            if options := _plain(value, every_field):
                plain[plain[name]] = options
        elif dataclasses.is_dataclass(value):
            plain[name] = _plain(value, every_field)
        else:
            plain[name] = json.loads(json.dumps(value))
    return plain


def in_identity(field: dataclasses.Field, value: Any) -> bool:
    """Whether a field with this value is part of the `identity` of its configuration."""
    value = tuple(value) if isinstance(value, list) else value  # of JSON
    if field.metadata.get("in_identity") == "set" and value == field.default:
        return False
    return field.metadata.get("affects_result", True)


def identity_of(kind: type, plain: dict) -> dict:
    """Returns the `identity` of a configuration `kind` that is given as plain values; fields that
    `kind` does not declare are included."""
    fields, types = fields_of(kind), types_of(kind)
    result_fields = {}
    for name, value in plain.items():
        if name in fields and not in_identity(fields[name], value):
            continue
        inside = isinstance(value, dict) and dataclasses.is_dataclass(types.get(name))
        result_fields[name] = identity_of(types[name], value) if inside else value
    return result_fields


def flatten(config: dict, path: str = "") -> dict[str, Any]:
    """Returns a nested configuration by dotted names, such as `{"pretrain.steps": 80000}`."""
    flat = {}
    for name, value in config.items():
        inside = isinstance(value, dict)
        flat |= flatten(value, f"{path}{name}.") if inside else {path + name: value}
    return flat
