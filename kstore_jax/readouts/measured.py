"""The results of a readout over the seeds of a group of rows, as tables and charts read them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kstore_jax.charts.drawing import as_label
from kstore_jax.charts.nouns import PERSON, shared_noun, with_noun
from kstore_jax.charts.tables import Line

BOOTSTRAP, SEEDS = "bootstrap over people", "range over seeds"
"""What the ends of a `Spread` are."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """How sure a share is.

    Attributes:
      low, high: shares from 0 to 1.
      kind: `BOOTSTRAP`, the middle 95 % of resamples of the people of one seed
        (`intervals.py`), or `SEEDS`, the lowest and the highest of several seeds.
      people, cases: how many people, and cases about them, the share of each seed is of; 0 where
        that is not known.
    """

    low: float
    high: float
    kind: str
    people: int = 0
    cases: int = 0


@dataclasses.dataclass(frozen=True)
class Measured:
    """The results of one readout for rows that differ in the seed alone.

    Attributes:
      which: number of the group on the page.
      label: its name.
      wording: its biographies in words.
      seeds: the seed of each row.
      results: the result of each row.
      labels: label of each attribute by name.
      bundled: whether its people are of the bundled world, the paper's; notes about the paper are
        for such groups only.
      published: the paper's numbers by name (`report/paper.py`, `Published`); empty where it has
        none for this group.
      intervals: of the shares of each row, at the same paths as in `results`; empty where there
        are none.
      training: of each row, `lines`, the metrics of pretraining that hold an `evaluation`, and the
        `exposures` a step; empty where not every row was measured in the course of pretraining.
      noun: what the world is about, as `with_noun` puts it into texts.
    """

    which: int
    label: str
    wording: str
    seeds: tuple[int, ...]
    results: tuple[dict, ...]
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bundled: bool = False
    published: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    intervals: tuple[dict, ...] = ()
    training: tuple[dict, ...] = ()
    noun: str = PERSON

    def label_of(self, name: str) -> str:
        """The label of an attribute, or of another name."""
        return self.labels.get(name, as_label(name))

    def each(self, *path: str | int) -> list:
        """The value of each row at a path of keys."""
        return values_at(self.results, path)

    def mean(self, *path: str | int) -> float:
        """The mean over the seeds of a number that every row has."""
        return means(self.each(*path))

    def means(self, *path: str) -> dict:
        """The mean over the seeds of every number in nested dictionaries and lists; None where no
        seed has a value."""
        return means(self.each(*path))

    def spread(self, *path: str | int) -> Spread | None:
        """How sure the share at a path of keys is; None where that is not known."""
        intervals = [found for row in self.intervals if (found := find(row, path))]
        counts = {}
        if len(intervals) == len(self.results):
            counts = {name: intervals[0][name] for name in ("people", "cases")}
        if len(self.results) > 1:
            shares = [x for row in self.results if (x := find(row, path)) is not None]
            return Spread(min(shares), max(shares), SEEDS, **counts) if shares else None
        if not counts:
            return None
        return Spread(intervals[0]["low"], intervals[0]["high"], BOOTSTRAP, **counts)

    def spreads(self, *path: str | int) -> dict[str, Spread]:
        """The spread of each share in a dictionary at a path of keys, where it is known."""
        names = dict.fromkeys(name for row in self.each(*path) for name in row)
        found = {name: self.spread(*path, name) for name in names}
        return {name: spread for name, spread in found.items() if spread}

    def line(self, name: str, *path: str, kind: str = "", before: Sequence[str] = ()) -> Line:
        """The shares in a dictionary at a path of keys, means over the seeds with their spreads, as
        a line of a table."""
        ends = {column: (spread.low, spread.high) for column, spread in self.spreads(*path).items()}
        return Line(name, self.means(*path), kind, before, ends)

    def part(self, key: str) -> "Measured":
        """The same with what each row has under a key, such as one of several tasks."""
        intervals = tuple(row.get(key, {}) for row in self.intervals)
        results = tuple(row[key] for row in self.results)
        return dataclasses.replace(self, results=results, intervals=intervals)

    def has(self, *path: str) -> bool:
        """Whether every row has something, and nothing empty, at a path of keys."""
        try:
            return all(bool(value) for value in self.each(*path))
        except KeyError:
            return False


def find(value: Any, path: tuple[str | int, ...]) -> Any:
    """What nested dictionaries and lists hold at a path of keys; None where there is nothing."""
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def about(groups: Sequence[Measured], text: str) -> str:
    """A text of ours with the noun that the worlds of several groups share (`with_noun`)."""
    return with_noun(text, shared_noun(group.noun for group in groups))


def labels_of(groups: Sequence[Measured]) -> dict[str, str]:
    """The labels of the attributes of several groups, by name."""
    return {name: label for group in groups for name, label in group.labels.items()}


def values_at(rows: tuple[dict, ...], path: tuple[str | int, ...]) -> list:
    """The value of each of several nested dictionaries at a path of keys."""
    values: list = list(rows)
    for key in path:
        values = [value[key] for value in values]
    return values


def means(values: list) -> Any:
    """The mean of numbers, of each entry of dictionaries, or of each place of lists."""
    if isinstance(values[0], dict):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: means([value[key] for value in values if key in value]) for key in keys}
    if isinstance(values[0], list):
        return [means(list(cells)) for cells in zip(*values, strict=True)]
    numbers = [value for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None
