"""Heat maps."""

from kstore_jax.charts.bars import WORD_A_LINE, column_width
from kstore_jax.charts.drawing import HEAT, INK, in_percent, percent

_CORNER = {"titleAngle": 0, "titleAlign": "right", "titleX": -6, "titleY": -12}


def cell(line: str, column: str, share: float | None, where: str) -> dict:
    """A cell of `heat_spec`; its tooltip begins with `where`."""
    tooltip = share is not None and f"{where}, {column}: {percent(share)}"
    return {"line": line, "column": column, "accuracy": in_percent(share), "tooltip": tooltip}


def heat_spec(values: list[dict], y: str, lines: list[str], x: str, columns: list[str]) -> dict:
    """A heat map that shows its values.

    Args:
      values: from `cell`.
      y, x: titles of the axes.
      lines, columns: the labels of the axes, in order.
    """
    most_words = max((len(column.split()) for column in columns), default=1)
    heads = {"labelPadding": 6 + 12 * (most_words - 1)}
    drawn = [value for value in values if value["accuracy"] is not None]
    position: dict[str, dict] = {
        "x": {
            "field": "column", "type": "nominal", "sort": None, "title": x or None,
            "scale": {"domain": columns, "padding": 0.04},
            "axis": {"orient": "top", "labelExpr": WORD_A_LINE, **heads},
        },
        "y": {
            "field": "line", "type": "nominal", "sort": None, "title": None,
            "scale": {"domain": lines, "padding": 0.06},
        },
    }  # fmt: skip
    if y:
        position["y"] |= {"title": y, "axis": {**_CORNER, "labelColor": INK}}
    colour = {
        "field": "accuracy", "type": "quantitative", "legend": None,
        "scale": {"domain": [i * 100 / (len(HEAT) - 1) for i in range(len(HEAT))], "range": HEAT},
    }  # fmt: skip
    ink = {"condition": {"test": "datum.accuracy >= 55", "value": "#fff"}, "value": "#1d2329"}
    text = {"field": "accuracy", "type": "quantitative", "format": ".1f"}
    return {
        "width": round(column_width(columns, 58) * len(columns)),
        "height": 27 * len(lines),
        "data": {"values": drawn},
        "layer": [
            {
                "name": "heat",
                "mark": "rect",
                "encoding": {**position, "color": colour, "description": {"field": "tooltip"}},
            },
            {
                "mark": {"type": "text", "fontSize": 11, "aria": False},
                "encoding": {**position, "color": ink, "text": text},
            },
        ],
    }
