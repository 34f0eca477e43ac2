"""A table of facts -> a world, which is a folder of text that a person can edit."""

import collections
import csv
import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import unicodedata
from collections.abc import Mapping, Sequence

from kstore_jax.corpus.guesses import (
    attribute_columns,
    identifiers,
    label_of,
    name_columns,
    noun_of,
    separator_of,
)
from kstore_jax.corpus.tables import Table, read_table
from kstore_jax.errors import UserError, nearest
from kstore_jax.files import PARTIAL_SUFFIX, errors_named
from kstore_jax.world.language import default_questions, default_templates
from kstore_jax.world.pools import cell_fault, several
from kstore_jax.world.schema import FILE, Attribute, is_noun

_HIGH_GUESS = 0.3  # a majority guess that leaves little to see
_TABLE = "facts.csv"


@dataclasses.dataclass(frozen=True)
class Column:
    """An attribute of a world that a table makes.

    Attributes:
      name, label: of the attribute.
      column: of the table.
      separator: between several values in a cell; empty: there are none.
      values: number of different values.
      commonest: the value that most rows have.
      majority: the share of rows that have it, the accuracy of always guessing it.
      empty: number of empty cells in the whole table.
      in_names: number of rows whose name has the value in it, which a question gives away.
    """

    name: str
    label: str
    column: str
    separator: str
    values: int
    commonest: str
    majority: float
    empty: int
    in_names: int


@dataclasses.dataclass(frozen=True)
class Facts:
    """The report on a table and the world made of it.

    Attributes:
      table, world: the file and the folder.
      rows, written: number of rows of the table, and of the world.
      name: the columns that make the name.
      noun: what a row is.
      guessed: which of `name`, `attributes`, `noun` and `separator` were guessed.
      columns: the attributes.
      unused: columns that are no attribute -> the reason.
      empty, doubled: places of the rows that are left out, since a cell is empty or an earlier row
        has the same name.
    """

    table: str
    world: str
    rows: int
    written: int
    name: tuple[str, ...]
    noun: str
    guessed: tuple[str, ...]
    columns: tuple[Column, ...]
    unused: Mapping[str, str]
    empty: Sequence[str]
    doubled: Sequence[str]

    def json(self) -> str:
        """The report as JSON, with the number of rows left out."""
        values = dataclasses.asdict(self)
        return json.dumps(values | {"empty": len(self.empty), "doubled": len(self.doubled)})

    def text(self) -> str:
        """The report for a terminal."""
        lines = [
            f"{self.table}: {self.rows:,} rows",
            f"name: {' '.join(self.name)}{self._hint('name', 'name=COLUMN')}",
            f"noun: {self.noun}{self._hint('noun', 'noun=WORD')}",
            f"attributes{self._hint('attributes', 'attributes=COLUMN,...')}:",
        ]
        heads = ("column", "label", "values", "majority guess", "empty", "in names")
        rows = [heads, *(_cells(column) for column in self.columns)]
        widths = [max(_width(row[i]) for row in rows) for i in range(len(heads))]
        for row in rows:
            padded = (cell + " " * (w - _width(cell)) for cell, w in zip(row, widths, strict=True))
            lines.append(f"  {'  '.join(padded)}".rstrip())
        for column in self.columns:
            if column.separator:
                hint = self._hint("separator", "separator=TEXT")
                lines.append(f"{column.column}: several values between {column.separator!r}{hint}")
            if column.majority >= _HIGH_GUESS:
                share = f"{column.majority:.0%}"
                lines.append(f"{column.column}: always {column.commonest!r} is right for {share}")
        lines += [f"{name}: no attribute ({reason})" for name, reason in self.unused.items()]
        lines += _left_out(self.empty, "an empty cell") + _left_out(self.doubled, "a doubled name")
        return "\n".join([*lines, f"{self.world}: {self.written:,} rows"])

    def _hint(self, field: str, flag: str) -> str:
        return f" (guessed; --{flag} chooses)" if field in self.guessed else ""


