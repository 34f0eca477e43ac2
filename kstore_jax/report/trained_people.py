"""Answers to the questions of a task against the number of people whose questions are trained (Part
3.2, Figs. 4 and 11 to 13)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kstore_jax.charts.curves import log_axis
from kstore_jax.charts.drawing import (
    DASHES,
    PERCENT,
    WIDTH,
    Chart,
    as_label,
    in_percent,
    look,
    percent,
)
from kstore_jax.charts.nouns import plural, with_noun
from kstore_jax.pipeline.row import own_settings
from kstore_jax.report.groups import Group, differing, with_settings

_FIELD = "finetune.people_fraction"
_AXIS = "people whose questions are trained"


@dataclasses.dataclass(frozen=True)
class Learning:
    """The shares of one task, from 0 to 1, by `finetune.people_fraction`.

    Attributes:
      label: the dataset, the task, and the settings that distinguish this chart from others.
      answers: question -> number of people -> share of right answers about people held out.
      chance: the same of the majority guess.
      noun: what the world is about.
    """

    label: str
    answers: dict[str, dict[int, float]]
    chance: dict[str, dict[int, float]]
    noun: str


def of(groups: Sequence[Group]) -> list[Learning]:
    """The tasks of groups that differ in that field, in the questions they ask and in seeds, where
    a question has two numbers of people or more."""
    found: dict[str, Learning] = {}
    settings: dict[str, dict[str, str]] = {}
    for group in groups:
        if "qa" not in group.rows[0].readouts or not group.config["finetune"]["steps"]:
            continue
        count = people_trained(group.config)
        for task in group.rows[0].readouts["qa"]:
            answers = group.shares("qa", task, "test", "exact")
            chance = group.shares("qa", task, "baseline")
            names = [name for name in answers if name != "mean" and name in chance]
            own = _others(group, f"tasks.{task}.questions")
            earlier = found.get(f"{task} {own}")
            if earlier and any(count in earlier.answers.get(name, ()) for name in names):
                own = _others(group)
            key = f"{task} {own}"
            settings[key] = own
            label = f"{group.dataset}: {as_label(task)}"
            learning = found.setdefault(key, Learning(label, {}, {}, group.noun))
            for name in names:
                learning.answers.setdefault(name, {})[count] = answers[name]
                learning.chance.setdefault(name, {})[count] = chance[name]
    curves = {
        key: learning
        for key, learning in found.items()
        if max(map(len, learning.answers.values()), default=0) > 1
    }
    return [
        _labelled(learning, differing(settings[key], [settings[other] for other in curves]))
        for key, learning in curves.items()
    ]


def _labelled(learning: Learning, settings: Sequence[str]) -> Learning:
    """A copy with the settings that distinguish it, and the numbers of people in order."""
    apart = [setting for setting in settings if not setting.startswith("data.variant=")]
    answers, chance = (
        {name: dict(sorted(shares.items())) for name, shares in of_kind.items()}
        for of_kind in (learning.answers, learning.chance)
    )
    return Learning(with_settings(learning.label, apart), answers, chance, learning.noun)


def people_trained(config: Mapping[str, Any]) -> int:
    """The number of people whose questions finetuning trains."""
    world = config["world"]
    members = world["celebrities"] or world["people"] // 2
    return max(1, round(members * config["finetune"].get("people_fraction", 1.0)))


def _others(group: Group, *without: str) -> dict[str, str]:
    """The settings that the groups of one chart share, as text."""
    left_out = ("seed", "world.seed", _FIELD, *without)
    fields = own_settings(group.config)
    return {name: str(value) for name, value in fields.items() if name not in left_out}


def chart(which: int, learning: Learning) -> Chart:
    """A line a question on a logarithmic axis of people; dashed, the majority guess."""
    looks = {name: look(i)[0] for i, name in enumerate(learning.answers)}
    axis, people = with_noun(_AXIS, learning.noun), plural(learning.noun)
    values = [
        {
            "x": count, "y": 100 * share, "curve": as_label(name), "kind": kind,
            "tooltip": f"{as_label(name)}, {kind} – {count:,} {people}: {percent(share)}",
        }
        for kind, of_kind in (("answers", learning.answers), ("majority guess", learning.chance))
        for name, shares in of_kind.items()
        for count, share in shares.items()
    ]  # fmt: skip
    counts = sorted({value["x"] for value in values})
    title = {"type": "nominal", "title": None}
    dashes = {"domain": ["answers", "majority guess"], "range": [DASHES["-"], DASHES["--"]]}
    colours = {"domain": [*map(as_label, looks)], "range": [*looks.values()]}
    position = {
        "x": {"field": "x", **log_axis(counts, axis)},
        "y": {"field": "y", **PERCENT},
        "color": {"field": "curve", **title, "scale": colours},
        "strokeDash": {"field": "kind", **title, "scale": dashes},
    }
    spec = {
        "width": WIDTH,
        "height": 240,
        "data": {"values": values},
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.5, "aria": False}, "encoding": position},
            {
                "name": "points",
                "mark": {"type": "point", "filled": True, "size": 40, "opacity": 1},
                "encoding": {**position, "description": {"field": "tooltip"}},
            },
        ],
    }
    words = [
        f"{as_label(name)} "
        + ", ".join(f"{count:,}: {percent(share)}" for count, share in shares.items())
        for name, shares in learning.answers.items()
    ]
    return Chart(
        name=f"trained-people-{which + 1}",
        title=f"{learning.label}, answers by {axis}",
        alt=f"{learning.label}, answers about {people} held out by {axis}. {'; '.join(words)}.",
        spec=spec,
        columns=(axis, *(f"{as_label(n)}{end}" for n in looks for end in ("", ", guess"))),
        rows=[
            (
                count,
                *(
                    in_percent(of_kind[name].get(count))
                    for name in looks
                    for of_kind in (learning.answers, learning.chance)
                ),
            )
            for count in counts
        ],
        note="Exact match in %, about people held out. Dashed: the majority guess.",
    )
