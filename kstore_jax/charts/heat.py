"""Heat maps."""

import textwrap
from collections.abc import Sequence

from kstore_jax.charts.drawing import (
    HEAT,
    INK,
    WORD_A_LINE,
    column_width,
    in_percent,
    percent,
    percent_range,
)

_CORNER = {"titleAngle": 0, "titleAlign": "right", "titleX": -6, "titleY": -12}
_LINE_CHARACTERS = 26  # of a label beside the map
_LINES = "split(datum.label, '\\n')"
_LOW, _HIGH = 27, 34  # pixels of a cell with a share, and of one with its interval, too


def cell(
    line: str,
    column: str,
    share: float | None,
    where: str,
    ends: tuple[float, float] | None = None,
) -> dict:
    """A cell of `heat_spec`.

    Args:
      where: how its tooltip begins.
      ends: of the interval of the share.
    """
    tooltip = share is not None and f"{where}, {column}: {percent(share)}"
    value = {"line": _wrapped(line), "column": column, "accuracy": in_percent(share)}
    value |= {"tooltip": tooltip, "share": share is not None and f"{100 * share:.1f}"}
    if share is None or ends is None:
        return value
    spread = "–".join(f"{100 * end:.1f}" for end in ends)
    return {**value, "tooltip": f"{tooltip} ({percent_range(*ends)})", "spread": spread}


def heat_spec(
    values: Sequence[dict],
    y: str,
    lines: Sequence[str],
    x: str,
    columns: list[str],
    labelled: bool = True,
) -> dict:
    """A heat map that shows its values, and below them the ends of their intervals.

    Args:
      values: from `cell`.
      y, x: titles of the axes.
      lines, columns: the labels of the axes, in order.
      labelled: whether the lines have labels; those of a map beside one with the same lines have
        none.
    """
    most_words = max((len(column.split()) for column in columns), default=1)
    heads = {"labelPadding": 6 + 12 * (most_words - 1)}
    drawn = [value for value in values if value["accuracy"] is not None]
    spreads = [value for value in drawn if "spread" in value]
    position: dict[str, dict] = {
        "x": {
            "field": "column", "type": "nominal", "sort": None, "title": x or None,
            "scale": {"domain": columns, "padding": 0.04},
            "axis": {"orient": "top", "labelExpr": WORD_A_LINE, **heads},
        },
        "y": {
            "field": "line", "type": "nominal", "sort": None, "title": (labelled and y) or None,
            "scale": {"domain": [*map(_wrapped, lines)], "padding": 0.06},
            "axis": {
                "labels": labelled, "labelExpr": _LINES, "labelLimit": 0, "labelColor": INK,
                **_CORNER,
            },
        },
    }  # fmt: skip
    colour = {
        "field": "accuracy", "type": "quantitative", "legend": None,
        "scale": {"domain": [i * 100 / (len(HEAT) - 1) for i in range(len(HEAT))], "range": HEAT},
    }  # fmt: skip
    ink = {"condition": {"test": "datum.accuracy >= 55", "value": "#fff"}, "value": "#1d2329"}
    layers: list[dict] = [
        {
            "name": "heat",
            "mark": "rect",
            "encoding": {**position, "color": colour, "description": {"field": "tooltip"}},
        }
    ]
    alone = [value for value in drawn if "spread" not in value]
    for what, size, down, cells in (
        ("share", 11, 0, alone), ("share", 11, -6, spreads), ("spread", 8.5, 8, spreads)
    ):  # fmt: skip
        mark = {"type": "text", "fontSize": size, "dy": down, "aria": False}
        text = {"field": what, "type": "nominal"}
        encoding = {**position, "color": ink, "text": text}
        layers += [{"data": {"values": cells}, "mark": mark, "encoding": encoding}] * bool(cells)
    return {
        "width": round(column_width(columns, 58) * len(columns)),
        "height": (_HIGH if spreads else _LOW) * len(lines),
        "data": {"values": drawn},
        "layer": layers,
    }


def _wrapped(label: str) -> str:
    """A label of a line in several lines where it is long."""
    return "\n".join(textwrap.wrap(label, _LINE_CHARACTERS)) or label
