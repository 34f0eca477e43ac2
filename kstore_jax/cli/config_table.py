"""The table of all configuration fields, as `kstore config` prints it."""

import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from kstore_jax.cli.flags import check_field
from kstore_jax.config.fields import docs_of, fields_of, types_of
from kstore_jax.model.config import PRESETS
from kstore_jax.pipeline.experiment import Experiment, default

_WIDTH = 100
_SWEEP = "Rows of a sweep, from the functions of kstore_jax/config/rows.py; empty: one experiment."


@dataclasses.dataclass(frozen=True)
class _Field:
    """A field of the configuration, in words.

    Attributes:
      path: its dotted name.
      default: its default as Python writes it.
      values: its type, with limits or choices.
      doc: its documentation.
    """

    path: str
    default: str
    values: str
    doc: str

    def text(self) -> str:
        doc = textwrap.fill(self.doc, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        return f"  {self.path:<32} {self.default:<20} {self.values}\n{doc}"


def config_table(name: str = "") -> str:
    """Returns the fields of an experiment by section, with default, type, limits and documentation.

    Args:
      name: a section, such as `pretrain`, or a field, such as `pretrain.steps`; empty for all.

    Raises:
      UserError: there is no such section or field.
    """
    if name:
        check_field(default(), name, f"config: {name}")
    blocks = []
    for title, fields in _sections():
        chosen = [f for f in fields if not name or f.path == name or f.path.startswith(f"{name}.")]
        if chosen:
            blocks.append("\n".join([title, "", *(field.text() for field in chosen)]))
    return "\n\n".join(blocks)


def _sections() -> Iterator[tuple[str, list[_Field]]]:
    """The title and the fields of each section, those outside of sections first."""
    sweep = _Field("sweep", "()", "rows", _SWEEP)
    yield _title("experiment", Experiment), [*_fields(Experiment), sweep]
    yield from _inner_sections(Experiment, "")


def _inner_sections(kind: type, prefix: str) -> Iterator[tuple[str, list[_Field]]]:
    """The sections inside a configuration: nested ones, and those of entries to choose from."""
    for name, field in fields_of(kind).items():
        inner: Any = types_of(kind)[name]
        if (registry := field.metadata.get("one_of")) is not None:
            inside: dict[str, Any] = {n: entry.Config for n, entry in registry.entries().items()}
        elif dataclasses.is_dataclass(inner):
            inside = {name: inner}
        else:
            continue
        for path, of_section in inside.items():
            fields = _fields(of_section, f"{prefix}{path}.")
            if f"{prefix}{path}" == "model":
                fields = [*_presets(), *fields]
            if fields:
                yield _title(f"{prefix}{path}", of_section), fields
            yield from _inner_sections(of_section, f"{prefix}{path}.")


def _title(name: str, kind: type) -> str:
    """The name of a section and the first paragraph of its documentation."""
    summary = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return textwrap.fill(f"{name}: {summary}", _WIDTH)


def _fields(kind: type, prefix: str = "") -> list[_Field]:
    """The fields of a configuration that are no sections."""
    types = types_of(kind)
    names = [name for name in fields_of(kind) if not dataclasses.is_dataclass(types[name])]
    return [_field(kind, name, prefix) for name in names]


def _field(kind: type, name: str, prefix: str) -> _Field:
    field, doc = fields_of(kind)[name], docs_of(kind)[name]
    if (registry := field.metadata.get("one_of")) is not None:
        return _Field(prefix + name, repr(field.metadata["default"]), " | ".join(registry), doc)
    values = _values(types_of(kind)[name], field.metadata)
    return _Field(prefix + name, repr(field.default), values, doc)


def _presets() -> list[_Field]:
    """The fields `model.size` and `model.style`, which stand for others."""
    fields = []
    for name, presets in PRESETS.items():
        first, *_ = presets
        doc = f"Sets {', '.join(presets[first])}, except those that are set themselves."
        fields.append(_Field(f"model.{name}", repr(first), " | ".join(presets), doc))
    return fields


def _values(kind: type, metadata: Any) -> str:
    """The values of a field in words: its choices, or its type and limits."""
    if choices := metadata.get("choices"):
        return " | ".join(choices)
    text = {str: "text", bool: "True | False", tuple: "rows"}.get(kind, kind.__name__)
    minimum, maximum = metadata.get("minimum"), metadata.get("maximum")
    if maximum is not None:
        text += f" from {minimum} to {maximum}"
    elif minimum is not None:
        text += f", at least {minimum}"
    return text if metadata.get("affects_result", True) else f"{text}; no result depends on it"
