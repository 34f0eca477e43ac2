"""The single answers of `qa`: its `cases.npz` by task, as measurements and as intervals."""

from collections.abc import Iterator, Mapping

import numpy as np

from kstore_jax.intervals import intervals_by_group
from kstore_jax.readouts.shares import Measurements

_HALVES = ("train", "test", "held_back")
_KINDS = ("exact", "first", "beam", "hint")


def by_task(cases: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The columns of each task."""
    tasks: dict[str, dict[str, np.ndarray]] = {}
    for name, column in cases.items():
        task, _, own = name.partition(".")
        tasks.setdefault(task, {})[own] = column
    return tasks


def task_measurements(task: str, columns: Mapping[str, np.ndarray]) -> Iterator[Measurements]:
    """The answers of a task by half, kind, wording and group, at the names of its shares. The item
    is the number of the question; one about several people counts as about the first of them.

    Args:
      columns: its cases, as `qa.evaluate_task` returns them.
    """
    person = columns["person"][:, 0]
    for half, kind in ((half, kind) for half in _HALVES for kind in _KINDS):
        if half not in columns or kind not in columns:
            continue
        right = columns[kind]
        wordings, groups = (columns[name][: len(right)] for name in ("wording", "group"))
        asked = _scored(columns, half, kind)
        asked = asked[: len(right)]  # a beam search answers the first wording alone
        for wording in np.unique(wordings).tolist():
            metric = f"{task}.{half}.{kind}"
            if wording:
                metric = f"{task}.wordings.{half}" + f".{kind}" * (kind != "exact")
            for group, name in enumerate(columns["names"].tolist()):
                rows = np.flatnonzero(asked & (wordings == wording) & (groups == group))
                of = person[rows], rows, right[rows]
                if len(rows):
                    yield Measurements(metric, name, wording or None, *of)


def task_intervals(columns: Mapping[str, np.ndarray]) -> dict:
    """The intervals of the scores of a task. A question about several people counts as one about
    the first of them.

    Args:
      columns: its cases, as `qa.evaluate_task` returns them.
    """
    person, names = columns["person"][:, 0], columns["names"].tolist()
    wordings = range(int(columns["wording"].max(initial=0)) + 1)

    def shares(kind: str, half: str, wording: int) -> dict:
        asked = np.flatnonzero(columns["wording"] == wording)
        hits = columns[kind] if kind == "beam" else columns[kind][asked]
        chosen = _scored(columns, half, kind)[asked]
        rows = asked[chosen]
        return intervals_by_group(person[rows], hits[chosen], columns["group"][rows], names)

    halves = [half for half in _HALVES if half in columns]
    kinds = [kind for kind in _KINDS if kind in columns]
    found: dict = {half: {kind: shares(kind, half, 0) for kind in kinds} for half in halves}
    found["wordings"] = {half: [shares("exact", half, w) for w in wordings[1:]] for half in halves}
    return found


def _scored(columns: Mapping[str, np.ndarray], half: str, kind: str) -> np.ndarray:
    """(N,) bool: the questions of a half that have what is measured; hints, some."""
    return columns[half] & columns["hinted"] if kind == "hint" else columns[half]
