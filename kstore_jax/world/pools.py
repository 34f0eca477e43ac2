"""Pools: the names and values of a world, read from its files."""

import csv
import dataclasses
import functools
import math
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kstore_jax.errors import UserError, nearest
from kstore_jax.world import random
from kstore_jax.world.schema import Schema, Strings, load_schema

JOIN = ", "
"""Between several values of one fact, as texts state them."""
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
DAYS = range(1, 29)
T = TypeVar("T")


class Accepted(NamedTuple):
    """The single values of each value of an attribute that joins several.

    Attributes:
      starts: (values + 1,) where those of each value start in `members`; none for a single value.
      members: indices into the values of the attribute.
    """

    starts: np.ndarray
    members: np.ndarray


class StringValues(Sequence[str]):
    """The values of an attribute of random strings: `chunks` of them, one after another. Value v
    has the strings whose numbers are the digits of v in base `count`.

    Attributes:
      source: how many strings there are.
      strings: the strings; symbols are words of letters.
    """

    def __init__(self, source: Strings, name: str):
        self.source = source
        indices = np.arange(source.count)[:, None], np.arange(source.length)
        if source.symbols**source.length < 2**62:  # no two are equal
            number = random.permute_index(
                source.symbols**source.length, 0, f"strings of {name}", indices[0]
            )
            symbols = number // source.symbols ** indices[1] % source.symbols
        else:
            symbols = random.randint(source.symbols, 0, f"strings of {name}", *indices)
        self.strings = tuple(" ".join(map(_word, row)) for row in symbols.tolist())

    def __len__(self) -> int:
        return self.source.count**self.source.chunks

    def __getitem__(self, value: Any) -> Any:
        return " ".join(self.strings[digit] for digit in self.digits(np.array(value)).tolist())

    def digits(self, values: np.ndarray) -> np.ndarray:
        """Returns the numbers of the strings of values (...,): (..., chunks)."""
        powers = self.source.count ** np.arange(self.source.chunks)[::-1]
        return values[..., None] // powers % self.source.count

    def draw(self, seed: int, name: str, ids: np.ndarray) -> np.ndarray:
        """Returns a uniform value (N,) for each of the people `ids` (N,)."""
        chunks = np.arange(self.source.chunks)
        digits = random.randint(self.source.count, seed, name, ids[:, None], chunks)
        return digits @ self.source.count ** chunks[::-1]


def _word(symbol: int) -> str:
    """A symbol as a word of letters: xa, xb, ..., xz, xaa, ..."""
    letters = ""
    while symbol >= 0:
        symbol, letter = divmod(symbol, 26)
        letters, symbol = chr(97 + letter) + letters, symbol - 1
    return f"x{letters}"


@dataclasses.dataclass(frozen=True, eq=False)
class Pools:
    """The names and values of people. People hold indices into them.

    Attributes:
      schema: the schema of the world.
      names: the values of each part of a name.
      values: the values of each attribute.
      functions: for an attribute that another one determines: (values of the other,) the index of
        its value for each value of the other.
      columns: for an attribute in the table: (rows,) the index of the value of each row.
      accepted: for an attribute with several values in a cell: those of each.
      name_rows: (rows, P) the parts of the name of each row; None where names are drawn.
    """

    schema: Schema
    names: tuple[tuple[str, ...], ...]
    values: dict[str, Sequence[str]]
    functions: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]
    accepted: dict[str, Accepted]
    name_rows: np.ndarray | None = None

    @property
    def full_name_count(self) -> int:
        """The number of different full names, which is the largest number of people."""
        if self.name_rows is not None:
            return len(self.name_rows)
        return math.prod(map(len, self.names))


