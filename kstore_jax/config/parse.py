"""Parses plain values into a configuration and validates every field."""

import dataclasses
import math
from typing import Any, TypeVar

from kstore_jax.config.fields import LARGEST, fields_of, types_of
from kstore_jax.errors import UserError, nearest, shown, user_path

Config = TypeVar("Config")
_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    tuple: "a list",
    dict: "a table",
}


def parse(kind: type[Config], values: Any, path: str = "") -> Config:
    """Returns a nested dictionary of plain values as an instance of a configuration.

    Fields that `values` lacks get their defaults. A `kind` with a static method `expand` accepts
    fields that stand for several others: `expand` takes the dictionary and returns the one to
    validate.

    Args:
      kind: the frozen dataclass to make.
      values: the dictionary.
      path: dotted prefix of the fields, for error messages.

    Raises:
      UserError: a field is unknown, ill-typed or out of range; the message is one line that names
        the field, the value found and the values expected.
    """
    if not isinstance(values, dict):
        raise UserError(f"{path.removesuffix('.')}: expected fields, got {shown(values)}")
    if (expand := getattr(kind, "expand", None)) is not None:
        values = expand(values)
    fields, types = fields_of(kind), types_of(kind)
    values, parsed = _choose(fields, values, path)
    for name in values:
        if name not in fields:
            raise UserError(f"{path}{name}: no such field{nearest(name, fields)}")
    for name, value in values.items():
        if dataclasses.is_dataclass(types[name]):
            parsed[name] = parse(types[name], value, f"{path}{name}.")
        else:
            parsed[name] = _parse_value(types[name], value, fields[name], path + name)
    try:
        return kind(**parsed)
    except UserError as error:
        raise UserError(f"{path}{error}") from None


def _choose(
    fields: dict[str, dataclasses.Field], values: dict, path: str
) -> tuple[dict, dict[str, Any]]:
    """Reads the fields that name an entry of a registry.

    Returns: the other values, and the `Config` of each chosen entry by the name of its field. The
      fields of entries that are not chosen are dropped.
    """
    others, parsed = dict(values), {}
    for name, field in fields.items():
        if (registry := field.metadata.get("one_of")) is None:
            continue
        chosen = others.pop(name, field.metadata["default"])
        options = {entry: others.pop(entry) for entry in registry if entry in others}
        if not isinstance(chosen, str) or chosen not in registry:
            hint = nearest(str(chosen), list(registry))
            raise UserError(f"{path}{name}: {chosen!r} is not a choice{hint}")
        own = options.get(chosen, {})
        parsed[name] = parse(registry[chosen].Config, own, f"{path}{chosen}.")
    return others, parsed


def _parse_value(kind: type, value: Any, field: dataclasses.Field, path: str) -> Any:
    """Returns a value as `kind`; raises UserError where `field` does not allow it. An int is read
    as a float, and a list as a tuple, where the field is one."""
    if kind is tuple and type(value) is list:
        value = tuple(value)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UserError(f"{path}: expected {_KINDS.get(kind, kind.__name__)}, got {shown(value)}")
    minimum, maximum = field.metadata.get("minimum"), field.metadata.get("maximum")
    if kind is float and not _is_finite(value):
        raise UserError(f"{path}: expected a finite number, got {shown(value)}")
    if minimum is not None and not value >= minimum:
        raise UserError(f"{path}: expected at least {minimum}, got {shown(value)}")
    if maximum is None and kind is int:
        maximum = LARGEST
    if maximum is not None and not value <= maximum:
        raise UserError(f"{path}: expected at most {maximum}, got {shown(value)}")
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise UserError(f"{path}: {value!r} is not a choice{nearest(value, choices)}")
    if field.metadata.get("kind") == "path":
        return _expand(value, path)
    return float(value) if kind is float else value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float is near
        return False


def _expand(value: str, path: str) -> str:
    """The value of a path field with `~` expanded."""
    start = value.find(":") + 1 if not value.startswith("~") else 0
    if not value.startswith("~", start):
        return value
    try:
        return f"{value[:start]}{user_path(value[start:])}"
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
