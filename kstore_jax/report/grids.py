"""Groups that differ in the ranks of LoRA alone, as one grid (Part 3.1, Figs. 2 and 11)."""

import dataclasses
from collections.abc import Mapping, Sequence

from kstore_jax.config.fields import flatten
from kstore_jax.report.groups import ANSWERS, Group

Cells = Mapping[tuple[str, str], float]
"""Answers about people held out, by the ranks of queries and values, and of the embedding."""

_ALL = "all"


@dataclasses.dataclass(frozen=True)
class Grid:
    """Our grid, and the paper's, which is empty for many datasets.

    Attributes:
      label: the dataset.
      ours: a share for each pair of ranks; `all` trains the matrices themselves.
      theirs: likewise.
      ends: our lowest and highest, of cells with several seeds.
    """

    label: str
    ours: Cells
    theirs: Cells
    ends: Mapping[tuple[str, str], tuple[float, float]] = dataclasses.field(default_factory=dict)

    def sides(self) -> list[tuple[str, Cells]]:
        """The grids that have cells, with whose they are."""
        both = [("this run", self.ours), ("the paper", self.theirs)]
        return [(whose, cells) for whose, cells in both if cells]

    def axes(self, cells: Cells) -> tuple[list[str], list[str]]:
        """The ranks of queries and values, and of the embedding, in order."""
        ranks, embedding = (sorted({pair[i] for pair in cells}, key=_order) for i in (0, 1))
        return ranks, embedding


def of(groups: Sequence[Group]) -> list[Grid]:
    """The grids among these groups: at least two ranks of each kind."""
    by_settings: dict[str, list[Group]] = {}
    for group in groups:
        if _is_lora(group.config["finetune"]):
            by_settings.setdefault(str(_settings(group)), []).append(group)
    grids = []
    for members in by_settings.values():
        ours = {_ranks(group): group.answers for group in members if group.has("qa")}
        if all(len({pair[i] for pair in ours}) > 1 for i in (0, 1)):
            published = members[0].published
            ends = {
                _ranks(group): group.ends(ANSWERS)
                for group in members
                if group.has("qa") and len(group.rows) > 1
            }
            theirs = published.lora if published else {}
            grids.append(Grid(members[0].dataset, ours, theirs, ends))
    return grids


def _is_lora(finetune: dict) -> bool:
    return finetune["steps"] and finetune["method"] == "lora" and not finetune["grid"]


def _settings(group: Group) -> dict:
    """The settings that the groups of one grid share."""
    own = {"seed", "world.seed", "finetune.rank", "finetune.embedding_rank"}
    return {name: value for name, value in flatten(group.config).items() if name not in own}


def _ranks(group: Group) -> tuple[str, str]:
    finetune = group.config["finetune"]
    return _name(finetune["rank"]), _name(finetune["embedding_rank"])


def _name(rank: int) -> str:
    return _ALL if rank < 0 else str(rank)


def _order(rank: str) -> float:
    return float("inf") if rank == _ALL else int(rank)
