"""Bars by attribute, groups and kinds side by side, with ticks, points, intervals and a legend."""

import dataclasses
from collections.abc import Mapping, Sequence

from kstore_jax.charts.drawing import (
    ACCENT,
    GREY,
    INK,
    PALE,
    PAPER,
    PERCENT,
    WIDTH,
    WORD_A_LINE,
    column_width,
    in_percent,
    percent,
    percent_range,
)

MARKS = {
    "run": "this run",
    "whole": "this run, whole value",
    "guess": "majority guess",
    "ceiling": "ceiling of the probe",
    "interval": "95 % interval",
    "range": "range over seeds",
    "seed": "each seed",
    "paper": "the paper",
}
"""The marks of bar charts, from back to front, and their meaning."""

_BARS = ("run", "whole")
_GAP = 0.25  # of a column, between two attributes
_BAR, _THIN_BAR = 17, 11  # pixels of a bar: of few, and of many
_OF_ALL = "#808080"  # bars in the legend, where each group has its colour
_FEW = 3  # attributes; of fewer, columns are as wide as of three
_SOLID, _DASHED = [1, 0], [2, 2]
_SYMBOLS = {
    "guess": ("stroke", INK, INK, _SOLID),
    "ceiling": ("stroke", GREY, GREY, _SOLID),
    "interval": ("M0,-1L0,1", INK, INK, _SOLID),
    "range": ("M0,-1L0,1", INK, INK, _DASHED),
    "seed": ("circle", PAPER, INK, _SOLID),
    "paper": ("diamond", PAPER, INK, _SOLID),
}
"""Shape, fill, stroke and dashes of each mark in the legend, except bars."""


@dataclasses.dataclass(frozen=True)
class Level:
    """Shares by attribute that one kind of mark draws.

    Attributes:
      mark: a name in `MARKS`.
      shares: from 0 to 1, by name; a missing one, or None, is not drawn.
      kind: the part of a value, such as `first token`; kinds have bars of their own.
      whose: their name, if not the meaning of the mark; such as `seed 1`.
      ends: the ends of their intervals, shares by name.
      interval: the mark of these intervals, `interval` or `range`.
    """

    mark: str
    shares: Mapping[str, float | None]
    kind: str = ""
    whose: str = ""
    ends: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    interval: str = "interval"

    @property
    def who(self) -> str:
        """Whose shares they are, in words."""
        return self.whose or MARKS[self.mark].partition(",")[0]

    @property
    def name(self) -> str:
        """Whose shares they are, and of what."""
        return _listed(self.who, self.kind)


@dataclasses.dataclass(frozen=True)
class Levels:
    """The levels of one group.

    Attributes:
      label: the group.
      colour: of its bars where several groups are side by side.
      levels: its shares.
    """

    label: str
    colour: str
    levels: Sequence[Level]


def bar_spec(groups: Sequence[Levels], labels: Mapping[str, str]) -> dict:
    """Bars, ticks, points and intervals by attribute.

    Args:
      groups: in the order of their bars.
      labels: the attributes by name, in the order of the axis.
    """
    kinds = [*dict.fromkeys(level.kind for group in groups for level in group.levels)]
    offsets = [f"{kind}, {group.label}" for kind in kinds for group in groups]
    values = [value for group in groups for value in _values(group, labels, len(groups) > 1)]
    least = WIDTH / max(len(labels), _FEW)
    bar = _BAR if len(offsets) <= 4 else _THIN_BAR
    column = column_width([*labels.values()], max(least, bar * len(offsets) / (1 - _GAP)))
    position = {
        "x": {
            "field": "attribute", "type": "nominal", "sort": None, "title": None,
            "scale": {
                "domain": [*labels.values()], "paddingInner": _GAP, "paddingOuter": _GAP / 2
            },
            "axis": {"labelExpr": WORD_A_LINE},
        },
        "y": {"field": "accuracy", **PERCENT},
        "description": {"field": "tooltip"},
    }  # fmt: skip
    if len(offsets) > 1:
        position["xOffset"] = {"field": "place", "sort": None, "scale": {"domain": offsets}}
    layers = [
        {
            "name": mark,
            "data": {"values": drawn},
            "mark": _mark(mark, round(column * (1 - _GAP) / len(offsets))),
            "encoding": _encoding(mark, position),
        }
        for mark in MARKS
        if (drawn := [value for value in values if value["mark"] == mark])
    ]
    width = round(column * len(labels))
    entries = _entries(groups, [kind for kind in kinds if kind], [x["name"] for x in layers])
    return {"width": width, "height": 190, "layer": [*layers, _legend(entries, width)]}


