"""The rank correlation of our datasets with the paper's, and where the ranks differ most."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from scipy.stats import rankdata, spearmanr

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
    datasets = {group.dataset for group, _ in compared}
    if len(datasets) < 3 or len(compared) > len(datasets):
        return []
    labels = tuple(group.label for group, _ in compared)
    agreements = []
    if all(group.has("qa") for group, _ in compared):
        ours = tuple(group.answers for group, _ in compared)
        theirs = tuple(published.qa["mean"] for _, published in compared)
        agreements.append(Agreement("qa_mean", labels, ours, theirs))
    probes = [group.measured("q_probe") for group, _ in compared]
    if all(probes):
        ours = tuple(_mean(at_name(p.means("first")).values()) for p in probes if p)
        theirs = tuple(_mean(published.q_first.values()) for _, published in compared)
        agreements.append(Agreement("q_first_mean", labels, ours, theirs))
    return agreements


def _compared(groups: Sequence[Group]) -> list[tuple[Group, paper.Published]]:
    """The groups of the paper's 16 datasets, with its numbers."""
    published = [(group, group.published) for group in groups if group.setting == paper.THE_16]
    return [(group, theirs) for group, theirs in published if theirs is not None]


def of_all_datasets(groups: Sequence[Group]) -> dict[str, float | None]:
    """Spearman's correlation of each measure, None where all of our values are equal; empty unless
    all 16 datasets of the paper occur, in one setting each."""
    if not {group.dataset for group, _ in _compared(groups)} >= set(FIG3_VARIANTS):
        return {}
    return {each.name: each.spearman for each in agreements(groups)}


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The correlation of the ranks, -1 to 1; None where all of x or all of y are equal."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    correlation: Any = spearmanr(x, y)
    return float(correlation.statistic)


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)
