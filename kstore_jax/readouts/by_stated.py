"""P-probing by the attributes stated before the place that is read (Part 3.1, Figs. 6 and 15).

Everything here is a function of the cases of `p_probe`, where they have `stated` and `pairs`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kstore_jax.charts.tables import Line
from kstore_jax.intervals import intervals
from kstore_jax.readouts.measured import Measured
from kstore_jax.readouts.shares import Measurements, Share

_SIDES = ("before", "after")


class Cell(NamedTuple):
    """The readings of one task after one set of attributes.

    Attributes:
      kind, attribute: the task.
      stated: the attributes that the text states before.
      read: (texts, positions) bool: where the task is read so.
      right: (texts, positions) bool: whether it is right.
    """

    kind: str
    attribute: str
    stated: tuple[str, ...]
    read: np.ndarray
    right: np.ndarray

    @property
    def metric(self) -> str:
        return _metric(self.kind, self.stated)


def _metric(kind: str, stated: Sequence[str]) -> str:
    return f"by_stated.{kind} after {' and '.join(stated) or 'nothing'}"


def cells(cases: Mapping[str, np.ndarray]) -> Iterator[Cell]:
    """The cells of every task, by the set of attributes as bits of a code."""
    tasks = [name.split(" ") for name in cases["names"].tolist()]
    attributes = [attribute for attribute, kind in tasks if kind == "first"]
    code_NxQ = (cases["stated"] << np.arange(len(attributes))).sum(-1)
    for t, (attribute, kind) in enumerate(tasks):
        active, right = cases["active"][:, :, t], cases["hits"][:, :, t]
        for code in np.unique(code_NxQ[active]):
            stated = tuple(name for a, name in enumerate(attributes) if code >> a & 1)
            yield Cell(kind, attribute, stated, (code_NxQ == code) & active, right)


def scores(cases: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`by_stated`: by kind and attribute a list of cells, each with the attributes `stated`, the
    share `right` and the number of `readings`; and the `pairs`."""
    found: dict = {"first": {}, "whole": {}}
    for cell in cells(cases):
        share, count = float(cell.right[cell.read].mean()), int(cell.read.sum())
        scored = {"stated": [*cell.stated], "right": share, "readings": count}
        found[cell.kind].setdefault(cell.attribute, []).append(scored)
    return {"pairs": cases["pairs"].tolist(), "by_stated": found}


def shares(result: Mapping[str, Any]) -> list[Share]:
    """The shares of `by_stated` in a result; none where it has none."""
    return [
        Share(_metric(kind, cell["stated"]), attribute, None, (*path, i, "right"))
        for kind, of_kind in result.get("by_stated", {}).items()
        for attribute, of_attribute in of_kind.items()
        for path in (("by_stated", kind, attribute),)
        for i, cell in enumerate(of_attribute)
    ]


def measurements(cases: Mapping[str, np.ndarray]) -> list[Measurements]:
    """The readings of each share of `by_stated`."""
    found = []
    for cell in cells(cases):
        texts, _ = np.nonzero(cell.read)
        columns = cases["person"][texts], cases["text"][texts], cell.right[cell.read]
        found.append(Measurements(cell.metric, cell.attribute, None, *columns))
    return found


def cell_intervals(cases: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The intervals of `by_stated`, at its paths, and those of `by_pair`, which the page shows."""
    found: dict = {"first": {}, "whole": {}}
    for cell in cells(cases):
        person = cases["person"][np.nonzero(cell.read)[0]]
        (interval,), _ = intervals(person, cell.right[cell.read][:, None])
        found[cell.kind].setdefault(cell.attribute, []).append({"right": interval})
    return {"by_stated": found, "by_pair": _pair_intervals(cases)}


def _pair_intervals(cases: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The intervals of the shares of `_by_pair`, at the same names."""
    tasks = cases["names"].tolist()
    attributes = [name.removesuffix(" first") for name in tasks if name.endswith(" first")]
    names = _other_half(cases["pairs"].tolist())
    columns = [tasks.index(f"{name} first") for name in names]
    right, active = (cases[part][:, :, columns] for part in ("hits", "active"))
    after = cases["stated"][:, :, [attributes.index(other) for other in names.values()]]
    person, found = np.repeat(cases["person"], right.shape[1]), {}
    for side, read in (("before", active & ~after), ("after", active & after)):
        flat = (x.reshape(len(person), len(names)) for x in (right, read))
        of_names, of_mean = intervals(person, *flat)
        each = zip(["mean", *names], [of_mean, *of_names], strict=True)
        found[side] = {name: interval for name, interval in each if interval}
    return found


def pair_lines(group: Measured) -> list[Line]:
    """First tokens before and after the other half of a pair was read, as lines of a table."""
    by_pair = dataclasses.replace(
        group,
        results=tuple(map(_by_pair, group.results)),
        intervals=tuple(of_row.get("by_pair", {}) for of_row in group.intervals),
    )
    return [
        by_pair.line("before its other half", "before"),
        by_pair.line("after it", "after", kind="ours"),
    ]


def _by_pair(result: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """The share of right readings of each half of a pair, `before` and `after` the other half was
    read, over all places; None where there is no such place."""
    found: dict = {}
    for side in _SIDES:
        shares: dict[str, float | None] = {}
        for name, other in _other_half(result["pairs"]).items():
            of = [
                cell
                for cell in result["by_stated"]["first"][name]
                if (other in cell["stated"]) == (side == "after")
            ]
            count = sum(cell["readings"] for cell in of)
            right = sum(cell["right"] * cell["readings"] for cell in of)
            shares[name] = right / count if count else None
        measured = [share for share in shares.values() if share is not None]
        found[side] = {"mean": sum(measured) / len(measured) if measured else None, **shares}
    return found


def _other_half(pairs: Sequence[Sequence[str]]) -> dict[str, str]:
    """Each attribute of a pair, and the other one."""
    return {name: other for pair in pairs for name, other in (pair, [*reversed(pair)])}