@functools.cache
def load_pools(folder: str = "", value_fraction: float = 1.0, name_fraction: float = 1.0) -> Pools:
    """Reads the names and values of a world.

    Args:
      folder: the folder of the world; empty: the bundled one.
      value_fraction: fraction of each value pool that is used, evenly spaced, at least two values.
        Of dates, its square root of the years and of the days; months are always kept. Columns of a
        table and random strings are always kept.
      name_fraction: fraction of the pool of each part of a name, likewise.

    Raises:
      UserError: a file is missing, or a line breaks a rule; names the file and line.
    """
    schema = load_schema(folder)
    values: dict[str, Sequence[str]] = {}
    functions, columns, accepted = {}, {}, {}
    table = _Table(schema) if schema.table else None
    for attribute in schema.attributes:
        name = attribute.name
        if attribute.strings:
            values[name] = StringValues(attribute.strings, name)
        elif attribute.years:
            values[name] = _dates(attribute.years, value_fraction)
        elif attribute.pool:
            followers = [a.name for a in schema.attributes if a.function_of == name]
            path = schema.folder / "pools" / f"{attribute.pool}.txt"
            values[name], *others = _read_columns(path, value_fraction, 1 + len(followers))
            for follower, column in zip(followers, others, strict=True):
                values[follower], functions[follower] = _as_indices(column)
        elif attribute.column:
            assert table
            where = f"attributes.{name}.column"
            cells = table.column(attribute.column, where, attribute.separator)
            values[name], columns[name] = _as_indices(cells)
            if attribute.separator:
                parts = {cell: several(cell, attribute.separator) for cell in values[name]}
                values[name], columns[name], accepted[name] = _join_values(parts, columns[name])
    values = {name: values[name] for name in schema.names}
    if table:
        parts = [table.column(part, "name") for part in schema.name]
        table.check_names(parts)
        names, indices = zip(*map(_as_indices, parts), strict=True)
        rows = np.stack(indices, axis=1)
        return Pools(schema, names, values, functions, columns, accepted, rows)
    return Pools(schema, _name_pools(schema, name_fraction), values, functions, columns, {})


def _name_pools(schema: Schema, fraction: float) -> tuple[tuple[str, ...], ...]:
    paths = [schema.folder / "pools" / f"{part}.txt" for part in schema.name]
    names = [_read_columns(path, fraction)[0] for path in paths]
    several = [path for path, part in zip(paths, names, strict=True) if " " in "".join(part)]
    if len(several) > 1:
        raise UserError(
            f"{several[1]}: names of several words, as in {several[0].name}; expected them in one "
            "part of the name at most, so that full names are different"
        )
    return tuple(names)


def _dates(years: tuple[int, int], fraction: float) -> tuple[str, ...]:
    side = math.sqrt(fraction)
    days = _evenly_spaced(DAYS, side)
    some_years = _evenly_spaced(range(years[0], years[1] + 1), side)
    return tuple(f"{m} {d}, {y}" for y in some_years for m in MONTHS for d in days)


