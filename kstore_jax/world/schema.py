"""The schema of a world: what a name consists of, which attributes people have, where values come
from. A world is a folder; `bios/README.md` describes its files."""

import dataclasses
import functools
import pathlib
import re
import tomllib
from collections.abc import Iterable
from typing import Any

from kstore_jax.errors import UserError, nearest

BUNDLED_WORLD = pathlib.Path(__file__).parent / "bios"
FILE = "world.toml"
PRONOUNS = {  # subject, possessive, object
    "she": ("she", "her", "her"),
    "he": ("he", "his", "him"),
    "they": ("they", "their", "them"),
    "it": ("it", "its", "it"),
}
RESERVED = frozenset(
    [
        *("name", "pronoun", "half", "template", "order"),  # draws of people and biographies
        *("pass", "mixture", "questions", "text", "celebrities", "rows"),  # of what is trained on
        *("validation", "dynamics", "shown", "rewrite", "sentences"),
        *("person", "entry", "mean", "declined", "unfinished", "empty"),  # names beside attributes
    ]
)
"""Names that no attribute may have: purposes of other draws, and other fields of the same files."""


@dataclasses.dataclass(frozen=True)
class Attribute:
    """An attribute and the source of its values; one of the last four fields is set.

    Attributes:
      name: its name in files, fields and draws.
      label: its name in tables, charts and default sentences.
      pool: the file in `pools/` that holds its values, without `.txt`.
      years: the first and last year; values are dates.
      function_of: the attribute that determines it.
      column: the column of the table.
    """

    name: str
    label: str
    pool: str = ""
    years: tuple[int, int] | None = None
    function_of: str = ""
    column: str = ""


_FIELDS = ("name", "pronouns", "pairs", "table", "noun", "prompts", "attributes")
_SOURCES = ("pool", "years", "function_of", "column")


@dataclasses.dataclass(frozen=True)
class Schema:
    """The contents of a `world.toml`.

    Attributes:
      folder: the folder of the world.
      name: the pool, or column of the table, of each part of a name.
      attributes: the attributes, in the order of sentences that are not permuted.
      pronouns: the pronouns of people, keys of PRONOUNS; without any, sentences repeat the name.
      pairs: attributes that `couple` variants state in sentences next to each other.
      table: the CSV file whose rows are the people; empty: people are drawn from pools.
      noun: what the world is about, as in "the person".
      prompts: the attributes in prompts of `kstore rewrite`; those of a group stay together. A
        function of another attribute is stated together with it.
    """

    folder: pathlib.Path
    name: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    pronouns: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    table: str = ""
    noun: str = "person"
    prompts: tuple[tuple[str, ...], ...] = ()

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the attributes."""
        return tuple(attribute.name for attribute in self.attributes)

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The attributes by number, those of a pair together: first the pairs, then the others."""
        pairs = tuple((self.names.index(a), self.names.index(b)) for a, b in self.pairs)
        paired = {a for pair in pairs for a in pair}
        return (*pairs, *((a,) for a in range(len(self.names)) if a not in paired))


def load_schema(folder: str = "") -> Schema:
    """Reads the `world.toml` of a world's folder; empty: the bundled world.

    Raises:
      UserError: the folder or the file is missing, or a field is unknown, missing or of another
        type; names the file and the field.
    """
    path = pathlib.Path(folder).expanduser() if folder else BUNDLED_WORLD
    if not path.is_dir():
        raise UserError(f"world.folder: {path} is not a folder")
    file = path / FILE
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; expected the description of a world") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file}: cannot be read as TOML ({error})") from None
    return _schema(path, content, f"{file}")


