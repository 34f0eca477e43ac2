"""Reads the items of `kstore ask` from JSONL (`passages/README.md` documents a line)."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kstore_jax.errors import UserError, nearest, shown
from kstore_jax.writers.items import Fact, Item, Passage, Question, Series, without_articles
from kstore_jax.writers.words import normalized_words

BUNDLED = {
    path.stem: path for path in sorted((pathlib.Path(__file__).parent / "passages").glob("*.jsonl"))
}
"""The files of items in the package, by name."""


class _Line(NamedTuple):
    """One line: its place, as an error names it, and its object."""

    where: str
    fields: dict[str, Any]


def find_items(name: str) -> pathlib.Path:
    """Returns the path of a file of items; `passages` and `pairs` are in the package, where there
    is no such file here."""
    path = pathlib.Path(name)
    return path if path.exists() else BUNDLED.get(name, path)


def read_items(path: pathlib.Path) -> list[Item]:
    """Reads the items of a JSONL file.

    Raises:
      UserError: the file cannot be read, or a line is malformed; names the line and field.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # JSON may contain other line ends
    except FileNotFoundError:
        raise UserError(
            f"--items: {path}: no such file; in the package: {', '.join(BUNDLED)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--items: {path}: cannot be read as UTF-8 text ({error})") from None
    items: dict[str, Item] = {}
    line_of = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"--items: {path}:{number}"
            item = _parse_item(line, where)
            if item.title in items:
                raise UserError(f"{where}: title: {item.title!r} is the title of an earlier item")
            items[item.title], line_of[item.title] = item, where
    if not items:
        raise UserError(f"--items: {path}: has no items")
    _check_comparisons(items, line_of)
    return list(items.values())


def _check_comparisons(items: Mapping[str, Item], line_of: Mapping[str, str]) -> None:
    facts = [item for item in items.values() if isinstance(item, Fact)]
    for fact in facts:
        others = [each.title for each in facts if each.kind == fact.kind and each is not fact]
        for title in fact.than:
            if title not in others:
                raise UserError(
                    f"{line_of[fact.title]}: than: expected the title of another fact of kind "
                    f"{shown(fact.kind)}, got {shown(title)}{nearest(title, others)}"
                )


def _parse_item(line: str, where: str) -> Item:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    title = _string(fields, "title", where)
    forms = [form for form in _FORMS if form in fields]
    if len(forms) != 1:
        raise UserError(
            f"{where}: expected one of the fields {', '.join(_FORMS)}, got "
            f"{' and '.join(forms) or 'none of them'}"
        )
    parse, names = _FORMS[forms[0]]
    for name in fields:
        if name not in ("title", *names):
            raise UserError(f"{where}: {shown(name)}: no such field{nearest(name, names)}")
    return parse(title, _Line(where, fields))


def _parse_passage(title: str, line: _Line) -> Passage:
    fields, where = line.fields, line.where
    text, opening = (_string(fields, name, where) for name in ("text", "opening"))
    if not text.startswith(opening) or not normalized_words(text[len(opening) :]):
        raise UserError(f"{where}: text: expected to begin with opening and continue after it")
    questions = _list(fields, "questions", where)
    return Passage(title, text, opening, tuple(_parse_question(each, where) for each in questions))


def _parse_question(fields: Any, where: str) -> Question:
    question = _string(fields, "question", where)
    return Question(question, _texts(fields, "answers", where))


def _parse_series(title: str, line: _Line) -> Series:
    fields, where = line.fields, line.where
    kind, source, unit = (_string(fields, name, where) for name in ("kind", "source", "unit"))
    context = _number(fields, "context", where, default=1)
    parts = _texts(fields, "parts", where)
    if not 1 <= context < len(parts):
        raise UserError(
            f"{where}: context: expected at least 1 and less than the number of parts, "
            f"{len(parts)}, got {shown(context)}"
        )
    separator = fields.get("separator", " ")
    if not isinstance(separator, str) or _has_surrogate(separator):
        raise UserError(f"{where}: separator: expected a string, got {shown(separator)}")
    return Series(title, kind, source, unit, parts, context, separator)


def _parse_fact(title: str, line: _Line) -> Fact:
    fields, where = {"less": "less", **line.fields}, line.where
    kind, fact, less = (_string(fields, name, where) for name in ("kind", "fact", "less"))
    value = _number(fields, "value", where)
    answers = _texts(fields, "answers", where) if "answers" in fields else ()
    titles = _list(fields, "than", where) if "than" in fields else []
    than = dict.fromkeys(_string({"than": each}, "than", where) for each in titles)
    return Fact(title, kind, fact, value, answers, less, tuple(than))


_FORMS: dict[str, tuple[Callable[[str, _Line], Item], tuple[str, ...]]] = {
    "text": (_parse_passage, ("text", "opening", "questions")),
    "parts": (_parse_series, ("parts", "kind", "source", "unit", "context", "separator")),
    "fact": (_parse_fact, ("fact", "kind", "value", "answers", "less", "than")),
}
"""By the field that only lines of this form have: what reads such a line, and its fields."""


def _string(fields: Any, name: str, where: str) -> str:
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str) or not _is_text(value):
        raise UserError(f"{where}: {name}: expected a string, got {shown(value)}")
    return value


def _list(fields: Any, name: str, where: str) -> list:
    values = fields.get(name)
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: {name}: expected a list of at least one, got {shown(values)}")
    return values


def _texts(fields: Any, name: str, where: str) -> tuple[str, ...]:
    """A list of strings, each with a word that is no article."""
    values = _list(fields, name, where)
    for value in values:
        if not isinstance(value, str) or not _is_text(value) or not without_articles(value):
            raise UserError(f"{where}: {name}: expected strings with words, got {shown(value)}")
    return tuple(values)


def _number(fields: Any, name: str, where: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(f"{where}: {name}: expected a whole number from 0, got {shown(value)}")
    return value


def _is_text(value: str) -> bool:
    """Whether a string is neither blank nor has half a surrogate pair, which JSON can spell."""
    return bool(value.strip()) and not _has_surrogate(value)


def _has_surrogate(value: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in value)