def _values(group: Levels, labels: Mapping[str, str], beside: bool) -> list[dict]:
    """What is drawn of a group: a dictionary for each mark.

    Args:
      beside: whether there are other groups.
    """
    values = []
    for level in group.levels:
        stroke = group.colour if beside else ACCENT
        fill = _pale(stroke) if level.mark == "whole" else stroke
        common = {"place": f"{level.kind}, {group.label}", "fill": fill, "stroke": stroke}
        who = _listed(group.label if beside else "", level.who)
        for name, label in labels.items():
            if (share := level.shares.get(name)) is None:
                continue
            text = f"{who} – {_listed(label, level.kind)}: {percent(share)}"
            value = {"attribute": label, **common}
            if ends := level.ends.get(name):
                text += f", {MARKS[level.interval]} {percent_range(*ends)}"
                low, high = map(in_percent, ends)
                drawn = {"mark": level.interval, "accuracy": low, "high": high, "tooltip": text}
                values.append({**value, **drawn})
            drawn = {"mark": level.mark, "accuracy": in_percent(share), "tooltip": text}
            values.append({**value, **drawn})
    return values


def _mark(name: str, width: float) -> dict:
    """How a mark is drawn.

    Args:
      width: of a bar, in pixels.
    """
    tick = {"type": "tick", "bandSize": width, "opacity": 1}
    rule = {"type": "rule", "color": INK, "strokeWidth": 1}
    point = {"type": "point", "stroke": INK, "opacity": 1}
    return {
        "run": {"type": "bar"},
        "whole": {"type": "bar"},
        "guess": {**tick, "color": INK, "thickness": 1.5},
        "ceiling": {**tick, "color": GREY, "thickness": 1},
        "interval": rule,
        "range": {**rule, "strokeDash": _DASHED},
        "seed": {**point, "size": 14, "strokeWidth": 1},
        "paper": {**point, "shape": "diamond", "size": min(50, 3 * width), "strokeWidth": 1.2},
    }[name]


def _encoding(mark: str, position: dict) -> dict:
    encoding: dict[str, dict] = {**position}
    if mark in _BARS:
        encoding["fill"] = {"field": "fill", "type": "nominal", "scale": None}
    if mark == "whole":
        encoding["stroke"] = {"field": "stroke", "type": "nominal", "scale": None}
    if mark in ("seed", "paper"):
        encoding["fill"] = {"value": PAPER}
    if mark in ("interval", "range"):
        encoding["y2"] = {"field": "high"}
    return encoding


def _entries(
    groups: Sequence[Levels], kinds: Sequence[str], marks: Sequence[str]
) -> dict[str, tuple]:
    """The symbol of each entry of the legend."""
    beside = len(groups) > 1
    entries = {}
    if beside:
        entries = {x.label: ("square", x.colour, x.colour, _SOLID) for x in groups}
    colour = _OF_ALL if beside else ACCENT
    for mark in marks:
        if mark not in _BARS:
            entries[MARKS[mark]] = _SYMBOLS[mark]
        elif kinds or not beside:  # else the groups say it
            of_mark = (x for group in groups for x in group.levels if x.mark == mark)
            of = dict.fromkeys(level.kind for level in of_mark)
            name = _listed("" if beside else MARKS["run"], *of)
            fill = _pale(colour) if mark == "whole" else colour
            entries[name] = ("square", fill, colour, _SOLID)
    return entries


def _pale(colour: str) -> str:
    """The colour of bars of whole values."""
    return PALE if colour == ACCENT else f"{colour}40"


def _listed(*words: str) -> str:
    """The words that are not empty, with commas."""
    return ", ".join(filter(None, words))


def _legend(entries: Mapping[str, tuple], width: float) -> dict:
    """A layer without marks whose scales make a legend."""
    columns = max(1, int(width // (36 + 5.4 * max(map(len, entries)))))
    channels = ("shape", "fill", "stroke", "strokeDash")
    field = {"field": "entry", "type": "nominal", "title": None}
    style = {
        "symbolType": "circle", "symbolSize": 90, "columns": columns, "columnPadding": 18,
        "rowPadding": 3, "labelLimit": 0,
    }  # fmt: skip
    return {
        "data": {"values": []},
        "mark": {"type": "point", "aria": False, "opacity": 1},
        "encoding": {
            channel: {
                **field,
                "scale": {"domain": [*entries], "range": [*looks]},
                "legend": style,
            }
            for channel, looks in zip(channels, zip(*entries.values(), strict=True), strict=True)
        },
    }