def _left_out(rows: Sequence[str], reason: str) -> list[str]:
    count = f"{len(rows):,} row{'s' * (len(rows) > 1)}"
    return [f"left out: {count} with {reason}, first {rows[0]}"] if rows else []


def _cells(column: Column) -> tuple[str, ...]:
    commonest = column.commonest
    commonest = commonest if len(commonest) <= 30 else f"{commonest[:29]}…"
    guess = f"{column.majority:.1%} {commonest}"
    counts = (f"{count:,}" for count in (column.empty, column.in_names))
    return (column.column, column.label, f"{column.values:,}", guess, *counts)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def write_world(
    path: pathlib.Path,
    out: pathlib.Path,
    name: Sequence[str] = (),
    attributes: Sequence[str] = (),
    noun: str = "",
    separator: str = "",
) -> Facts:
    """Writes the world of a table: `world.toml`, the table, templates and questions.

    Args:
      path: the table, as `read_table` takes it.
      out: the folder to write; new or empty.
      name: columns that make the name together; empty: guessed.
      attributes: columns that are attributes; empty: guessed.
      noun: what a row is, as in "the film"; empty: guessed from the name of the file.
      separator: between several values in a cell; empty: `;` and `|` where cells have them.

    Raises:
      UserError: the table, a column or the folder is not as expected; nothing is written.
    """
    if any(out.iterdir()) if out.is_dir() else out.exists():
        raise UserError(f"--out: {out}: is not empty; expected a new folder")
    if noun and not is_noun(noun):
        raise UserError(f"--noun: expected words, got {noun!r}")
    table = read_table(path)
    names = _chosen(table, name, "name") or name_columns(table)
    chosen, unused = _chosen(table, attributes, "attributes"), {}
    if not chosen:
        chosen, unused = attribute_columns(table, names)
    if both := set(names) & set(chosen):
        raise UserError(f"--attributes: {both.pop()!r} is the name; expected other columns")
    separators = {column: separator_of(table, column, separator) for column in chosen}
    _check_cells(table, names, chosen, separators)
    written, empty, doubled = _rows(table, names, chosen)
    ids = identifiers(chosen)
    facts = Facts(
        table=str(path),
        world=str(out),
        rows=len(table.lines),
        written=sum(written),
        name=tuple(names),
        noun=noun or noun_of(path),
        guessed=_guessed(name, attributes, noun, separator),
        columns=tuple(
            _column(table, names, written, column, ids[column], separators[column])
            for column in chosen
        ),
        unused=unused,
        empty=empty,
        doubled=doubled,
    )
    _write(facts, table, written, out)
    return facts


def _guessed(name: object, attributes: object, noun: object, separator: object) -> tuple[str, ...]:
    fields = {"name": name, "attributes": attributes, "noun": noun, "separator": separator}
    return tuple(field for field, value in fields.items() if not value)


def _chosen(table: Table, columns: Sequence[str], flag: str) -> list[str]:
    for column in columns:
        if column not in table.columns:
            hint = nearest(column, table.columns)
            raise UserError(f"--{flag}: {table.path} has no column {column!r}{hint}")
        if list(columns).count(column) > 1:
            raise UserError(f"--{flag}: {column!r} is repeated")
    return list(columns)


def _check_cells(
    table: Table, names: Sequence[str], chosen: Sequence[str], separators: Mapping[str, str]
) -> None:
    """Raises UserError where a cell that is not empty holds no fact; names row and column."""
    for column in (*names, *chosen):
        cells, separator = table.columns[column], separators.get(column, "")
        faults = {c: fault for c in set(cells) if c and (fault := cell_fault(c, separator))}
        if faults:
            row = next(i for i, cell in enumerate(cells) if cell in faults)
            cell = cells[row]
            raise UserError(f"{table.where(row)}: {column}: {cell!r:.80} {faults[cell]}")


