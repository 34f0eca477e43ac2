"""The charts of the page but the curves: bars, heat maps and points (see `drawing.py`)."""

from collections.abc import Mapping, Sequence

from kstore_jax.report import paper
from kstore_jax.report.agreement import Agreement
from kstore_jax.report.drawing import (
    ACCENT,
    GREY,
    INK,
    LINE,
    PAPER,
    UPRIGHT,
    UPRIGHT_LONG,
    WIDTH,
    Chart,
    chart,
    in_percent,
)
from kstore_jax.report.figures import HEAT, MEASURES
from kstore_jax.report.grids import Grid
from kstore_jax.report.groups import Group
from kstore_jax.report.summary import percent
from kstore_jax.world.people import ATTRIBUTES

_NAMES = [name.replace("_", " ") for name in ATTRIBUTES]
_WORD_A_LINE = "split(datum.label, ' ')"

MARKS = {
    "run": "this run",
    "whole": "this run, whole value",
    "guess": "majority guess",
    "ceiling": "ceiling of the probe",
    "seed": "each seed",
    "paper": "the paper",
}
"""What charts of bars are made of, from the back to the front, and what each means."""


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


def _value(mark: str, attribute: str, share: float | None, kind="", whose="") -> dict:
    """A bar, tick or point of `_bars`; `kind` is what bars of one attribute differ in."""
    name = attribute.replace("_", " ")
    told = f"{whose or MARKS[mark].partition(',')[0]} – {', '.join(filter(None, (name, kind)))}"
    return {
        "mark": mark, "attribute": name, "kind": kind, "accuracy": in_percent(share),
        "told": share is not None and f"{told}: {percent(share)}",
    }  # fmt: skip


def _bars(title: str, values: Sequence[dict], width: float, columns, rows) -> Chart:
    """Bars by attribute, with what else `values` has; ticks are `width` wide."""
    known = [value for value in values if value["accuracy"] is not None]
    kinds = list(dict.fromkeys(value["kind"] for value in known))
    place = {
        "x": {
            "field": "attribute", "type": "nominal", "sort": None, "title": None,
            "scale": {"domain": _NAMES, "paddingInner": 0.25, "paddingOuter": 0.1},
            "axis": {"labelExpr": _WORD_A_LINE},
        },
        "y": {
            "field": "accuracy", "type": "quantitative", "title": "%", "axis": UPRIGHT,
            "scale": {"domain": [0, 100]},
        },
        "description": {"field": "told"},
    }  # fmt: skip
    if len(kinds) > 1:
        place["xOffset"] = {"field": "kind", "scale": {"domain": kinds}}
    layers = [
        {
            "name": mark,
            "transform": [{"filter": {"field": "mark", "equal": mark}}],
            "mark": _mark(mark, width),
            "encoding": place,
        }
        for mark in MARKS
        if any(value["mark"] == mark for value in known)
    ]
    spec = {"width": WIDTH, "height": 190, "data": {"values": known}, "layer": layers}
    return chart(title, spec, columns, rows)


def answers(group: Group) -> Chart:
    """Exact match on people held out by attribute, the paper's beside ours."""
    levels = {"run": group.means("qa"), "guess": group.means("qa_baseline")}
    if (published := group.published) and published.qa:
        levels["paper"] = published.qa
    seeds = _seeds(group, lambda row: row["qa"])
    values = [
        *(_value(mark, a, shares.get(a)) for mark, shares in levels.items() for a in ATTRIBUTES),
        *(_value("seed", a, shares[a], whose=name) for name, shares in seeds for a in ATTRIBUTES),
    ]
    told = [*((MARKS[mark], shares) for mark, shares in levels.items()), *seeds]
    rows = [(name, *(in_percent(s.get(name)) for _, s in told)) for name in ("mean", *ATTRIBUTES)]
    columns = ("", *(name for name, _ in told))
    return _bars(f"{group.label}: answers", values, 40, columns, rows)


