"""The charts that are curves."""

import dataclasses
from collections.abc import Sequence

from kstore_jax.charts.curves import curves_spec, log_axis, thinned
from kstore_jax.charts.drawing import (
    ACCENT,
    INK,
    PERCENT,
    WIDTH,
    Chart,
    in_percent,
    look,
    percent,
)
from kstore_jax.report.series import Series

_MOST_POINTS = 240


@dataclasses.dataclass(frozen=True)
class Curve:
    """The pretraining loss of a row.

    Attributes:
      label, which: its group, and its number on the page.
      seed: of the row.
      exposures: those that each step adds.
      steps: those of its points.
      losses: the mean loss since the point before, positive.
    """

    label: str
    which: int
    seed: int
    exposures: float
    steps: Sequence[int]
    losses: Sequence[float]


def along(which: int, series: Series) -> Chart:
    """Answers about people held out along a number, ours and the paper's."""
    sides = {"this run": series.ours, "the paper": series.theirs}
    sides = {name: shares for name, shares in sides.items() if shares}
    values = [
        {
            "x": number, "y": 100 * share, "curve": name,
            "tooltip": f"{name} – {series.along} {number:,.10g}: {percent(share)}",
        }
        for name, shares in sides.items()
        for number, share in shares.items()
    ]  # fmt: skip
    colour = {
        "field": "curve", "type": "nominal", "title": None,
        "scale": {"domain": [*sides], "range": [ACCENT, INK][: len(sides)]},
    }  # fmt: skip
    position = {
        "x": {
            "field": "x", "type": "quantitative", "title": series.along,
            "axis": {"tickCount": 5}, "scale": {"zero": True},
        },
        "y": {"field": "y", **PERCENT},
        "color": colour,
    }  # fmt: skip
    tooltip = {"description": {"field": "tooltip"}}
    spec = {
        "width": WIDTH,
        "height": 210,
        "data": {"values": values},
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.5, "aria": False}, "encoding": position},
            {
                "name": "points",
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {**position, **tooltip},
            },
        ],
    }
    numbers = sorted({number for shares in sides.values() for number in shares})
    rows = [(n, *(in_percent(shares.get(n)) for shares in sides.values())) for n in numbers]
    alt = f"{series.title}, {series.along}."
    for name, shares in sides.items():
        points = ", ".join(f"{number:,.10g}: {percent(share)}" for number, share in shares.items())
        alt += f" {name[0].upper()}{name[1:]}: {points}."
    return Chart(
        name=f"along-{which + 1}",
        title=series.title,
        alt=alt,
        spec=spec,
        columns=(series.along, *sides),
        rows=rows,
    )


def losses(curves: Sequence[Curve]) -> Chart:
    """Pretraining losses of all rows; tooltips are sampled more sparsely than the lines."""
    seeds = {
        curve.label: {each.seed for each in curves if each.label == curve.label} for curve in curves
    }

    def seed_of(curve: Curve) -> str:
        return f", seed {curve.seed}" if len(seeds[curve.label]) > 1 else ""

    def sampled(most: int) -> list[dict]:
        return [
            {
                "step": step, "y": loss, "curve": curve.label, "row": row, "seed": curve.seed,
                "exposures": round(step * curve.exposures, 1),
                "tooltip": f"{curve.label}{seed_of(curve)} – "
                f"step {step:,}, {step * curve.exposures:,.1f} exposures: {loss:.3f}",
            }
            for row, curve in enumerate(curves)
            for step, loss in thinned([*zip(curve.steps, curve.losses, strict=True)], most)
        ]  # fmt: skip

    lines, points = sampled(60), sampled(max(8, _MOST_POINTS // len(curves)))
    spec = curves_spec(
        lines,
        points,
        {curve.label: look(curve.which) for curve in curves},
        log_axis([line["y"] for line in lines], "nats a token"),
        (2 * WIDTH, 240),
        [curve.exposures for curve in curves],
    )
    ends = ", ".join(f"{curve.label} {curve.losses[-1]:.3f}" for curve in curves)
    columns = ("", "seed", "step", "exposures", "loss")
    keys = ("curve", "seed", "step", "exposures", "y")
    return Chart(
        name="loss",
        title="Pretraining loss",
        alt=f"Pretraining loss over steps, in nats a token. At the end: {ends}.",
        spec=spec,
        columns=columns,
        rows=[tuple(point[key] for key in keys) for point in points],
        note="Mean next-token loss on the training data; a line a seed.",
        decimals={"loss": 3},
    )
