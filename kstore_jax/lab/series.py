"""Groups that differ in one number, as a curve: the share of questions mixed into pretraining (Part
3.1, Fig. 10), or the number of people."""

import dataclasses
from collections.abc import Mapping, Sequence

from kstore_jax.config import as_dict, identity
from kstore_jax.lab import paper
from kstore_jax.lab.groups import Group, flat

_QUESTIONS = "share of questions (%)"
_ALONG = {"data.qa_share": (_QUESTIONS, 100), "world.people": ("people", 1)}
"""The fields that make a curve, what they are called there, and its units of each."""


@dataclasses.dataclass(frozen=True)
class Series:
    """Answers about people held out along a number, ours beside the paper's, which has some by the
    share of questions.

    Attributes:
      label: the dataset.
      along: what the number is.
      ours: a share of answers, from 0 to 1, by the number; at two numbers or more.
      theirs: likewise, from no number on.
    """

    label: str
    along: str
    ours: Mapping[float, float]
    theirs: Mapping[float, float]

    @property
    def title(self) -> str:
        return f"{self.label}: answers by {self.along.partition(' (')[0]}"


def of(found: Sequence[Group]) -> list[Series]:
    """The curves among these groups: of those that differ in one such field and the seeds, and in
    the steps of pretraining, which may go with it."""
    drawn = []
    for field, (along, scale) in _ALONG.items():
        together: dict[str, list[tuple[float, Group]]] = {}
        for group in found:
            if group.configs:
                number, others = _apart(group, field)
                together.setdefault(others, []).append((scale * number, group))
        for members in together.values():
            numbers = [number for number, _ in members]
            if len(set(numbers)) == len(numbers) > 1:
                drawn.append(_series(members, along))
    return drawn


def _apart(group: Group, field: str) -> tuple[float, str]:
    """The number of a group, and all that the groups of one curve agree in."""
    own = {"name", "seed", "world.seed", "pretrain.steps"}
    fields = flat(identity(as_dict(group.configs[0])))
    number = fields.pop(field)
    return number, str({name: value for name, value in fields.items() if name not in own})


def _series(members: Sequence[tuple[float, Group]], along: str) -> Series:
    _, group = members[0]
    theirs = {}
    if along == _QUESTIONS:
        source, *_ = group.setting.split(",")
        theirs = paper.by_qa_share(group.dataset, source)
    return Series(
        label=group.dataset,
        along=along,
        ours=dict(sorted((number, group.mean("qa", "mean")) for number, group in members)),
        theirs={100 * share: mean for share, mean in theirs.items()},
    )