def _schema(folder: pathlib.Path, content: dict[str, Any], file: str) -> Schema:
    _check_keys(content, _FIELDS, file)
    table = _text(content.get("table", ""), f"{file}: table")
    noun = _text(content.get("noun", "person"), f"{file}: noun")
    if not re.fullmatch(r"[^\W_]+( [^\W_]+)*", noun):
        raise UserError(f"{file}: noun: expected words, got {noun!r}")
    name = _texts(content.get("name"), f"{file}: name")
    if not name:
        raise UserError(f"{file}: name: expected one or more parts, got []")
    pronouns = _texts(content.get("pronouns", []), f"{file}: pronouns")
    _check_known(pronouns, PRONOUNS, f"{file}: pronouns", "pronoun")
    attributes = _attributes(content.get("attributes"), bool(table), f"{file}: attributes")
    names = [attribute.name for attribute in attributes]
    pairs = []
    for group in _groups(content.get("pairs", []), names, f"{file}: pairs"):
        if len(group) != 2:
            raise UserError(f"{file}: pairs: expected two attributes a pair, got {list(group)!r}")
        pairs.append((group[0], group[1]))
    stated = [attribute.name for attribute in attributes if not attribute.function_of]
    prompts = _groups(content.get("prompts", []), stated, f"{file}: prompts")
    listed = {name for group in prompts for name in group}
    prompts = (*prompts, *((name,) for name in stated if name not in listed))
    return Schema(folder, name, attributes, pronouns, tuple(pairs), table, noun, prompts)


def _groups(value: Any, valid: list[str], where: str) -> tuple[tuple[str, ...], ...]:
    """Groups of attributes; each is in one group at most."""
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list of lists, got {value!r}")
    groups = tuple(_texts(group, where) for group in value)
    _check_known([name for group in groups for name in group], valid, where, "attribute")
    return groups


def _attributes(tables: Any, has_table: bool, where: str) -> tuple[Attribute, ...]:
    if not isinstance(tables, dict) or not tables:
        raise UserError(f"{where}: expected a table for each attribute, got {tables!r}")
    attributes = tuple(
        _attribute(name, table, has_table, f"{where}.{name}") for name, table in tables.items()
    )
    pools = {attribute.name: attribute.pool for attribute in attributes}
    for attribute in attributes:
        field = f"{where}.{attribute.name}.function_of"
        if (of := attribute.function_of) and not pools.get(of):
            hint = nearest(of, [name for name, pool in pools.items() if pool])
            raise UserError(f"{field}: {of!r} is no attribute with a pool{hint}")
    return attributes


def _attribute(name: str, table: Any, has_table: bool, where: str) -> Attribute:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"{where}: expected a name of letters a to z, digits and _, got {name!r}; "
            "its label may be any text"
        )
    if name in RESERVED:
        raise UserError(f"{where}: no attribute can have the name {name!r}; kstore uses it")
    if not isinstance(table, dict):
        raise UserError(f"{where}: expected a table, got {table!r}")
    _check_keys(table, ("label", *_SOURCES), where)
    sources = [source for source in _SOURCES if source in table]
    if not sources and has_table:
        table, sources = {**table, "column": name}, ["column"]
    if len(sources) != 1:
        raise UserError(
            f"{where}: expected one of {', '.join(_SOURCES)}, got {' and '.join(sources) or 'none'}"
        )
    if sources == ["column"] and not has_table:
        raise UserError(f"{where}.column: expected a world with a table; set table to a CSV file")
    label = _text(table.get("label", name.replace("_", " ")), f"{where}.label")
    if not label or set(label) & set("{}") or label != " ".join(label.split()):
        raise UserError(f"{where}.label: expected words without braces, got {label!r}")
    (source,) = sources
    match table[source]:
        case [int(first), int(last)] if source == "years" and 1 <= first <= last:
            return Attribute(name, label, years=(first, last))
        case str(value) if source != "years" and value:
            return dataclasses.replace(Attribute(name, label), **{source: value})
    expected = "the first and last year, [1900, 2099]" if source == "years" else "a name"
    raise UserError(f"{where}.{source}: expected {expected}, got {table[source]!r}")


def _check_keys(table: dict, valid: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in valid:
            raise UserError(f"{where}: no field {key!r}{nearest(key, valid)}")


def _check_known(names: Iterable[str], valid: Iterable[str], where: str, kind: str) -> None:
    """Every name is valid and occurs once."""
    valid, seen = list(valid), set()
    for name in names:
        if name not in valid:
            raise UserError(f"{where}: no {kind} {name!r}{nearest(name, valid)}")
        if name in seen:
            raise UserError(f"{where}: {name!r} is repeated")
        seen.add(name)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: expected a text, got {value!r}")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{where}: expected a list of texts, got {value!r}")
    return tuple(value)