def _seeds(group: Group, read) -> list[tuple[str, dict]]:
    """What each row has, by the name of its seed; nothing where there is one alone."""
    many = len(group.rows) > 1
    return [(f"seed {row['seed']}", read(row)) for row in group.rows if many]


def q_probing(group: Group) -> Chart:
    """Q-probing of first tokens and whole values by attribute, the paper's beside ours."""
    guess, ceiling = group.means("q_probe", "baseline"), group.ceiling("q_probe")
    published = group.published
    levels, values = {}, []
    for kind, part, mark in (("first token", "first", "run"), ("whole value", "whole", "whole")):
        cells = group.means("q_probe", part)
        levels[mark, kind] = {a: cells[a][0] for a in cells}
        levels["guess", kind] = guess[part]
        if ceiling:
            levels["ceiling", kind] = ceiling[part]
        if published and published.q_first:
            levels["paper", kind] = {"first": published.q_first, "whole": published.q_whole}[part]
        for name, own in _seeds(group, lambda row, part=part: row["q_probe"][part]):
            values += [_value("seed", a, own[a][0], kind, name) for a in ATTRIBUTES if a in own]
    values += [
        _value(mark, a, shares[a], kind)
        for (mark, kind), shares in levels.items()
        for a in ATTRIBUTES
        if a in shares
    ]
    columns = ("", *(f"{MARKS[mark].partition(',')[0]}, {kind}" for mark, kind in levels))
    rows = [(a, *(in_percent(shares.get(a)) for shares in levels.values())) for a in ATTRIBUTES]
    values.sort(key=lambda value: value["kind"])
    return _bars(f"{group.label}: Q-probing", values, 18, columns, rows)


def p_probing(group: Group) -> list[Chart]:
    """P-probing of first tokens: ours, and the paper's where it has the dataset."""
    levels = {"majority guess": group.means("p_probe", "baseline")["first"]}
    if ceiling := group.ceiling("p_probe"):
        levels["ceiling"] = ceiling["first"]
    cells = group.means("p_probe", "first")
    drawn = [_p_probing(f"{group.label}: P-probing, this run", cells, levels)]
    if (published := group.published) and published.p_first:
        guess = {"majority guess": paper.baseline().q_first}
        drawn.append(_p_probing(f"{group.label}: P-probing, the paper", published.p_first, guess))
    return drawn


def _p_probing(title: str, cells: Mapping[str, Sequence], levels: Mapping[str, Mapping]) -> Chart:
    lines = {_ORDINALS[p]: {a: cells[a][p] for a in ATTRIBUTES} for p in range(6)}
    values = [
        _cell(name, a.replace("_", " "), shares.get(a), f"before the {name} attribute")
        for name, shares in lines.items()
        for a in ATTRIBUTES
    ]
    values += [
        _cell(name, a.replace("_", " "), shares.get(a), name)
        for name, shares in levels.items()
        for a in ATTRIBUTES
    ]
    spec = _heat(values, "before the", [*lines, " ", *levels], "", _NAMES)
    told = {**lines, **levels}.items()
    rows = [(name, *(in_percent(shares.get(a)) for a in ATTRIBUTES)) for name, shares in told]
    return chart(title, spec, ("before the", *ATTRIBUTES), rows)


_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th")


def _cell(line: str, column: str, share: float | None, where: str) -> dict:
    told = share is not None and f"{where}, {column}: {percent(share)}"
    return {"line": line, "column": column, "accuracy": in_percent(share), "told": told}