def _evenly_spaced(pool: Sequence[T], fraction: float) -> tuple[T, ...]:
    """A fraction of a pool, evenly spaced, at least two values."""
    count = min(len(pool), max(2, round(fraction * len(pool))))
    return tuple(pool[i * len(pool) // count] for i in range(count))


def _as_indices(column: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The distinct values of a column, in order, and the index of each of its values."""
    numbers = {value: i for i, value in enumerate(dict.fromkeys(column))}
    return tuple(numbers), np.array([numbers[value] for value in column])


def _join_values(
    parts: Mapping[str, Sequence[str]], column: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, Accepted]:
    """The values of a column with several in a cell: those of the cells, joined, then the single
    ones that are no cell of their own.

    Args:
      parts: the single values of each distinct cell.
      column: (rows,) the index of the cell of each row.

    Returns: the values, the index of the value of each row, and the single values of each.
    """
    single: dict[str, Sequence[str]] = {}
    for of_cell in parts.values():
        single.setdefault(JOIN.join(of_cell), of_cell if len(of_cell) > 1 else ())
    numbers = {value: i for i, value in enumerate(single)}
    for value in (value for of_cell in single.values() for value in of_cell):
        numbers.setdefault(value, len(numbers))
    counts = [*map(len, single.values()), *[0] * (len(numbers) - len(single))]
    members = [numbers[value] for of_cell in single.values() for value in of_cell]
    of_cell = np.array([numbers[JOIN.join(of_cell)] for of_cell in parts.values()])
    accepted = Accepted(np.cumsum([0, *counts]), np.array(members, np.int64))
    return tuple(numbers), of_cell[column], accepted


def read_lines(path: pathlib.Path) -> tuple[str, ...]:
    """Returns the lines of a UTF-8 text file with one entry a line. Blank last lines are left out.

    Raises:
      UserError: the file is missing, unreadable or empty, or has an empty or repeated line.
    """
    lines = _read_text(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{path}: is empty; expected one entry a line")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{path}:{number}: empty line; expected one entry a line")
    _check_distinct(lines, path, range(1, len(lines) + 1))
    return tuple(lines)


def _read_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None


def _check_distinct(values: Iterable[str], path: pathlib.Path, lines: Iterable[int]) -> None:
    first_seen: dict[str, int] = {}
    for value, line in zip(values, lines, strict=True):
        if value in first_seen:
            raise UserError(f"{path}:{line}: {value!r} repeats line {first_seen[value]}")
        first_seen[value] = line


def _read_columns(
    path: pathlib.Path, fraction: float, count: int = 1
) -> tuple[tuple[str, ...], ...]:
    """The columns of a pool file, separated by `; `; values of the first are distinct."""
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        row = line.split("; ") if count > 1 else [line]
        if len(row) != count:
            raise UserError(
                f"{path}:{number}: expected {count} values separated by '; ', got {line!r}"
            )
        for value in row:
            _check_value(value, f"{path}:{number}")
        rows.append(row)
    columns = tuple(zip(*rows, strict=True))
    _check_distinct(columns[0], path, range(1, len(rows) + 1))
    return tuple(_evenly_spaced(column, fraction) for column in columns)


def value_fault(value: str) -> str:
    """Why a text can be no value or name, in words; empty where it can be one."""
    if not value:
        return "is empty; expected a value"
    if set(value) & set("{}") or value.split(" ") != value.split():
        return "must hold no braces and no double spaces"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        return "must hold no control characters"
    return ""


def cell_fault(cell: str, separator: str = "") -> str:
    """Why a cell of a table holds no fact, in words; empty where it holds one.

    Args:
      separator: between several values; empty: the cell is one value.
    """
    if separator and cell and not several(cell, separator):
        return f"has no value beside {separator!r}"
    return value_fault(cell)


def _check_value(value: str, where: str) -> None:
    if fault := value_fault(value):
        raise UserError(f"{where}: {value!r} {fault}")


def several(cell: str, separator: str) -> list[str]:
    """The different values in a cell, in their order."""
    return [*dict.fromkeys(part for each in cell.split(separator) if (part := each.strip()))]


def read_csv(path: pathlib.Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yields the rows of a table, each with the number of its last line; cells are stripped.

    Raises:
      UserError: the file is missing or no such table; names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                for row in reader:
                    yield reader.line_num, [cell.strip() for cell in row]
            except csv.Error as error:
                raise UserError(f"{path}:{reader.line_num}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None


class _Table:
    """A CSV file with a header, whose rows are the people."""

    def __init__(self, schema: Schema):
        self.path = schema.folder / schema.table
        self._file = schema.folder / "world.toml"
        numbered = [(line, row) for line, row in read_csv(self.path) if any(row)]
        if len(numbered) < 2:
            raise UserError(f"{self.path}: expected a header and a row for each person")
        (_, self.header), *rows = numbered
        _check_distinct(self.header, self.path, [1] * len(self.header))
        for line, row in rows:
            if len(row) != len(self.header):
                raise UserError(
                    f"{self.path}:{line}: expected {len(self.header)} columns, got {len(row)}"
                )
        self.lines = [line for line, _ in rows]
        columns = zip(*(row for _, row in rows), strict=True)
        self._columns = dict(zip(self.header, columns, strict=True))

    def column(self, name: str, where: str, separator: str = "") -> tuple[str, ...]:
        """The cells of a column, row by row; `where` is the field that names it."""
        if name not in self._columns:
            raise UserError(
                f"{self._file}: {where}: {self.path.name} has no column {name!r}"
                f"{nearest(name, self.header)}"
            )
        column = self._columns[name]
        faults = {cell: fault for cell in set(column) if (fault := cell_fault(cell, separator))}
        for cell, line in zip(column, self.lines, strict=True) if faults else ():
            if cell in faults:
                raise UserError(f"{self.path}:{line}: {name}: {cell!r} {faults[cell]}")
        return column

    def check_names(self, parts: Sequence[Sequence[str]]) -> None:
        """Raises UserError where two rows have one full name."""
        _check_distinct(map(" ".join, zip(*parts, strict=True)), self.path, self.lines)
