"""The charts that are curves."""

from collections.abc import Sequence

from kstore_jax.charts.curves import STEP, curves_spec, thinned
from kstore_jax.charts.drawing import (
    ACCENT,
    GREY,
    INK,
    PERCENT,
    UPRIGHT_LONG,
    WIDTH,
    Chart,
    in_percent,
    look,
    percent,
)
from kstore_jax.report.series import Series

Curve = tuple[str, int, Sequence[int], Sequence[float]]
"""A label, the number of its group, steps, and the mean loss since the step before."""
_MOST_POINTS = 240


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

    def sampled(most: int) -> list[dict]:
        return [
            {
                "step": step, "y": loss, "curve": label, "row": row,
                "tooltip": f"{label} – step {step:,}: {loss:.3f}",
            }
            for row, (label, _, steps, losses) in enumerate(curves)
            for step, loss in thinned([*zip(steps, losses, strict=True)], most)
        ]  # fmt: skip

    styles = {label: look(which) for label, which, _, _ in curves}
    y = {**PERCENT, "title": "nats a token", "scale": {"zero": True}, "axis": UPRIGHT_LONG}
    points = sampled(max(8, _MOST_POINTS // len(curves)))
    rings = {
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 0, "color": GREY},
        "name": "steps",
        "data": {"values": points},
        "encoding": {
            "x": STEP,
            "y": {"field": "y", "type": "quantitative"},
            "description": {"field": "tooltip"},
        },
    }
    layers = [curves_spec(sampled(60), list(styles), [*styles.values()], y), rings]
    ends = ", ".join(f"{label} {values[-1]:.3f}" for label, _, _, values in curves)
    return Chart(
        name="loss",
        title="Pretraining loss",
        alt=f"Pretraining loss over steps, in nats a token. At the end: {ends}.",
        spec={"width": 2 * WIDTH, "height": 220, "layer": layers},
        columns=("", "step", "loss"),
        rows=[(point["curve"], point["step"], point["y"]) for point in points],
    )
