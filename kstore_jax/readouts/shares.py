"""The shares of a result in long form, and the single measurements that each is the mean of."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Share:
    """One share of a result.

    Attributes:
      metric: the measure, with a dot between keys, such as `extraction.test.exact`.
      attribute: its attribute, or `mean`; may be empty.
      position: its place in a list from 0, such as the number of facts stated before; None: none.
      path: its keys in the result.
    """

    metric: str
    attribute: str
    position: int | None
    path: tuple[str | int, ...]


class Measurements(NamedTuple):
    """The single measurements of one share: three arrays (N,).

    Attributes:
      metric, attribute, position: those of the `Share`.
      person: who each is about.
      item: the number of its text or question.
      right: whether it is right.
    """

    metric: str
    attribute: str
    position: int | None
    person: np.ndarray
    item: np.ndarray
    right: np.ndarray


def shares_of(values: Mapping[str, Any], *path: str) -> list[Share]:
    """The numbers of nested dictionaries and lists: the last key names the attribute, the keys
    before it are the metric, and the place in a list is the position.

    Args:
      path: the keys of `values` itself in the result.

    >>> shares_of({"first": {"major": [0.5, None]}})
    [Share(metric='first', attribute='major', position=0, path=('first', 'major', 0))]
    """
    return [_share(found) for key, value in values.items() for found in _paths(value, (*path, key))]


def _paths(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """The path of each number."""
    if isinstance(value, Mapping | list):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in parts:
            yield from _paths(part, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def _share(path: tuple[str | int, ...]) -> Share:
    *keys, last = [key for key in path if isinstance(key, str)]
    position = next((key for key in path if isinstance(key, int)), None)
    return Share(".".join(keys or [last]), last if keys else "", position, path)


def measurements_of(cases: Mapping[str, np.ndarray]) -> list[Measurements]:
    """The measurements in columns (N, attributes) bool of `cases.npz`, in the order of its `names`,
    beside `person` (N,) and, for texts, `entry` (N,). A column is a metric. Cases without `names`
    or `person` have none."""
    if not cases.keys() >= {"names", "person"}:
        return []
    names, person = cases["names"].tolist(), cases["person"]
    item = cases.get("entry", np.arange(len(person)))
    columns = {
        name: column
        for name, column in cases.items()
        if column.dtype == bool and column.shape == (len(person), len(names))
    }
    return [
        Measurements(metric, name, None, person, item, column[:, a])
        for metric, column in columns.items()
        for a, name in enumerate(names)
    ]
