"""The charts that are curves."""

from collections.abc import Sequence

from kstore_jax.report.drawing import (
    ACCENT,
    DASHES,
    GREY,
    INK,
    PERCENT,
    UPRIGHT_LONG,
    WIDTH,
    Chart,
    in_percent,
    look,
    picture_name,
)
from kstore_jax.report.groups import Group
from kstore_jax.report.series import Series
from kstore_jax.report.summary import percent

Curve = tuple[str, int, Sequence[int], Sequence[float]]
"""A label, the number of its group, steps, and the mean loss since the step before."""
DYNAMICS = {
    "bio_train_first": ("biographies, P_train", "#0072B2", "--"),
    "bio_test_first": ("biographies, P_test", "#0072B2", "-"),
    "qa_train_first": ("answers, P_train", "#D55E00", "--"),
    "qa_test_first": ("answers, P_test", "#D55E00", "-"),
    "qa_test_exact": ("whole answers, P_test", "#009E73", "-"),
}
"""The curves of Fig. 1: label, colour and line style."""
_MOST_POINTS = 240


def dynamics(which: int, group: Group, seed: int, lines: Sequence[dict]) -> Chart:
    """What a row's model knew while it was pretrained; `lines` are the metrics with evaluations."""
    curves = {n: style for n, style in DYNAMICS.items() if n in lines[0]["evaluation"]}
    last = lines[-1]["evaluation"]
    lines = _thinned(lines, 25)
    labels = [label for label, _, _ in curves.values()]
    values = [
        {"step": line["step"], "y": 100 * line["evaluation"][name], "curve": curves[name][0]}
        for line in lines
        for name in curves
    ]
    tooltips = [
        {
            "step": line["step"],
            "tooltip": f"step {line['step']:,} – "
            + "; ".join(f"{curves[n][0]}: {percent(line['evaluation'][n])}" for n in curves),
        }
        for line in lines
    ]
    styles = [(colour, dash) for _, colour, dash in curves.values()]
    drawn = _curves(values, labels, styles, PERCENT)
    rule = {
        "mark": {"type": "rule", "strokeWidth": 9, "color": GREY, "opacity": 0},
        "name": "steps",
        "data": {"values": tooltips},
        "encoding": {"x": _STEP, "description": {"field": "tooltip"}},
    }
    rows = [(line["step"], *(100 * line["evaluation"][n] for n in curves)) for line in lines]
    ends = ", ".join(f"{curves[name][0]} {percent(last[name])}" for name in curves)
    return Chart(
        name=picture_name(f"dynamics-{seed}", which, group.label),
        title=f"{group.label}, seed {seed}: while it was pretrained",
        alt=f"{group.label}, seed {seed}: first tokens right over pretraining steps. "
        f"At the end: {ends}.",
        spec={"width": WIDTH, "height": 210, "layer": [drawn, rule]},
        columns=("step", *labels),
        rows=rows,
    )


_STEP = {
    "field": "step", "type": "quantitative", "title": "pretraining step",
    "axis": {"tickCount": 5, "format": "~s"}, "scale": {"nice": False, "zero": True},
}  # fmt: skip


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
            "y": {"field": "y", **y},
            "color": by_curve(colours),
            "strokeDash": by_curve(DASHES[dash] for dash in dashes),
            "detail": {"field": "row"},
        },
    }


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
            for step, loss in _thinned([*zip(steps, losses, strict=True)], most)
        ]  # fmt: skip

    styles = {label: look(which) for label, which, _, _ in curves}
    y = {**PERCENT, "title": "nats a token", "scale": {"zero": True}, "axis": UPRIGHT_LONG}
    points = sampled(max(8, _MOST_POINTS // len(curves)))
    rings = {
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 0, "color": GREY},
        "name": "steps",
        "data": {"values": points},
        "encoding": {
            "x": _STEP,
            "y": {"field": "y", "type": "quantitative"},
            "description": {"field": "tooltip"},
        },
    }
    layers = [_curves(sampled(60), list(styles), [*styles.values()], y), rings]
    ends = ", ".join(f"{label} {values[-1]:.3f}" for label, _, _, values in curves)
    return Chart(
        name="loss",
        title="Pretraining loss",
        alt=f"Pretraining loss over steps, in nats a token. At the end: {ends}.",
        spec={"width": 2 * WIDTH, "height": 220, "layer": layers},
        columns=("", "step", "loss"),
        rows=[(point["curve"], point["step"], point["y"]) for point in points],
    )


def _thinned(points: Sequence, most: int) -> list:
    """At most that many of the points, evenly, with both ends."""
    if len(points) <= most:
        return [*points]
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
