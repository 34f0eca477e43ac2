"""What a table leaves open: which columns are name and attributes, what a row is called."""

import pathlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from kstore_jax.corpus.tables import Table
from kstore_jax.errors import UserError
from kstore_jax.world.schema import RESERVED

_NAMES = ("name", "title", "label", "full name")
"""Heads of columns that are the name, where several could be."""
_SEPARATORS = ("|", ";")
_FEWEST_LISTS = 0.02  # share of a column's cells that have a separator, where it is one
_MOST_EMPTY = 0.1  # share of empty cells of a column that is taken unasked
_LONGEST = 60  # characters of a value, in the mean, of a column that is taken unasked


def name_columns(table: Table) -> list[str]:
    """The first column whose texts differ in 99 % of the rows; before others one of `_NAMES`, whose
    texts need to differ in 90 %."""
    fitting = []
    for column, cells in table.columns.items():
        texts = [cell for cell in cells if cell]
        words = sum(any(map(str.isalpha, cell)) for cell in texts)
        least = 0.9 if column.lower() in _NAMES else 0.99
        if words >= 0.9 * len(cells) and len(set(texts)) >= least * len(texts):
            fitting.append(column)
    if not fitting:
        raise UserError(
            f"{table.path}: no column with another text in every row; expected --name=COLUMN, "
            f"or several columns that make the name; valid: {', '.join(table.columns)}"
        )
    return sorted(fitting, key=lambda column: column.lower() not in _NAMES)[:1]


def attribute_columns(table: Table, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The columns that are attributes, and why the others are none."""
    chosen, unused = [], {}
    for column, cells in table.columns.items():
        if column in names:
            continue
        texts = [cell for cell in cells if cell]
        empty = 1 - len(texts) / len(cells)
        if empty > _MOST_EMPTY:
            unused[column] = f"{empty:.0%} of its cells are empty"
        elif len(set(texts)) < 2:
            unused[column] = "all its values are the same"
        elif sum(map(len, texts)) > _LONGEST * len(texts):
            unused[column] = "its values are long"
        else:
            chosen.append(column)
    if not chosen:
        reasons = "; ".join(f"{column}: {reason}" for column, reason in unused.items())
        raise UserError(f"{table.path}: no column of facts ({reasons}); expected --attributes=")
    return chosen, unused


def separator_of(table: Table, column: str, separator: str) -> str:
    """What separates several values in the cells of a column; empty: nothing does."""
    cells = table.columns[column]
    if column in table.separators:
        return table.separators[column]
    for each in [separator] if separator else _SEPARATORS:
        having = sum(each in cell for cell in cells)
        if having and (separator or having >= _FEWEST_LISTS * len(cells)):
            return each
    return ""


def label_of(column: str) -> str:
    """The label of a column: its head, common words in lower case."""
    words = column.replace("_", " ").split()
    return " ".join(word.lower() if word.istitle() else word for word in words)


def identifiers(columns: Iterable[str]) -> dict[str, str]:
    """The name of the attribute of each column, of letters a to z, digits and _."""
    ids: dict[str, str] = {}
    for number, column in enumerate(columns, 1):
        plain = unicodedata.normalize("NFKD", column).lower()
        plain = re.sub(r"[^a-z0-9]+", "_", plain.encode("ascii", "ignore").decode()).strip("_")
        plain = re.sub(r"^(?=\d)", "fact_", plain) or f"fact_{number}"
        plain = f"the_{plain}" if plain in RESERVED else plain
        ids[column] = f"{plain}_{number}" if plain in ids.values() else plain
    return ids


def noun_of(path: pathlib.Path) -> str:
    """What a row is, from the name of the file: the singular of its last word."""
    words = re.findall(r"[^\W\d_]+", path.stem.lower()) or ["thing"]
    plural = words[-1]
    for ending, singular in (("ies", "y"), ("ses", "s"), ("xes", "x"), ("s", "")):
        if plural.endswith(ending) and not plural.endswith("ss") and len(plural) > len(ending) + 1:
            return plural[: -len(ending)] + singular
    return plural
