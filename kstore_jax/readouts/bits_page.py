"""Tables and charts of the readout `capacity`."""

from collections.abc import Iterator, Sequence
from typing import Any

from kstore_jax.charts.curves import curves_spec, log_axis, thinned
from kstore_jax.charts.drawing import COLOURS, GREY, INK, WIDTH, Chart, beside, look
from kstore_jax.charts.nouns import plural
from kstore_jax.charts.tables import Body, Line, Table
from kstore_jax.readouts.measured import Measured, about

RATES = (1, 2)
"""Bits a parameter that have a line in the chart."""
PAPER = "Part 3.3, Fig. 1 (a)"
_PAPER = {  # people: (millions of parameters, millions of bits), as the figure was digitised
    "50K": ((0.816, 1.40), (1.014, 1.96), (1.213, 2.16), (1.411, 2.46), (1.609, 2.69),
            (1.807, 2.85), (2.409, 2.91), (5.577, 2.92), (19.0, 2.93)),
    "100K": ((1.213, 2.59), (1.609, 3.47), (2.006, 3.86), (2.409, 4.61), (2.853, 5.21),
             (3.208, 5.58), (3.998, 5.70), (5.577, 5.74), (33.2, 5.75)),
    "200K": ((2.409, 5.57), (2.853, 6.70), (3.298, 7.50), (3.998, 8.58), (4.788, 9.72),
             (5.577, 10.6), (6.582, 11.2), (12.0, 11.2), (63.0, 11.2)),
    "500K": ((5.577, 15.2), (7.157, 17.9), (8.736, 19.9), (10.13, 22.0), (11.91, 24.1),
             (13.48, 26.7), (15.45, 27.4), (175.0, 27.7)),
    "1M": ((11.91, 32.3), (17.23, 40.3), (20.59, 44.8), (23.74, 51.1), (26.9, 53.0),
           (33.2, 54.1), (356.0, 54.5)),
}  # fmt: skip
_PAPER_MOST = {"50K": 2.96, "100K": 5.82, "200K": 11.45, "500K": 27.96, "1M": 54.91}
"""The dashed lines of the figure, millions of bits: N (log2(N0 / N) + log2 S0)."""


def tables(groups: Sequence[Measured]) -> list[Table]:
    """The bits stored, by all people and by person."""
    stored = [Body(g.label, g.wording, [_stored(g, *copy) for copy in _copies(g)]) for g in groups]
    of_terms = [term for group in groups for term in group.means("bits")]
    terms = [*dict.fromkeys(of_terms)]
    bodies = [
        Body(g.label, "", [_by_term(g, terms, *copy) for copy in [*_copies(g), (_KNOWN, ())]])
        for g in groups
    ]
    labels = {label: name for group in groups for label, name in group.labels.items()}
    heads = ("bits", "by draw", "at most", "parameters", "bits a parameter", "at most")
    note = (
        "Parameters without the rows of unused tokens; with them in parentheses. By draw: the "
        "lowest and the highest of several wordings."
    )
    return [
        Table("Bits stored", note, stored, (about(groups, "people"), *heads)),
        Table(
            "Bits a person",
            "By what was drawn for each person; in bioD also the strings, by string. An attribute "
            "that another one determines is part of it.",
            bodies,
            ("all", *(str(labels.get(term, term)) for term in terms)),
        ),
    ]


_KNOWN = "if all is known"


def _copies(group: Measured) -> list[tuple[str, tuple[str, ...]]]:
    """The model and its rounded copies: names, and where their results are."""
    formats = group.results[0]["quantised"]
    return [("as trained", ()), *((name, ("quantised", name)) for name in formats)]


def _stored(group: Measured, name: str, path: tuple[str, ...]) -> Line:
    draws = [bits for row in group.results for bits in row["draws"]] if not path else []
    used, every = (group.mean("parameters", which) for which in ("used", "all"))
    rate, of_all = (group.mean(*path, "bits_per_parameter", of) for of in ("used", "all"))
    cells = (
        f"{group.mean('people'):,.0f}",
        f"{group.mean(*path, 'learned'):,.0f}",
        f"{min(draws):,.0f} to {max(draws):,.0f}" if len(draws) > 1 else "–",
        f"{group.mean('most_learned'):,.0f}",
        f"{used:,.0f} ({every:,.0f})",
        f"{rate:.2f} ({of_all:.2f})",
        f"{group.mean('bits_per_parameter', 'most'):.2f}",
    )
    return Line(name, {}, before=cells)


def _by_term(group: Measured, terms: Sequence[str], name: str, path: tuple[str, ...]) -> Line:
    bits, learned = group.means(*path, "bits"), group.mean(*path, "learned")
    if name == _KNOWN:
        bits, learned = group.means("most"), group.mean("most_learned")
    cells = (f"{bits[term]:.1f}" if term in bits else "–" for term in terms)
    return Line(name, {}, before=(f"{learned / group.mean('people'):.1f}", *cells))


def charts(groups: Sequence[Measured]) -> list[Chart]:
    """Bits against parameters, for models of several sizes; and bits a parameter in the course of
    pretraining."""
    sizes = {row["parameters"]["used"] for group in groups for row in group.results}
    drawn = [_scaling(groups)] if len(sizes) > 1 else []
    trained = [group for group in groups if group.training]
    return [*drawn, *([_training(trained)] if trained else [])]


