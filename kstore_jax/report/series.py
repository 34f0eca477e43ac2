"""Groups that differ in one number, as a curve: the share of questions mixed into pretraining (Part
3.1, Fig. 10), or the number of people."""

import dataclasses
from collections.abc import Mapping, Sequence

from kstore_jax.config.fields import identity
from kstore_jax.report import paper
from kstore_jax.report.groups import Group, differing, flat, with_settings

_QUESTIONS = "share of questions (%)"
_ALONG = {"data.qa_share": (_QUESTIONS, 100), "world.people": ("people", 1)}
"""The fields that make a curve, what they are called there, and its units of each."""


@dataclasses.dataclass(frozen=True)
class Series:
    """Answers about people held out along a number, ours beside the paper's, which has some by the
    share of questions.

    Attributes:
      label: the dataset, and what tells this curve from others of it.
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
    """The curves among these groups: of those that differ in one such field and the seeds; more
    people may have had more steps of pretraining, or more windows a step, too."""
    drawn = []
    longer = {"pretrain.steps", "pretrain.batch_size"}
    for field, (along, scale) in _ALONG.items():
        members: dict[str, dict[float, Group]] = {}
        settings: dict[str, dict[str, str]] = {}
        goes_with = longer if field == "world.people" else set()
        for group in filter(lambda group: group.configs, found):
            number, others = _apart(group, field, goes_with)
            if number * scale in members.get(str(others), {}):
                number, others = _apart(group, field, set())
            settings[str(others)] = others
            members.setdefault(str(others), {})[number * scale] = group
        curves = {key: groups for key, groups in members.items() if len(groups) > 1}
        drawn += [
            _series(along, groups, differing(settings[key], [settings[k] for k in curves]))
            for key, groups in curves.items()
        ]
    return drawn


def _apart(group: Group, field: str, beside: set[str]) -> tuple[float, dict[str, str]]:
    """The number of a group, and all that the groups of one curve agree in, as text."""
    own = {"name", "seed", "world.seed", *beside}
    fields = flat(identity(group.configs[0]))
    number = fields.pop(field)
    return number, {name: str(value) for name, value in fields.items() if name not in own}


def _series(along: str, groups: Mapping[float, Group], apart: Sequence[str]) -> Series:
    one = next(iter(groups.values()))
    others = [setting for setting in apart if not setting.startswith("data.variant=")]
    theirs = {}
    source, *beside = one.setting.split(", ")
    asked_alone = all(group.as_in_the_paper for group in groups.values())
    if along == _QUESTIONS and len(beside) == 1 and asked_alone:
        theirs = paper.by_qa_share(one.dataset, source)
    return Series(
        label=with_settings(one.dataset, others),
        along=along,
        ours={number: groups[number].mean("qa", "mean") for number in sorted(groups)},
        theirs={100 * share: mean for share, mean in theirs.items()},
    )
