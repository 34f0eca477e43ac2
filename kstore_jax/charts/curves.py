"""Curves over training steps."""

from collections.abc import Sequence

from kstore_jax.charts.drawing import DASHES

STEP = {
    "field": "step", "type": "quantitative", "title": "pretraining step",
    "axis": {"tickCount": 5, "format": "~s"}, "scale": {"nice": False, "zero": True},
}  # fmt: skip


def curves_spec(
    values: Sequence[dict], labels: Sequence[str], styles: Sequence[tuple[str, str]], y: dict
) -> dict:
    """Lines over steps.

    Args:
      values: dictionaries with `step`, `y`, `curve` (one of `labels`), and `row` where several
        lines share a curve.
      styles: colour and line style of each curve.
      y: the encoding of the y axis, without its field.
    """

    def by_curve(range_):
        return {
            "field": "curve", "type": "nominal", "title": None,
            "scale": {"domain": [*labels], "range": [*range_]},
        }  # fmt: skip

    colours, dashes = zip(*styles, strict=True)
    return {
        "mark": {"type": "line", "strokeWidth": 1.5, "aria": False},
        "name": "curves",
        "data": {"values": values},
        "encoding": {
            "x": STEP,
            "y": {"field": "y", **y},
            "color": by_curve(colours),
            "strokeDash": by_curve(DASHES[dash] for dash in dashes),
            "detail": {"field": "row"},
        },
    }


def thinned(points: Sequence, most: int) -> list:
    """At most that many of the points, evenly, with both ends."""
    if len(points) <= most:
        return [*points]
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
