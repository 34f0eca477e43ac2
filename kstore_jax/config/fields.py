"""How a configuration declares its fields, and what those fields mean for results.

A configuration is a frozen dataclass. Each field is declared by one of the functions here, with its
default and its limits, and documented by the string below it:

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
    """A number from `least` to `most`; its type is the annotation's."""
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
    """The documentation of every field of a configuration, inherited ones included."""
    docs = {}
    for one in reversed(kind.__mro__[:-1]):
        declared = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(declared, ast.ClassDef)
        for field, doc in itertools.pairwise(declared.body):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                name, text = ast.unparse(field.target), ast.literal_eval(doc.value)
                docs[name] = " ".join(text.split())
    return docs


types_of = functools.cache(typing.get_type_hints)


@functools.cache
def fields_of(kind: type) -> dict[str, dataclasses.Field]:
    """The declared fields of a configuration by name."""
    return {field.name: field for field in dataclasses.fields(kind)}


def as_dict(config: Any) -> dict:
    """A configuration, or a section of one, as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def identity(config: Any) -> dict:
    """The fields of a configuration on which results depend, as plain JSON values.

    Fields declared with `affects_result=False` are left out (names, checkpoint intervals, devices).
    """
    return identity_of(type(config), as_dict(config))


def identity_of(kind: type, plain: dict) -> dict:
    """`identity` of plain values of a configuration `kind`; unknown fields are kept."""
    fields, types = fields_of(kind), types_of(kind)
    found = {}
    for name, value in plain.items():
        if name in fields and not fields[name].metadata.get("affects_result", True):
            continue
        inside = isinstance(value, dict) and dataclasses.is_dataclass(types.get(name))
        found[name] = identity_of(types[name], value) if inside else value
    return found


def flatten(config: dict, path: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names, such as `{"pretrain.steps": 80000}`."""
    found = {}
    for name, value in config.items():
        inside = isinstance(value, dict)
        found |= flatten(value, f"{path}{name}.") if inside else {path + name: value}
    return found
