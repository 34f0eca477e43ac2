"""The schema of a world: what a name consists of, which attributes people have, where values come
from. A world is a folder, whose files `bios/README.md` describes, or `bioD(K,C,D,L,T)`."""

import dataclasses
import functools
import pathlib
import re
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

from kstore_jax.config.parse import parse
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
        *("validation", "probe validation", "dynamics", "shown", "rewrite", "sentences"),
        *("order of people", "first of a pair", "partner of a person", "luckiness of values"),
        *("person", "entry", "mean", "declined", "unfinished", "empty"),  # names beside attributes
    ]
)
"""Names that no attribute may have: purposes of other draws, and other fields of the same files."""


@dataclasses.dataclass(frozen=True)
class Strings:
    """A set of random strings (bioD, Part 3.3).

    Attributes:
      chunks: a value is so many of the strings (C).
      count: different strings (D).
      length: symbols of a string (L).
      symbols: different symbols (T).
    """

    chunks: int
    count: int
    length: int
    symbols: int


@dataclasses.dataclass(frozen=True)
class Attribute:
    """An attribute and the source of its values: one of `pool`, `years`, `function_of`, `column`
    and `strings` is set.

    Attributes:
      name: its name in files, fields and draws.
      label: its name in tables, charts and default sentences.
      pool: the file in `pools/` that holds its values, without `.txt`.
      years: the first and last year; values are dates.
      function_of: the attribute that determines it.
      column: the column of the table.
      separator: between several values in a cell of the column; empty: a cell is one value.
      strings: the random strings that values consist of.
    """

    name: str
    label: str
    pool: str = ""
    years: tuple[int, int] | None = None
    function_of: str = ""
    column: str = ""
    separator: str = ""
    strings: Strings | None = None


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
    def chunks(self) -> int:
        """The parts of a value; the same for all attributes."""
        strings = self.attributes[0].strings
        return strings.chunks if strings else 1

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The attributes by number, those of a pair together: first the pairs, then the others."""
        pairs = tuple((self.names.index(a), self.names.index(b)) for a, b in self.pairs)
        paired = {a for pair in pairs for a in pair}
        return (*pairs, *((a,) for a in range(len(self.names)) if a not in paired))


@dataclasses.dataclass(frozen=True)
class _File:
    """The fields of a `world.toml`, as `Schema` documents them."""

    name: tuple = ()
    attributes: dict = dataclasses.field(default_factory=dict)
    pronouns: tuple = ()
    pairs: tuple = ()
    table: str = ""
    noun: str = "person"
    prompts: tuple = ()


@dataclasses.dataclass(frozen=True)
class _AttributeFields:
    """The fields of an attribute in a `world.toml`, as `Attribute` documents them."""

    label: str = ""
    pool: str = ""
    years: tuple = ()
    function_of: str = ""
    column: str = ""
    separator: str = ""


def load_schema(folder: str = "") -> Schema:
    """Reads the `world.toml` of a world's folder; empty: the bundled world. `bioD(K,C,D,L,T)` is a
    world with the bundled names and K attributes "ID k", whose values are C of D random strings of
    L of T symbols (Part 3.3).

    Raises:
      UserError: the folder or the file is missing, or a field is unknown, missing or of another
        type; names the file and the field. Or there are no such strings.
    """
    if match := _BIO_D.fullmatch(folder):
        return _bio_d(*map(int, match.groups()))
    path = pathlib.Path(folder) if folder else BUNDLED_WORLD
    if not path.is_dir():
        raise UserError(f"world.folder: {path} is not a folder")
    where = f"{path / FILE}: "
    try:
        content = tomllib.loads((path / FILE).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{where}no such file; expected the description of a world") from None
    except (ValueError, OSError) as error:  # also of a number with too many digits
        raise UserError(f"{where}cannot be read as TOML ({error})") from None
    return _schema(path, parse(_File, content, where), where)


_BIO_D = re.compile(r"bioD\((\d{1,9}), ?(\d{1,9}), ?(\d{1,9}), ?(\d{1,9}), ?(\d{1,9})\)")
_MOST_VALUES = 2**62
"""Values of an attribute: their numbers are 64 bits."""


def _bio_d(attributes: int, *strings: int) -> Schema:
    """The world of K attributes of random strings.

    Args:
      strings: the fields of `Strings`, in order.
    """
    source = Strings(*strings)
    where = "world.folder: bioD(K,C,D,L,T): expected"
    if not attributes or not source.chunks or source.count < 2:
        raise UserError(f"{where} K and C of at least 1 and D of at least 2")
    if source.symbols**source.length < source.count:
        raise UserError(f"{where} at most T^L = {source.symbols**source.length} strings (D)")
    if source.count**source.chunks > _MOST_VALUES:
        raise UserError(f"{where} at most 2^62 values (D^C)")
    each = (Attribute(f"id_{k}", f"ID {k}", strings=source) for k in range(1, attributes + 1))
    return Schema(BUNDLED_WORLD, _BIO_D_NAME, tuple(each), pronouns=("it",), noun="entry")


_BIO_D_NAME = ("first_names", "middle_names", "last_names")


def _schema(folder: pathlib.Path, file: _File, where: str) -> Schema:
    """Checks the fields of a file; `where` begins error messages."""
    if not file.name or not file.attributes:
        raise UserError(f"{where}expected one or more parts of a name, and one or more attributes")
    if not is_noun(file.noun):
        raise UserError(f"{where}noun: expected words, got {file.noun!r}")
    attributes = tuple(
        _attribute(name, values, bool(file.table), f"{where}attributes.{name}")
        for name, values in file.attributes.items()
    )
    names = [a.name for a in attributes]
    pools = [a.name for a in attributes if a.pool]
    for a in attributes:
        if a.function_of:
            _check_names([a.function_of], pools, f"{where}attributes.{a.name}.function_of")
    pairs = _groups(file.pairs, names, f"{where}pairs")
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{where}pairs: expected two attributes a pair, got {list(file.pairs)!r}")
    stated = [a.name for a in attributes if not a.function_of]
    prompts = _groups(file.prompts, stated, f"{where}prompts")
    listed = {name for group in prompts for name in group}
    return Schema(
        folder=folder,
        name=_check_names(file.name, file.name, f"{where}name"),
        attributes=attributes,
        pronouns=_check_names(file.pronouns, PRONOUNS, f"{where}pronouns"),
        pairs=tuple((pair[0], pair[1]) for pair in pairs),
        table=file.table,
        noun=file.noun,
        prompts=(*prompts, *((name,) for name in stated if name not in listed)),
    )


def is_noun(text: str) -> bool:
    """Whether a text can be what a world is about: words."""
    return re.fullmatch(r"[^\W_]+( [^\W_]+)*", text) is not None


def _attribute(name: str, values: Any, has_table: bool, where: str) -> Attribute:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{where}: expected a name of letters a to z, digits and _, got {name!r}")
    if name in RESERVED:
        raise UserError(f"{where}: no attribute can have the name {name!r}; kstore uses it")
    fields = dataclasses.asdict(parse(_AttributeFields, values, f"{where}."))
    label = fields.pop("label") or name.replace("_", " ")
    separator = fields.pop("separator")
    if set(label) & set("{}") or label != " ".join(label.split()):
        raise UserError(f"{where}.label: expected words without braces, got {label!r}")
    sources = {source: value for source, value in fields.items() if value}
    if has_table and not sources:
        sources = {"column": name}
    if len(sources) != 1 or ("column" in sources and not has_table):
        raise UserError(
            f"{where}: expected one of pool, years, function_of or, in a world with a table, "
            f"column; got {' and '.join(sources) or 'none'}"
        )
    if separator and "column" not in sources:
        raise UserError(f"{where}.separator: expected beside a column of the table")
    attribute = Attribute(name, label, separator=separator)
    match sources.get("years"):
        case None:
            return dataclasses.replace(attribute, **sources)
        case [int(first), int(last)] if 1 <= first <= last <= 9999:
            return dataclasses.replace(attribute, **sources)
        case years:
            raise UserError(
                f"{where}.years: expected the first and last year, from 1 to 9999, got "
                f"{list(years)!r}"
            )


def _groups(groups: tuple, valid: Sequence[str], where: str) -> tuple[tuple[str, ...], ...]:
    """Groups of attributes; each is in one group at most."""
    if not all(isinstance(group, list) for group in groups):
        raise UserError(f"{where}: expected a list of lists, got {list(groups)!r}")
    _check_names([name for group in groups for name in group], valid, where)
    return tuple(tuple(group) for group in groups)


def _check_names(names: Sequence, valid: Iterable[str], where: str) -> tuple[str, ...]:
    """Returns `names`; raises UserError where one is not valid or is repeated."""
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{where}: expected text, got {name!r}")
        if name not in valid:
            raise UserError(f"{where}: no {name!r}{nearest(name, valid)}")
        if names.count(name) > 1:
            raise UserError(f"{where}: {name!r} is repeated")
    return tuple(names)
