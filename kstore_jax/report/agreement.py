"""The rank correlation of our datasets with the paper's, and where the ranks differ most."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

from kstore_jax.intervals import ENDS, RESAMPLES
from kstore_jax.readouts.probe_training import at_name
from kstore_jax.report import paper
from kstore_jax.report.groups import Group
from kstore_jax.world.biographies import FIG3_VARIANTS


@dataclasses.dataclass(frozen=True)
class Agreement:
    """One measure of the groups that the paper has numbers for: ours and the paper's.

    Attributes:
      name: `qa_mean`, answers about people held out, or `q_first_mean`, first tokens of Q-probing;
        both are means over the attributes.
      labels: the groups, in order of appearance.
      ours: a share for each.
      theirs: the paper's.
    """

    name: str
    labels: tuple[str, ...]
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def spearman(self) -> float | None:
        return spearman(self.ours, self.theirs)

    @functools.cached_property
    def interval(self) -> tuple[float, float] | None:
        """The middle 95 % of the correlations of 2,000 resamples of the groups, drawn with
        replacement; None where all of ours, or all of the paper's, are equal."""
        drawn = np.random.default_rng(0).integers(len(self.ours), size=(RESAMPLES, len(self.ours)))
        ranks = [rankdata(np.array(side)[drawn], axis=1) for side in (self.ours, self.theirs)]
        ours, theirs = (side - side.mean(1, keepdims=True) for side in ranks)
        spreads = np.sqrt((ours**2).sum(1) * (theirs**2).sum(1))
        if self.spearman is None:
            return None
        some = spreads > 0  # all of one side may be equal in a resample
        low, high = np.percentile((ours * theirs).sum(1)[some] / spreads[some], ENDS)
        return float(low), float(high)

    @property
    def correlation(self) -> dict[str, Any]:
        """`spearman`, the ends `low` and `high` of its interval, and the number of `datasets`."""
        low, high = self.interval or (None, None)
        return {"spearman": self.spearman, "low": low, "high": high, "datasets": len(self.ours)}

    def misses(self) -> list[tuple[str, float, float]]:
        """Groups with our rank and the paper's, 1 for the least share; the furthest apart first."""
        ranked = zip(self.labels, rankdata(self.ours), rankdata(self.theirs), strict=True)
        misses = [(label, float(ours), float(theirs)) for label, ours, theirs in ranked]
        return sorted(misses, key=lambda miss: -abs(miss[1] - miss[2]))

    def furthest(self) -> list[str]:
        """The three groups whose ranks are furthest apart, without those of equal rank."""
        return [label for label, ours, theirs in self.misses()[:3] if ours != theirs]


def agreements(groups: Sequence[Group]) -> list[Agreement]:
    """Both measures over the groups of the paper's datasets; none of fewer than three, or where a
    dataset occurs in several settings and would count several times."""
    compared = _compared(groups)
    answers = [
        (group, group.answers, published.qa["mean"])
        for group, published in compared
        if group.has("qa") and published.qa
    ]
    probed = [
        (group, _mean(at_name(measured.means("first")).values()), _mean(published.q_first.values()))
        for group, published in compared
        if published.q_first and (measured := group.measured("q_probe"))
    ]
    agreements = []
    for name, points in (("qa_mean", answers), ("q_first_mean", probed)):
        datasets = {group.dataset for group, _, _ in points}
        if len(datasets) >= 3 and len(points) == len(datasets):
            members, ours, theirs = zip(*points, strict=True)
            labels = tuple(group.label for group in members)
            agreements.append(Agreement(name, labels, ours, theirs))
    return agreements


def _compared(groups: Sequence[Group]) -> list[tuple[Group, paper.Published]]:
    """The groups of the paper's 16 datasets, with its numbers."""
    published = [(group, group.published) for group in groups if group.setting == paper.THE_16]
    return [(group, theirs) for group, theirs in published if theirs is not None]


def of_all_datasets(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """The `Agreement.correlation` of each measure that all 16 datasets of the paper have, in one
    setting each; `spearman` is None where all of our values are equal."""
    each = agreements(groups)
    return {one.name: one.correlation for one in each if len(one.ours) == len(FIG3_VARIANTS)}


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The correlation of the ranks, -1 to 1; None where all of x or all of y are equal."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    correlation: Any = spearmanr(x, y)
    return float(correlation.statistic)


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)