def _heat(values: list[dict], y: str, lines: list[str], x: str, columns: list[str]) -> dict:
    """A heat map with its values in it."""
    heads = {"labelPadding": 18} if any(" " in column for column in columns) else {}
    known = [value for value in values if value["accuracy"] is not None]
    places = {
        "x": {
            "field": "column", "type": "nominal", "sort": None, "title": x or None,
            "scale": {"domain": columns, "padding": 0.04},
            "axis": {"orient": "top", "labelExpr": _WORD_A_LINE, **heads},
        },
        "y": {
            "field": "line", "type": "nominal", "sort": None, "title": None,
            "scale": {"domain": lines, "padding": 0.06},
        },
    }  # fmt: skip
    if y:
        places["y"] |= {"title": y, "axis": {**_CORNER, "labelColor": INK}}
    colour = {
        "field": "accuracy", "type": "quantitative", "legend": None,
        "scale": {"domain": [i * 100 / (len(HEAT) - 1) for i in range(len(HEAT))], "range": HEAT},
    }  # fmt: skip
    ink = {"condition": {"test": "datum.accuracy >= 55", "value": "#fff"}, "value": "#1d2329"}
    text = {"field": "accuracy", "type": "quantitative", "format": ".1f"}
    return {
        "width": 58 * len(columns),
        "height": 27 * len(lines),
        "data": {"values": known},
        "layer": [
            {
                "name": "heat",
                "mark": "rect",
                "encoding": {**places, "color": colour, "description": {"field": "told"}},
            },
            {
                "mark": {"type": "text", "fontSize": 11, "aria": False},
                "encoding": {**places, "color": ink, "text": text},
            },
        ],
    }


_CORNER = {"titleAngle": 0, "titleAlign": "right", "titleX": -6, "titleY": -12}


def lora(grid: Grid) -> list[Chart]:
    """Answers held out by the ranks of LoRA: ours, and the paper's where it has some."""
    drawn = []
    for whose, shares in grid.told():
        ranks, embedding = grid.axes(shares)
        values = [
            _cell(rank, of_embedding, share, f"rank {rank}, of the embedding {of_embedding}")
            for (rank, of_embedding), share in shares.items()
        ]
        spec = _heat(values, "rank", ranks, "rank of the embedding", embedding)
        rows = [(r, *(in_percent(shares.get((r, e))) for e in embedding)) for r in ranks]
        title = f"{grid.label}: LoRA, {whose}"
        drawn.append(chart(title, spec, ("rank, and of the embedding", *embedding), rows))
    return drawn


def scatter(agreement: Agreement) -> Chart:
    """Ours against the paper's, a point a dataset; those furthest apart in rank stand out."""
    rho, ranks = agreement.spearman, {label: ranks for label, *ranks in agreement.misses()}
    values, rows = [], []
    each = zip(agreement.labels, agreement.ours, agreement.theirs, strict=True)
    for label, ours, theirs in each:
        rank, their_rank = ranks[label]
        rows.append((label, 100 * ours, 100 * theirs, rank, their_rank))
        told = f"this run: {percent(ours)}, rank {rank:g}"
        told += f"; the paper: {percent(theirs)}, rank {their_rank:g}"
        place = {"ours": 100 * ours, "theirs": 100 * theirs}
        strength = 1.0 if label in agreement.furthest() else 0.4
        values.append({**place, "told": f"{label} – {told}", "strength": strength})
    rows.sort(key=lambda row: -abs(row[3] - row[4]))
    scale = {"scale": {"domain": [0, 100]}, "type": "quantitative"}
    places = {
        "x": {"field": "theirs", "title": "the paper, %", "axis": {"tickCount": 5}, **scale},
        "y": {"field": "ours", "title": "this run, %", "axis": UPRIGHT_LONG, **scale},
    }
    strength = {"field": "strength", "type": "quantitative", "scale": None}
    spec = {
        "width": WIDTH - 20,
        "height": 250,
        "data": {"values": values},
        "layer": [
            {
                "data": {"values": [{"theirs": 0, "ours": 0}, {"theirs": 100, "ours": 100}]},
                "mark": {"type": "line", "color": LINE, "strokeWidth": 1.5, "aria": False},
                "encoding": places,
            },
            {
                "name": "points",
                "mark": {"type": "point", "filled": True, "size": 60, "color": ACCENT},
                "encoding": {**places, "opacity": strength, "description": {"field": "told"}},
            },
        ],
    }
    columns = ("", "this run", "the paper", "rank", "the paper's rank")
    title = MEASURES[agreement.name] + (f": Spearman’s ρ = {rho:.3f}" if rho is not None else "")
    return chart(title, spec, columns, rows)
