"""The results of a readout over the seeds of a group of rows, as tables and charts read them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kstore_jax.charts.drawing import as_label


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
    """

    which: int
    label: str
    wording: str
    seeds: tuple[int, ...]
    results: tuple[dict, ...]
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bundled: bool = False
    published: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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

    def has(self, *path: str) -> bool:
        """Whether every row has something, and nothing empty, at a path of keys."""
        try:
            return all(bool(value) for value in self.each(*path))
        except KeyError:
            return False


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
