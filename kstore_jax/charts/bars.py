"""Bars by attribute, with ticks and points."""

from collections.abc import Mapping, Sequence

from kstore_jax.charts.drawing import (
    ACCENT,
    GREY,
    INK,
    PAPER,
    PERCENT,
    WIDTH,
    in_percent,
    percent,
)

WORD_A_LINE = "split(datum.label, ' ')"
_LETTER, _SPACE = 5.2, 4  # pixels of an average letter of a label, and between labels
_FEW = 3  # attributes; of fewer, columns are as wide as of three
_MARKS = {
    "run": ("this run", "filled bar"),
    "whole": ("this run, whole value", "pale bar"),
    "guess": ("majority guess", "black line"),
    "ceiling": ("ceiling of the probe", "grey line"),
    "seed": ("each seed", "circle"),
    "paper": ("the paper", "diamond"),
}
MARKS = {mark: meaning for mark, (meaning, _) in _MARKS.items()}
"""The marks of bar charts, from back to front, and their meaning."""


def _mark(name: str, width: float) -> dict:
    tick = {"type": "tick", "bandSize": width}
    point = {"type": "point", "color": INK, "fill": PAPER, "opacity": 1}
    return {
        "run": {"type": "bar", "color": ACCENT},
        "whole": {"type": "bar", "color": ACCENT, "fillOpacity": 0.25, "stroke": ACCENT},
        "guess": {**tick, "color": INK, "thickness": 1.5},
        "ceiling": {**tick, "color": GREY, "thickness": 1},
        "seed": {**point, "size": 14, "strokeWidth": 1},
        "paper": {**point, "shape": "diamond", "size": 50, "strokeWidth": 1.2},
    }[name]


def column_width(labels: Sequence[str], least: float) -> float:
    """Pixels of a column, so that labels with one word a line do not touch; at least `least`."""
    longest = max((len(word) for label in labels for word in label.split()), default=0)
    return max(least, _LETTER * longest + _SPACE)


def bar(mark: str, attribute: str, share: float | None, kind: str = "", whose: str = "") -> dict:
    """A bar, tick or point of `bar_spec` at the label of an attribute; bars of one attribute differ
    in `kind`."""
    about = ", ".join(filter(None, (attribute, kind)))
    label = f"{whose or MARKS[mark].partition(',')[0]} – {about}"
    return {
        "mark": mark, "attribute": attribute, "kind": kind, "accuracy": in_percent(share),
        "tooltip": share is not None and f"{label}: {percent(share)}",
    }  # fmt: skip


def bar_spec(values: Sequence[dict], attributes: Sequence[str], tick: float) -> tuple[dict, str]:
    """Bars, ticks and points by attribute, ticks `tick` wide; and a legend for print.

    Args:
      values: from `bar`.
      attributes: labels, in the order of the axis.
    """
    drawn = [value for value in values if value["accuracy"] is not None]
    kinds = list(dict.fromkeys(value["kind"] for value in drawn))
    place = {
        "x": {
            "field": "attribute", "type": "nominal", "sort": None, "title": None,
            "scale": {
                "domain": [*attributes], "paddingInner": 0.25, "paddingOuter": 0.1
            },
            "axis": {"labelExpr": WORD_A_LINE},
        },
        "y": {"field": "accuracy", **PERCENT},
        "description": {"field": "tooltip"},
    }  # fmt: skip
    if len(kinds) > 1:
        place["xOffset"] = {"field": "kind", "scale": {"domain": kinds}}
    layers = [
        {
            "name": mark,
            "transform": [{"filter": {"field": "mark", "equal": mark}}],
            "mark": _mark(mark, tick),
            "encoding": place,
        }
        for mark in MARKS
        if any(value["mark"] == mark for value in drawn)
    ]
    widest = WIDTH / max(len(attributes), _FEW)
    width = round(len(attributes) * column_width(attributes, max(widest, 12.0 * len(kinds))))
    spec = {"width": width, "height": 190, "data": {"values": drawn}, "layer": layers}
    names = {layer["name"] for layer in layers}
    legend = "; ".join(f"{look}: {mean}" for mark, (mean, look) in _MARKS.items() if mark in names)
    return spec, legend[:1].upper() + legend[1:]


def listed(shares: Mapping[str, float | None], labels: Mapping[str, str]) -> str:
    """Shares by attribute in words."""
    named = {labels.get(name, name): x for name, x in shares.items() if x is not None}
    return ", ".join(f"{name} {percent(x)}" for name, x in named.items())


def of_the_paper(shares: Mapping[str, float | None] | None, labels: Mapping[str, str]) -> str:
    """A sentence with the paper's shares; empty without any."""
    return f" The paper: {listed(shares, labels)}." if shares else ""
