"""How a configuration declares its fields, and what those fields mean for results.

A configuration is a frozen dataclass. Each field is declared by one of the functions here, with its
default, its limits and one line of documentation:

>>> @dataclasses.dataclass(frozen=True)
... class Head:
...     width: int = number(64, 1, doc="Units of the hidden layer.")
...     name: str = text("", doc="Label on the page.", affects_result=False)
>>> identity(Head())
{'width': 64}
"""

import dataclasses
import functools
import json
import typing
from typing import Any


def number(
    default: float,
    least: float,
    most: float | None = None,
    *,
    doc: str,
    affects_result: bool = True,
) -> Any:
    """A number from `least` to `most`; its type is the annotation's."""
    return _field(default, doc, affects_result, least=least, most=most)


def choice(default: str, *choices: str, doc: str, affects_result: bool = True) -> Any:
    """One of several names."""
    return _field(default, doc, affects_result, choices=choices)


def text(default: str, *, doc: str, affects_result: bool = True) -> Any:
    """Any text."""
    return _field(default, doc, affects_result)


def flag(default: bool, *, doc: str, affects_result: bool = True) -> Any:
    """True or false."""
    return _field(default, doc, affects_result)


def rows(*, doc: str, affects_result: bool = True) -> Any:
    """Rows of (field, value) pairs, as the functions of `config.rows` return; empty by default."""
    return _field((), doc, affects_result)


def section(default: Any, *, doc: str = "", affects_result: bool = True) -> Any:
    """A configuration inside another."""
    return _field(default, doc, affects_result)


def _field(default: Any, doc: str, affects_result: bool, **limits: Any) -> Any:
    metadata = {"doc": doc, "affects_result": affects_result, **limits}
    return dataclasses.field(default=default, metadata=metadata)


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
