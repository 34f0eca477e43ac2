"""Tables of facts in four formats, as columns of text: CSV, TSV, JSON Lines and Parquet."""

import array
import datetime
import decimal
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kstore_jax.errors import UserError, nearest, shown
from kstore_jax.world.pools import read_csv, value_fault

LIST_SEPARATOR = "|"
"""Between the values of a list of JSON Lines or Parquet."""

_SHARED = 1 << 16  # different cells of a column that are looked up, to keep each once in memory


class Table(NamedTuple):
    """A table of text.

    Attributes:
      path: its file.
      columns: the cells of each column, words separated by single spaces; empty where there is no
        value. Columns without a name are left out.
      lines: the line of each row in the file; of Parquet its number, from 1.
      separators: between several values in a cell, for each column that has lists.
    """

    path: pathlib.Path
    columns: dict[str, list[str]]
    lines: Sequence[int]
    separators: dict[str, str]

    def where(self, row: int) -> str:
        """The place of a row, for messages."""
        return _place(self.path, self.lines[row])


def _place(path: pathlib.Path, line: int) -> str:
    return f"{path}: row {line}" if path.suffix == ".parquet" else f"{path}:{line}"


def read_table(path: pathlib.Path) -> Table:
    """Reads a `.csv`, `.tsv`, `.jsonl` or `.parquet` file.

    Raises:
      UserError: the file is missing or no such table; names the row and the column.
    """
    if path.suffix not in _READERS:
        formats = ", ".join(_READERS)
        raise UserError(f"{path}: expected a table, {formats}{nearest(path.suffix, _READERS)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    columns, lines, separators = _READERS[path.suffix](path)
    if not lines:
        raise UserError(f"{path}: has no rows; expected a row for each thing with facts")
    named = {name: _one_spaced(cells) for name, cells in columns.items() if name}
    return Table(path, named, lines, {name: LIST_SEPARATOR for name in separators})


_Columns = tuple[dict[str, list[str]], Sequence[int], Iterable[str]]
"""Columns by name, the line of each row, and the columns with lists."""


def _one_spaced(cells: list[str]) -> list[str]:
    changed = {cell: text for cell in set(cells) if (text := " ".join(cell.split())) != cell}
    return [changed.get(cell, cell) for cell in cells] if changed else cells


def _headers(path: pathlib.Path, names: Iterable[str]) -> list[str]:
    """The names of columns, words separated by single spaces."""
    heads = [" ".join(name.split()) for name in names]
    for head in heads:
        if head and (fault := value_fault(head)):
            raise UserError(f"{path}: the name of a column, {head!r}, {fault}")
        if head and heads.count(head) > 1:
            raise UserError(f"{path}: two columns have the name {head!r}")
    return heads


def _read_csv(path: pathlib.Path) -> _Columns:
    with path.open("rb") as file:
        first = file.readline().decode("utf-8", "replace")
    delimiter = "\t" if path.suffix == ".tsv" else max(",;\t", key=first.count)
    rows = read_csv(path, delimiter)
    heads = _headers(path, next(rows, (0, []))[1])
    columns: list[list[str]] = [[] for _ in heads]
    seen: list[dict[str, str]] = [{} for _ in heads]  # equal cells are one object
    lines = array.array("q")
    for line, row in rows:
        if not any(row):
            continue
        if len(row) != len(heads):
            raise UserError(f"{path}:{line}: expected {len(heads)} columns, got {len(row)}")
        lines.append(line)
        for column, cells, cell in zip(columns, seen, row, strict=True):
            if len(cells) < _SHARED:
                cells.setdefault(cell, cell)
            column.append(cells.get(cell, cell))
    return dict(zip(heads, columns, strict=True)), lines, ()


def _read_json_lines(path: pathlib.Path) -> _Columns:
    columns: dict[str, list[str]] = {}
    lines, lists = array.array("q"), set()
    for line, row in _json_objects(path):
        for name in row:
            if name not in columns:
                columns[name] = [""] * len(lines)
        for name, column in columns.items():
            value = row.get(name, "")
            if not isinstance(value, str):
                lists.update([name] if isinstance(value, list) else [])
                value = _text(value, _place(path, line), name)
            column.append(value)
        lines.append(line)
    heads = _headers(path, columns)
    renamed = dict(zip(columns, heads, strict=True))
    return dict(zip(heads, columns.values(), strict=True)), lines, {renamed[x] for x in lists}


def _json_objects(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file, each with its line; blank lines are left out."""
    with path.open("rb") as file:
        for line, content in enumerate(file, 1):
            try:
                text = content.decode("utf-8-sig" if line == 1 else "utf-8").strip()
                row = json.loads(text) if text else {}
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{line}: expected a JSON object ({error})") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{line}: expected a JSON object, got {shown(row)}")
            if row:
                yield line, row


def _read_parquet(path: pathlib.Path) -> _Columns:
    import pyarrow.parquet  # slow to import, and most tables are text

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: cannot be read as Parquet ({reason})") from None
    heads, columns, lists = _headers(path, table.column_names), {}, set()
    for head, column in zip(heads, table.columns, strict=True):
        values = column.to_pylist()
        if any(isinstance(value, list) for value in values):
            lists.add(head)
        columns[head] = [
            value if isinstance(value, str) else _text(value, _place(path, i), head)
            for i, value in enumerate(values, 1)
        ]
    return columns, range(1, table.num_rows + 1), lists


def _text(value: Any, place: str, column: str) -> str:
    """A cell as text; of a list, its values with LIST_SEPARATOR between them.

    Raises:
      UserError: it is an object, or a value of a list holds the separator.
    """
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            if not math.isfinite(value):
                return ""
            return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
        case int() | decimal.Decimal():
            return str(value)
        case datetime.date() | datetime.time():
            return value.isoformat()
        case list() if not any(isinstance(part, list) for part in value):
            parts = [_text(part, place, column) for part in value]
            if any(LIST_SEPARATOR in part for part in parts):
                raise UserError(f"{place}: {column}: expected no {LIST_SEPARATOR!r} in a list")
            return LIST_SEPARATOR.join(parts)
    raise UserError(f"{place}: {column}: expected text or a number, got {shown(value)}")


_READERS: Mapping[str, Callable[[pathlib.Path], _Columns]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