def _rows(
    table: Table, names: Sequence[str], chosen: Sequence[str]
) -> tuple[bytearray, list[str], list[str]]:
    """Whether each row is in the world, 1 or 0; and the places of the rows with an empty cell or a
    doubled name."""
    written, empty, doubled, seen = bytearray(), [], [], {}
    columns = [table.columns[column] for column in (*names, *chosen)]
    for row, cells in enumerate(zip(*columns, strict=True)):
        full = " ".join(cells[: len(names)])
        first = seen.setdefault(full, row) if (whole := all(cells)) else row
        written.append(whole and first == row)
        if not whole:
            column = (*names, *chosen)[cells.index("")]
            empty.append(f"{table.where(row)}: {column}")
        elif first != row:
            doubled.append(f"{table.where(row)}: {full!r} is in line {table.lines[first]}")
    if sum(written) < 2:
        raise UserError(
            f"{table.path}: {sum(written)} of {len(table.lines)} rows have a name of their own and "
            f"every fact; expected 2 or more; choose columns with fewer empty cells"
        )
    return written, empty, doubled


def _column(
    table: Table,
    names: Sequence[str],
    written: bytearray,
    column: str,
    name: str,
    separator: str,
) -> Column:
    """The attribute that a column makes; `written` are the rows of the world."""
    cells = table.columns[column]

    def values(cell: str) -> Sequence[str]:
        return several(cell, separator) if separator else (cell,)

    rows_with: collections.Counter[str] = collections.Counter()
    for cell, count in collections.Counter(itertools.compress(cells, written)).items():
        for value in values(cell):
            rows_with[value] += count
    commonest, count = rows_with.most_common(1)[0]
    rows = zip(cells, *(table.columns[part] for part in names), strict=True)
    given_away = 0
    for cell, *parts in itertools.compress(rows, written):
        full = " ".join(parts).casefold()
        given_away += any(_is_inside(value.casefold(), full) for value in values(cell))
    return Column(
        name=name,
        label=label_of(column),
        column=column,
        separator=separator,
        values=len(rows_with),
        commonest=commonest,
        majority=count / sum(written),
        empty=cells.count(""),
        in_names=given_away,
    )


def _is_inside(value: str, name: str) -> bool:
    """Whether a name has a value in it, as whole words where the value is ASCII."""
    if value not in name:
        return False
    return not value.isascii() or bool(re.search(rf"(?<!\w){re.escape(value)}(?!\w)", name))


def _write(facts: Facts, table: Table, written: bytearray, out: pathlib.Path) -> None:
    """Writes the folder whole: under another name, which becomes `out` at the end."""
    partial = out.with_name(out.name + PARTIAL_SUFFIX)
    with errors_named(out):
        shutil.rmtree(partial, ignore_errors=True)
        for folder in ("templates", "questions"):
            (partial / folder).mkdir(parents=True)
        (partial / FILE).write_text(_toml(facts), encoding="utf-8")
        heads = (*facts.name, *(column.column for column in facts.columns))
        with (partial / _TABLE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(heads)
            columns = (table.columns[head] for head in heads)
            writer.writerows(itertools.compress(zip(*columns, strict=True), written))
        for column in facts.columns:
            attribute = Attribute(column.name, column.label)
            texts = {"templates": default_templates, "questions": default_questions}
            for folder, lines in texts.items():
                path = partial / folder / f"{column.name}.txt"
                path.write_text("\n".join(lines(attribute)) + "\n", encoding="utf-8")
        os.replace(partial, out)


def _toml(facts: Facts) -> str:
    """The content of `world.toml`."""
    lines = [
        f"# {facts.written:,} rows of {pathlib.Path(facts.table).name}. Edit the labels here, and",
        "# the sentences in templates/ and questions/.",
        f"table = {_quoted(_TABLE)}",
        f"name = [{', '.join(map(_quoted, facts.name))}]",
        f"noun = {_quoted(facts.noun)}",
        'pronouns = ["it"]  # of people ["she", "he", "they"]; [] repeats the name',
        "",
        "[attributes]",
    ]
    for column in facts.columns:
        fields = {"column": column.column, "label": column.label, "separator": column.separator}
        inside = ", ".join(f"{field} = {_quoted(x)}" for field, x in fields.items() if x)
        lines.append(f"{column.name} = {{{inside}}}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
