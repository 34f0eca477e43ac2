"""How sure a share is: a bootstrap over people, from the cases of a readout.

Several answers about one person are not independent, so people are drawn, with all their cases.
Each resample draws as many people as there are, with replacement; the interval has the middle 95 %
of the shares of 2,000 resamples. Where every case is right, or every one wrong, it has no width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000
ENDS = (2.5, 97.5)
_MOST_DRAWS = 4_000_000  # numbers of one part of the resamples

Interval = dict[str, Any]
"""`low` and `high`, shares from 0 to 1; the numbers of `people` and of `cases`."""


def intervals(
    person: np.ndarray, hits: np.ndarray, scored: np.ndarray | None = None
) -> tuple[list[Interval | None], Interval | None]:
    """The interval of the share of `hits` in each column, and of the mean of these shares.

    All columns share their resamples, which depend on nothing but these cases.

    Args:
      person: (N,) who each case is about.
      hits: (N, A) bool: whether it is right.
      scored: (N, A) bool: the cases that count; None: all.

    Returns: an interval for each column, None where nothing is scored, and that of their mean.
    """
    scored = np.ones_like(hits) if scored is None else scored
    _, who = np.unique(person, return_inverse=True)
    right, cases = (
        np.stack([np.bincount(who, column) for column in counted.T], axis=1)
        for counted in (hits & scored, scored)
    )
    members = cases.any(1)
    right, cases = right[members], cases[members]
    if not len(cases):
        return [None] * hits.shape[1], None
    shares = _resampled(right, cases)
    counts = [(int((column > 0).sum()), int(column.sum())) for column in cases.T]
    of_columns = [
        _interval(column, *count) if count[1] else None
        for column, count in zip(shares.T, counts, strict=True)
    ]
    measured = ~np.isnan(shares)
    means = np.where(measured, shares, 0.0).sum(1) / measured.sum(1)
    return of_columns, _interval(means, len(cases), int(cases.sum()))


def intervals_by_column(
    person: np.ndarray, hits: np.ndarray, names: Sequence[str]
) -> dict[str, Interval]:
    """The intervals of `tasks.base.accuracy_by_column`, at the same names, with `mean`."""
    return _by_name(names, *intervals(person, hits))


def intervals_by_group(
    person: np.ndarray, hits: np.ndarray, groups: np.ndarray, names: Sequence[str]
) -> dict[str, Interval]:
    """The intervals of `tasks.base.accuracy_by_group`, at the same names, with `mean`."""
    scored = groups[:, None] == np.arange(len(names))
    return _by_name(names, *intervals(person, hits[:, None] & scored, scored))


def _by_name(
    names: Sequence[str], of_columns: Sequence[Interval | None], of_mean: Interval | None
) -> dict[str, Interval]:
    named = {"mean": of_mean, **dict(zip(names, of_columns, strict=True))}
    return {name: interval for name, interval in named.items() if interval is not None}


def _resampled(right: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """The shares of each resample, (resamples, A); NaN where it has no case.

    People with equal cases are interchangeable, so only their counts are drawn.

    Args:
      right, cases: (people, A) how many cases of a person are right, and how many there are.
    """
    kinds, count = np.unique(np.concatenate([right, cases], 1), axis=0, return_counts=True)
    rng, parts = np.random.default_rng(0), []
    most = max(1, _MOST_DRAWS // len(kinds))
    for first in range(0, RESAMPLES, most):
        size = min(most, RESAMPLES - first)
        drawn = rng.multinomial(len(cases), count / len(cases), size=size)
        parts.append(drawn.astype(float) @ kinds)
    right_drawn, cases_drawn = np.split(np.concatenate(parts), 2, axis=1)
    with np.errstate(invalid="ignore"):
        return right_drawn / cases_drawn


def _interval(shares: np.ndarray, people: int, cases: int) -> Interval:
    low, high = (round(float(end), 6) for end in np.nanpercentile(shares, ENDS))
    return {"low": low, "high": high, "people": people, "cases": cases}
