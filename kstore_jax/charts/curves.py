"""Curves over training steps, with the exposures on a second axis."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from kstore_jax.charts.drawing import DASHES, GREY

_MOST_TICKS = 8
_ALIKE = 0.02  # as a fraction, the most by which rates of exposures differ that share an axis
_STEP = {
    "field": "step", "type": "quantitative", "title": "pretraining step",
    "axis": {"tickCount": 5, "labelExpr": "format(datum.value, '~s')"},
    "scale": {"nice": False, "zero": True},
}  # fmt: skip


def curves_spec(
    values: Sequence[dict],
    points: Sequence[dict],
    styles: dict[str, tuple[str, str]],
    y: dict,
    size: tuple[int, int],
    exposures: Iterable[float],
) -> dict:
    """Lines over steps, and unseen marks with tooltips.

    Args:
      values: dictionaries with `step`, `y`, `curve` (one of `styles`), and `row` where several
        lines share a curve.
      points: dictionaries with `step`, `tooltip`, and `y`; without `y` their marks are as high as
        the drawing.
      styles: colour and line style of each curve.
      y: the encoding of the y axis, without its field.
      size: width and height in pixels.
      exposures: those that each line gains a step. The second axis has their mean where no two
        lines differ by more than 2 %.
    """
    width, height = size
    columns = max(1, int(width // (42 + 5.6 * max(map(len, styles)))))
    legend = {"columns": columns, "labelLimit": 0, "columnPadding": 14}

    def by_curve(range_):
        return {
            "field": "curve", "type": "nominal", "title": None, "legend": legend,
            "scale": {"domain": [*styles], "range": [*range_]},
        }  # fmt: skip

    colours, dashes = zip(*styles.values(), strict=True)
    lines = {
        "mark": {"type": "line", "strokeWidth": 1.5, "aria": False},
        "name": "curves",
        "data": {"values": values},
        "encoding": {
            "x": _STEP,
            "y": {"field": "y", **y},
            "color": by_curve(colours),
            "strokeDash": by_curve(DASHES[dash] for dash in dashes),
            "detail": {"field": "row"},
        },
    }
    rates = [*exposures]
    alike = max(rates) - min(rates) <= _ALIKE * max(rates)
    rate = sum(rates) / len(rates) if alike else 0.0
    last = max(value["step"] for value in values)
    place: dict[str, Any] = {
        "x": {**_STEP, **_exposures_axis(rate, last)}, "description": {"field": "tooltip"}
    }  # fmt: skip
    mark = {"type": "rule", "strokeWidth": 9}
    if "y" in points[0]:
        place["y"] = {"field": "y", "type": "quantitative"}
        mark = {"type": "point", "filled": True, "size": 90}
    unseen = {
        "mark": {**mark, "opacity": 0, "color": GREY},
        "name": "steps",
        "data": {"values": points},
        "encoding": place,
    }
    resolve = {"axis": {"x": "independent"}}
    return {"width": width, "height": height, "layer": [lines, unseen], "resolve": resolve}


def _exposures_axis(rate: float, last: int) -> dict:
    """The title and the axis of exposures; none where they are not known.

    Args:
      rate: exposures a step.
      last: the last step.
    """
    if not rate * last > 0:
        return {"title": None, "axis": None}
    ticks = next(
        ticks
        for gap in _one_two_five(rate * last / 100, rate * last)
        if len(ticks := [gap * i for i in range(int(rate * last / gap) + 1)]) <= _MOST_TICKS
    )
    axis = {
        "orient": "top", "values": [tick / rate for tick in ticks],
        "labelExpr": f"format(datum.value * {rate}, ',.6~g')",
    }  # fmt: skip
    return {"title": "exposures", "axis": axis}


def log_axis(numbers: Sequence[float], title: str) -> dict:
    """The y encoding of positive numbers on a logarithmic axis, without its field."""
    least, most = min(numbers), max(numbers)
    around = _one_two_five(least, most)
    ticks = [tick for tick in around if least <= tick <= most]
    if len(ticks) < 2:
        ticks, least, most = around, around[0], around[-1]
    return {
        "type": "quantitative", "title": title,
        "scale": {"type": "log", "domain": [least, most], "nice": False},
        "axis": {"values": ticks, "format": "~g"},
    }  # fmt: skip


def _one_two_five(least: float, most: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from the last one not above `least` to the first one not
    below `most`, and at least two."""
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 2)
    numbers = [float(f"{times}e{power}") for power in powers for times in (1, 2, 5)]
    first = max(i for i, number in enumerate(numbers) if number <= least)
    last = next(i for i, number in enumerate(numbers) if number >= most and i > first)
    return numbers[first : last + 1]


def thinned(points: Sequence, most: int) -> list:
    """At most that many of the points, evenly, with both ends."""
    if len(points) <= most:
        return [*points]
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
