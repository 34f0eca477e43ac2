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


def number(
    default: float, minimum: float, maximum: float | None = None, *, affects_result: bool = True
) -> Any:
    """A number from `minimum` to `maximum`, both included; the annotation is its type."""
    return _field(default, affects_result, minimum=minimum, maximum=maximum)


def choice(default: str, *choices: str, affects_result: bool = True) -> Any:
    """One of several names."""
    return _field(default, affects_result, choices=choices)


def text(default: str, *, affects_result: bool = True) -> Any:
    """Any text."""
    return _field(default, affects_result)


def flag(default: bool, *, affects_result: bool = True) -> Any:
    """True or false."""
    return _field(default, affects_result)


def rows(*, affects_result: bool = True) -> Any:
    """Rows of (field, value) pairs, as the functions of `config.rows` return; empty by default."""
    return _field((), affects_result)


def section(default: Any, *, affects_result: bool = True) -> Any:
    """A configuration inside another."""
    return _field(default, affects_result)


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


@functools.cache
def types_of(kind: type) -> dict[str, Any]:
    """The types of the fields of a configuration by name."""
    return typing.get_type_hints(kind)


@functools.cache
def fields_of(kind: type) -> dict[str, dataclasses.Field]:
    """The declared fields of a configuration by name."""
    return {field.name: field for field in dataclasses.fields(kind)}


def as_dict(config: Any) -> dict:
    """Returns a configuration as nested dictionaries of plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def identity(config: Any) -> dict:
    """Returns the fields of a configuration that affect results, as plain JSON values.

    Fields declared with `affects_result=False` (names, checkpoint intervals, devices) are left out.
    """
    return identity_of(type(config), as_dict(config))


def identity_of(kind: type, plain: dict) -> dict:
    """Returns the `identity` of a configuration `kind` that is given as plain values; fields that
    `kind` does not declare are included."""
    fields, types = fields_of(kind), types_of(kind)
    result_fields = {}
    for name, value in plain.items():
        if name in fields and not fields[name].metadata.get("affects_result", True):
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
