"""The charts of the page that are curves (see `drawing.py`)."""

from collections.abc import Sequence

from kstore_jax.report.drawing import (
    ACCENT,
    GREY,
    INK,
    UPRIGHT,
    UPRIGHT_LONG,
    WIDTH,
    Chart,
    chart,
    in_percent,
)
from kstore_jax.report.figures import DYNAMICS, Curve, look
from kstore_jax.report.groups import Group
from kstore_jax.report.series import Series
from kstore_jax.report.summary import percent

_MOST_POINTS = 240


def dynamics(group: Group, seed: int, lines: Sequence[dict]) -> Chart:
    """What a row's model knew while it was pretrained; `lines` are the metrics with evaluations."""
    shown = {n: style for n, style in DYNAMICS.items() if n in lines[0]["evaluation"]}
    lines = _thinned(lines, 25)
    labels = [label for label, _, _ in shown.values()]
    values = [
        {"step": line["step"], "y": 100 * line["evaluation"][name], "curve": shown[name][0]}
        for line in lines
        for name in shown
    ]
    told = [
        {
            "step": line["step"],
            "told": f"step {line['step']:,} – "
            + "; ".join(f"{shown[n][0]}: {percent(line['evaluation'][n])}" for n in shown),
        }
        for line in lines
    ]
    styles = [(colour, dash) for _, colour, dash in shown.values()]
    drawn = _curves(values, labels, styles, {"title": "%", "scale": {"domain": [0, 100]}})
    rule = {
        "mark": {"type": "rule", "strokeWidth": 9, "color": GREY, "opacity": 0},
        "name": "steps",
        "data": {"values": told},
        "encoding": {"x": _STEP, "description": {"field": "told"}},
    }
    spec = {"width": WIDTH, "height": 210, "layer": [drawn, rule]}
    rows = [(line["step"], *(100 * line["evaluation"][n] for n in shown)) for line in lines]
    title = f"{group.label}, seed {seed}: while it was pretrained"
    return chart(title, spec, ("step", *labels), rows)


_STEP = {
    "field": "step", "type": "quantitative", "title": "pretraining step",
    "axis": {"tickCount": 5, "format": "~s"}, "scale": {"nice": False, "zero": True},
}  # fmt: skip
_DASHES = {"-": [1, 0], "--": [5, 3], ":": [1.5, 2.5], "-.": [6, 2, 1.5, 2]}


def _curves(values: list[dict], labels, styles: Sequence[tuple[str, str]], y: dict) -> dict:
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
            "x": _STEP,
            "y": {"field": "y", "type": "quantitative", "axis": UPRIGHT, **y},
            "color": by_curve(colours),
            "strokeDash": by_curve(_DASHES[dash] for dash in dashes),
            "detail": {"field": "row"},
        },
    }


def along(series: Series) -> Chart:
    """Answers about people held out along a number, ours and the paper's."""
    whose = {"this run": series.ours, "the paper": series.theirs}
    whose = {name: shares for name, shares in whose.items() if shares}
    values = [
        {
            "x": number, "y": 100 * share, "curve": name,
            "told": f"{name} – {series.along} {number:,.10g}: {percent(share)}",
        }
        for name, shares in whose.items()
        for number, share in shares.items()
    ]  # fmt: skip
    colour = {
        "field": "curve", "type": "nominal", "title": None,
        "scale": {"domain": [*whose], "range": [ACCENT, INK][: len(whose)]},
    }  # fmt: skip
    places = {
        "x": {
            "field": "x", "type": "quantitative", "title": series.along,
            "axis": {"tickCount": 5}, "scale": {"zero": True},
        },
        "y": {
            "field": "y", "type": "quantitative", "title": "%", "axis": UPRIGHT,
            "scale": {"domain": [0, 100]},
        },
        "color": colour,
    }  # fmt: skip
    told = {"description": {"field": "told"}}
    spec = {
        "width": WIDTH,
        "height": 210,
        "data": {"values": values},
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.5, "aria": False}, "encoding": places},
            {
                "name": "points",
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {**places, **told},
            },
        ],
    }
    numbers = sorted({number for shares in whose.values() for number in shares})
    rows = [(n, *(in_percent(shares.get(n)) for shares in whose.values())) for n in numbers]
    return chart(series.title, spec, (series.along, *whose), rows)


def losses(curves: Sequence[Curve]) -> Chart:
    """Pretraining losses of all rows; values are told at fewer points than lines are drawn of."""

    def told(most: int) -> list[dict]:
        return [
            {
                "step": step, "y": loss, "curve": label, "row": row,
                "told": f"{label} – step {step:,}: {loss:.3f}",
            }
            for row, (label, _, steps, losses) in enumerate(curves)
            for step, loss in _thinned([*zip(steps, losses, strict=True)], most)
        ]  # fmt: skip

    styles = {label: look(which) for label, which, _, _ in curves}
    y = {"title": "nats a token", "scale": {"zero": True}, "axis": UPRIGHT_LONG}
    points = told(max(8, _MOST_POINTS // len(curves)))
    rings = {
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 0, "color": GREY},
        "name": "steps",
        "data": {"values": points},
        "encoding": {
            "x": _STEP,
            "y": {"field": "y", "type": "quantitative"},
            "description": {"field": "told"},
        },
    }
    layers = [_curves(told(60), styles, [*styles.values()], y), rings]
    spec = {"width": 2 * WIDTH, "height": 220, "layer": layers}
    rows = [(point["curve"], point["step"], point["y"]) for point in points]
    return chart("Pretraining loss", spec, ("", "step", "loss"), rows)


def _thinned(points: Sequence, most: int) -> list:
    """At most that many of the points, evenly, with both ends."""
    if len(points) <= most:
        return [*points]
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
