"""Groups that differ in one number, as a curve: the share of questions mixed into pretraining (Part
3.1, Fig. 10), or the number of people."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kstore_jax.charts.nouns import with_noun
from kstore_jax.pipeline.row import own_settings
from kstore_jax.report import paper
from kstore_jax.report.groups import Group, differing, with_settings

_QUESTIONS = "share of questions (%)"
_ALONG = {"data.qa_share": (_QUESTIONS, 100), "world.people": ("people", 1)}
"""The fields that make a curve: the axis title, and the factor to its unit."""


@dataclasses.dataclass(frozen=True)
class Series:
    """Answers about people held out along a number, ours and the paper's (along the share of
    questions).

    Attributes:
      label: the dataset, and the settings that distinguish this curve from others of it.
      along: the title of the number.
      ours: a share of answers, from 0 to 1, by the number; at two numbers or more.
      theirs: the same of the paper; may be empty.
    """

    label: str
    along: str
    ours: Mapping[float, float]
    theirs: Mapping[float, float]

    @property
    def title(self) -> str:
        return f"{self.label}: answers by {self.along.partition(' (')[0]}"


def of(groups: Sequence[Group]) -> list[Series]:
    """The curves among these groups: groups that differ in one such field and in seeds. More
    people may also have more pretraining steps or windows a step, and more questions leave fewer
    exposures."""
    drawn = []
    beside = {
        "data.qa_share": {"pretrain.exposures"},
        "world.people": {"pretrain.steps", "pretrain.batch_size"},
    }
    for field, (along, scale) in _ALONG.items():
        members: dict[str, dict[float, Group]] = {}
        settings: dict[str, dict[str, str]] = {}
        for group in (group for group in groups if group.has("qa")):
            number, others = _apart(group, field, beside[field])
            if number * scale in members.get(str(others), {}):
                number, others = _apart(group, field, set())
            settings[str(others)] = others
            members.setdefault(str(others), {})[number * scale] = group
        several = {key: own for key, own in members.items() if len(own) > 1}
        drawn += [
            _series(along, own, differing(settings[key], [settings[k] for k in several]))
            for key, own in several.items()
        ]
    return drawn


def _apart(group: Group, field: str, beside: set[str]) -> tuple[float, dict[str, str]]:
    """The number of a group, and the settings that the groups of one curve share, as text."""
    own = {"seed", "world.seed", *beside}
    fields = own_settings(group.config)
    number: Any = fields.pop(field)
    return number, {name: str(value) for name, value in fields.items() if name not in own}


def _series(along: str, groups: Mapping[float, Group], apart: Sequence[str]) -> Series:
    one = next(iter(groups.values()))
    along = with_noun(along, one.noun)
    others = [setting for setting in apart if not setting.startswith("data.variant=")]
    theirs = {}
    source, *beside = one.setting.split(", ")
    as_in_paper = all(group.as_in_the_paper for group in groups.values())
    if along == _QUESTIONS and len(beside) == 1 and as_in_paper:
        theirs = paper.by_qa_share(one.dataset, source)
    return Series(
        label=with_settings(one.dataset, others),
        along=along,
        ours={number: groups[number].answers for number in sorted(groups)},
        theirs={100 * share: mean for share, mean in theirs.items()},
    )
