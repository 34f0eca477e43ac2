"""Reads plain values into a configuration and validates every field."""

import dataclasses
from typing import Any

from kstore_jax.config.fields import fields_of, types_of
from kstore_jax.errors import UserError, nearest


def parse(kind: type, given: Any, path: str = "") -> Any:
    """Returns `given`, a nested dictionary of plain values, as an instance of `kind`.

    A `kind` with a static method `expand` may accept fields that stand for several others: it
    receives the dictionary and returns the one to validate.

    Args:
      path: dotted prefix of the fields, for error messages.

    Raises:
      UserError: one line that names the field, the value found and the values expected.
    """
    if not isinstance(given, dict):
        raise UserError(f"{path.removesuffix('.')}: expected fields, got {given!r}")
    if hasattr(kind, "expand"):
        given = kind.expand(given)
    fields, types = fields_of(kind), types_of(kind)
    for name in given:
        if name not in fields:
            raise UserError(f"{path}{name}: no such field{nearest(name, fields)}")
    read = {
        name: parse(types[name], value, f"{path}{name}.")
        if dataclasses.is_dataclass(types[name])
        else _value(types[name], value, fields[name], path + name)
        for name, value in given.items()
    }
    try:
        return kind(**read)
    except UserError as error:
        raise UserError(f"{path}{error}") from None


def _value(kind: type, value: Any, field: dataclasses.Field, path: str) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and type(value) is list:
        value = tuple(value)
    if type(value) is not kind:
        raise UserError(f"{path}: expected {kind.__name__}, got {value!r}")
    least, most = field.metadata.get("minimum"), field.metadata.get("maximum")
    if least is not None and not value >= least:
        raise UserError(f"{path}: expected at least {least}, got {value!r}")
    if most is not None and not value <= most:
        raise UserError(f"{path}: expected at most {most}, got {value!r}")
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise UserError(f"{path}: {value!r} is not a choice{nearest(value, choices)}")
    return value
