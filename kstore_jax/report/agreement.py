"""How far our datasets rank as the paper's do: Spearman's correlation, and where they part most."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kstore_jax.report import paper
from kstore_jax.report.groups import Group
from kstore_jax.world.biographies import FIG3_VARIANTS
from kstore_jax.world.people import ATTRIBUTES


@dataclasses.dataclass(frozen=True)
class Agreement:
    """One measure of the groups that the paper has numbers for, ours beside the paper's.

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
        ranked = zip(self.labels, ranks(self.ours), ranks(self.theirs), strict=True)
        told = [(label, float(ours), float(theirs)) for label, ours, theirs in ranked]
        return sorted(told, key=lambda miss: -abs(miss[1] - miss[2]))

    def furthest(self) -> list[str]:
        """The three groups whose ranks are furthest apart, less those that rank alike."""
        return [label for label, ours, theirs in self.misses()[:3] if ours != theirs]


def agreements(found: Sequence[Group]) -> list[Agreement]:
    """Both measures over the groups of the paper's datasets; none of fewer than three, or where a
    dataset is there in several settings, which would count as often."""
    known = [(group, group.published) for group in found if _is_one_of_the_16(group)]
    datasets = {group.dataset for group, _ in known}
    if len(datasets) < 3 or len(known) > len(datasets):
        return []
    labels = tuple(group.label for group, _ in known)
    read = [group.means("q_probe", "first") for group, _ in known]
    return [
        Agreement(
            "qa_mean",
            labels,
            tuple(group.mean("qa", "mean") for group, _ in known),
            tuple(published.qa["mean"] for _, published in known),
        ),
        Agreement(
            "q_first_mean",
            labels,
            tuple(_mean(cells[name][0] for name in ATTRIBUTES) for cells in read),
            tuple(_mean(published.q_first.values()) for _, published in known),
        ),
    ]


def _is_one_of_the_16(group: Group) -> bool:
    return group.setting == paper.THE_16 and group.published is not None


def of_all_datasets(found: Sequence[Group]) -> dict[str, float | None]:
    """Spearman's correlation of each measure; empty unless all 16 datasets of the paper are there,
    in one setting each, None where all of our values are the same."""
    if not {group.dataset for group in found if _is_one_of_the_16(group)} >= set(FIG3_VARIANTS):
        return {}
    return {each.name: each.spearman for each in agreements(found)}


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The correlation of the ranks, -1 to 1; None where all of x or all of y are the same."""
    of_x, of_y = (ranks(values) - (len(values) + 1) / 2 for values in (x, y))
    spread = np.sqrt(of_x @ of_x * (of_y @ of_y))
    return float(of_x @ of_y / spread) if spread else None


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks (N,) float64 from 1 for the least; equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)