def _scaling(groups: Sequence[Measured]) -> Chart:
    ours = [*_points(groups)]
    theirs = [
        _point(f"{people} people", 1e6 * size, 1e6 * bits, 1e6 * _PAPER_MOST[people], PAPER)
        for people, points in _PAPER.items()
        for size, bits in points
    ]
    texts = " ".join(f"{point['tooltip']}." for point in ours)
    worlds = [*dict.fromkeys(point["world"] for point in (*ours, *theirs))]
    sides = [("this run", _scaling_spec(ours, worlds)), (PAPER, _scaling_spec(theirs, worlds))]
    return Chart(
        name="capacity",
        title="Bits stored, by parameters",
        alt=f"Bits of knowledge by parameters. {texts}",
        spec=beside([sides]),
        columns=(
            *("", about(groups, "people"), "parameters", "bits", "at most", "bits a parameter"),
        ),
        rows=[
            (p["label"], p["world"], round(p["x"]), p["y"], p["most"], p["y"] / p["x"])
            for p in (*ours, *theirs)
        ],
        note="Grey lines: 1 and 2 bits a parameter. Dashed: all there is to know about the people.",
        decimals={"bits": 0, "at most": 0, "bits a parameter": 2},
    )


def _points(groups: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """A point for each model."""
    for group in groups:
        for seed, row in zip(group.seeds, group.results, strict=True):
            label = f"{group.label}, seed {seed}" if len(group.seeds) > 1 else group.label
            sizes = row["parameters"]["used"], row["learned"], row["most_learned"]
            yield _point(f"{row['people']:,} {plural(group.noun)}", *sizes, label)


def _point(world: str, size: float, bits: float, most: float, label: str) -> dict[str, Any]:
    text = f"{label} – {world}, {size:,.0f} parameters: {bits:,.0f} bits of {most:,.0f}"
    rate = f"{text}, {bits / size:.2f} a parameter"
    return {"world": world, "x": size, "y": bits, "most": most, "label": label, "tooltip": rate}


def _scaling_spec(points: Sequence[dict[str, Any]], worlds: Sequence[str]) -> dict:
    """Points on logarithmic axes, lines of bits a parameter, and all there is to know; each of the
    worlds has a colour."""
    sizes = [point["x"] for point in points]
    bits = [max(y, 1.0) for point in points for y in (point["y"], point["most"])]
    bits += [rate * size for rate in RATES for size in (min(sizes), max(sizes))]
    x, y = (
        {**axis, "axis": {**axis["axis"], "format": "~s"}}
        for axis in (log_axis(sizes, "parameters"), log_axis(bits, "bits"))
    )
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(worlds))]
    colour = {
        "field": "world", "type": "nominal", "title": None,
        "scale": {"domain": [*worlds], "range": colours},
    }  # fmt: skip
    rates = [
        {"x": size, "y": rate * size, "rate": f"{rate} bit{'s' * (rate > 1)} a parameter"}
        for rate in RATES
        for size in (min(sizes), max(sizes))
    ]
    most = {(point["world"], point["most"]) for point in points}
    place = {"x": {"field": "x", **x}, "y": {"field": "y", **y}}
    layers = [
        {
            "data": {"values": rates}, "name": "rates",
            "mark": {"type": "line", "color": GREY, "strokeWidth": 1, "aria": False},
            "encoding": {**place, "detail": {"field": "rate"}},
        },
        {
            "data": {"values": [row for row in rates if row["x"] == max(sizes)]},
            "mark": {
                "type": "text", "align": "right", "dy": -7, "color": INK, "fontSize": 10,
                "aria": False,
            },
            "encoding": {**place, "text": {"field": "rate"}},
        },
        {
            "data": {"values": [{"world": world, "y": bits} for world, bits in sorted(most)]},
            "mark": {"type": "rule", "strokeDash": [5, 3], "aria": False}, "name": "most",
            "encoding": {"y": place["y"], "color": colour},
        },
        {
            "data": {"values": [point for point in points if point["y"] >= 1.0]},
            "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1}, "name": "models",
            "encoding": {**place, "color": colour, "description": {"field": "tooltip"}},
        },
    ]  # fmt: skip
    return {"width": WIDTH, "height": 260, "layer": layers}


def _training(groups: Sequence[Measured]) -> Chart:
    """Bits a parameter over steps, a line a seed."""
    points = [
        {
            "step": line["step"], "curve": group.label, "row": f"{group.label} {seed}",
            "seed": seed, "y": rate,
            "tooltip": f"{group.label}, seed {seed} – step {line['step']:,}: {rate:.2f} bits a "
            "parameter",
        }
        for group in groups
        for seed, trained in zip(group.seeds, group.training, strict=True)
        for line in thinned(trained["lines"], 60)
        if (rate := line["evaluation"].get("capacity_bits_per_parameter")) is not None
    ]  # fmt: skip
    ends = {point["row"]: point["tooltip"] for point in points}
    y = {"type": "quantitative", "title": "bits a parameter", "scale": {"zero": True}}
    return Chart(
        name="capacity-training",
        title="Bits a parameter in the course of pretraining",
        alt=f"Bits a parameter over pretraining steps. At the end: {'; '.join(ends.values())}.",
        spec=curves_spec(
            points,
            points,
            {group.label: look(group.which) for group in groups},
            y,
            (2 * WIDTH, 240),
            [trained["exposures"] for group in groups for trained in group.training],
        ),
        columns=("", "seed", "step", "bits a parameter"),
        rows=[(p["curve"], p["seed"], p["step"], p["y"]) for p in points],
        note="By one biography of each person measured; a line a seed.",
        decimals={"bits a parameter": 2},
    )
