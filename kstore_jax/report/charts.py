"""Bars, heat maps and points; `curves.py` has the other charts."""

from collections.abc import Callable, Mapping, Sequence

from kstore_jax.report import paper
from kstore_jax.report.agreement import Agreement
from kstore_jax.report.drawing import (
    ACCENT,
    GREY,
    HEAT,
    INK,
    LINE,
    PAPER,
    PERCENT,
    UPRIGHT_LONG,
    WIDTH,
    Chart,
    in_percent,
    picture_name,
)
from kstore_jax.report.grids import Grid
from kstore_jax.report.groups import Group
from kstore_jax.report.summary import percent
from kstore_jax.world.people import ATTRIBUTES

_NAMES = [name.replace("_", " ") for name in ATTRIBUTES]
_WORD_A_LINE = "split(datum.label, ' ')"

_MARKS = {
    "run": ("this run", "filled bar"),
    "whole": ("this run, whole value", "pale bar"),
    "guess": ("majority guess", "black line"),
    "ceiling": ("ceiling of the probe", "grey line"),
    "seed": ("each seed", "circle"),
    "paper": ("the paper", "diamond"),
}
MARKS = {mark: meaning for mark, (meaning, _) in _MARKS.items()}
"""The marks of bar charts, from back to front, and their meaning."""
MEASURES = {
    "qa_mean": "Answers about people held out",
    "q_first_mean": "Q-probing, first tokens",
}
"""The measures that are compared with the paper's."""


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
    """A bar, tick or point of `_bars`; bars of one attribute differ in `kind`."""
    name = attribute.replace("_", " ")
    label = f"{whose or MARKS[mark].partition(',')[0]} – {', '.join(filter(None, (name, kind)))}"
    return {
        "mark": mark, "attribute": name, "kind": kind, "accuracy": in_percent(share),
        "tooltip": share is not None and f"{label}: {percent(share)}",
    }  # fmt: skip


def _bar_spec(values: Sequence[dict], width: float) -> tuple[dict, str]:
    """Bars, ticks and points by attribute, ticks `width` wide; and a legend for print."""
    drawn = [value for value in values if value["accuracy"] is not None]
    kinds = list(dict.fromkeys(value["kind"] for value in drawn))
    place = {
        "x": {
            "field": "attribute", "type": "nominal", "sort": None, "title": None,
            "scale": {"domain": _NAMES, "paddingInner": 0.25, "paddingOuter": 0.1},
            "axis": {"labelExpr": _WORD_A_LINE},
        },
        "y": {"field": "accuracy", **PERCENT},
        "description": {"field": "tooltip"},
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
        if any(value["mark"] == mark for value in drawn)
    ]
    spec = {"width": WIDTH, "height": 190, "data": {"values": drawn}, "layer": layers}
    names = {layer["name"] for layer in layers}
    legend = "; ".join(f"{look}: {mean}" for mark, (mean, look) in _MARKS.items() if mark in names)
    return spec, legend[:1].upper() + legend[1:]


def answers(which: int, group: Group) -> Chart:
    """Exact match on people held out by attribute, with the paper's."""
    levels = {"run": group.means("qa"), "guess": group.means("qa_baseline")}
    if (published := group.published) and published.qa:
        levels["paper"] = published.qa
    seeds = _seeds(group, lambda row: row["qa"])
    values = [
        *(_value(mark, a, shares.get(a)) for mark, shares in levels.items() for a in ATTRIBUTES),
        *(_value("seed", a, shares[a], whose=name) for name, shares in seeds for a in ATTRIBUTES),
    ]
    lines = [*((MARKS[mark], shares) for mark, shares in levels.items()), *seeds]
    rows = [(name, *(in_percent(s.get(name)) for _, s in lines)) for name in ("mean", *ATTRIBUTES)]
    alt = f"{group.label}: exact match on people held out. This run: {_listed(levels['run'])}."
    alt += f" Majority guess: {_listed(levels['guess'])}." + _theirs(levels.get("paper"))
    spec, legend = _bar_spec(values, 40)
    return Chart(
        name=picture_name("answers", which, group.label),
        title=f"{group.label}: answers",
        alt=alt,
        spec=spec,
        columns=("", *(name for name, _ in lines)),
        rows=rows,
        legend=legend,
    )


def _listed(shares: Mapping[str, float | None]) -> str:
    named = {name.replace("_", " "): x for name, x in shares.items() if x is not None}
    return ", ".join(f"{name} {percent(x)}" for name, x in named.items())


def _theirs(shares: Mapping[str, float | None] | None) -> str:
    return f" The paper: {_listed(shares)}." if shares else ""


def _seeds(group: Group, read: Callable[[dict], dict]) -> list[tuple[str, dict]]:
    """What `read` returns of each row, by the name of its seed; nothing for a single seed."""
    many = len(group.rows) > 1
    return [(f"seed {row['seed']}", read(row)) for row in group.rows if many]


def q_probing(which: int, group: Group) -> Chart:
    """Q-probing of first tokens and whole values by attribute, with the paper's."""
    guess, ceiling = group.means("q_probe", "baseline"), group.ceiling("q_probe")
    published = group.published
    levels: dict[tuple[str, str], Mapping] = {}
    values = []
    for kind, part, mark in (("first token", "first", "run"), ("whole value", "whole", "whole")):
        cells = group.means("q_probe", part)
        levels[mark, kind] = _at_name(cells)
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
    alt = f"{group.label}: Q-probing. First token: {_listed(levels['run', 'first token'])}."
    if whole := _listed(levels["whole", "whole value"]):
        alt += f" Whole: {whole}."
    spec, legend = _bar_spec(values, 18)
    return Chart(
        name=picture_name("q-probing", which, group.label),
        title=f"{group.label}: Q-probing",
        alt=alt + _theirs(levels.get(("paper", "first token"))),
        spec=spec,
        columns=columns,
        rows=rows,
        legend=legend,
    )


def _at_name(cells: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
    """Each attribute's accuracy at the first position, where little but the name was read."""
    return {name: values[0] for name, values in cells.items()}


def p_probing(which: int, group: Group) -> list[Chart]:
    """P-probing of first tokens: ours, and the paper's where it has the dataset."""
    levels = {"majority guess": group.means("p_probe", "baseline")["first"]}
    if ceiling := group.ceiling("p_probe"):
        levels["ceiling"] = ceiling["first"]
    cells = group.means("p_probe", "first")
    name = picture_name("p-probing", which, group.label)
    charts = [_p_probing(name, group.label, "this run", cells, levels)]
    if (published := group.published) and published.p_first:
        guess = {"majority guess": paper.baseline().q_first}
        name = picture_name("p-probing-paper", which, group.label)
        charts.append(_p_probing(name, group.label, "the paper", published.p_first, guess))
    return charts


def _p_probing(
    name: str, label: str, whose: str, cells: Mapping[str, Sequence], levels: Mapping[str, Mapping]
) -> Chart:
    lines = {_ORDINALS[p]: {a: cells[a][p] for a in ATTRIBUTES} for p in range(6)}
    where = {line: f"before the {line} attribute" for line in lines}
    values, rows = [], []
    for line, shares in {**lines, **levels}.items():
        rows.append((line, *(in_percent(shares.get(a)) for a in ATTRIBUTES)))
        values += [
            _cell(line, column, shares.get(a), where.get(line, line))
            for a, column in zip(ATTRIBUTES, _NAMES, strict=True)
        ]
    before_first = _listed(_at_name(cells))
    return Chart(
        name=name,
        title=f"{label}: P-probing, {whose}",
        alt=f"{label}: P-probing, first token, {whose}, just before the first attribute: "
        f"{before_first}.",
        spec=_heat(values, "before the", [*lines, " ", *levels], "", _NAMES),
        columns=("before the", *ATTRIBUTES),
        rows=rows,
        legend="Accuracy in % of the first token, read just before the 1st to 6th attribute.",
    )


_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th")


def _cell(line: str, column: str, share: float | None, where: str) -> dict:
    tooltip = share is not None and f"{where}, {column}: {percent(share)}"
    return {"line": line, "column": column, "accuracy": in_percent(share), "tooltip": tooltip}


def _heat(values: list[dict], y: str, lines: list[str], x: str, columns: list[str]) -> dict:
    """A heat map that shows its values."""
    heads = {"labelPadding": 18} if any(" " in column for column in columns) else {}
    drawn = [value for value in values if value["accuracy"] is not None]
    position: dict[str, dict] = {
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
        position["y"] |= {"title": y, "axis": {**_CORNER, "labelColor": INK}}
    colour = {
        "field": "accuracy", "type": "quantitative", "legend": None,
        "scale": {"domain": [i * 100 / (len(HEAT) - 1) for i in range(len(HEAT))], "range": HEAT},
    }  # fmt: skip
    ink = {"condition": {"test": "datum.accuracy >= 55", "value": "#fff"}, "value": "#1d2329"}
    text = {"field": "accuracy", "type": "quantitative", "format": ".1f"}
    return {
        "width": 58 * len(columns),
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


_CORNER = {"titleAngle": 0, "titleAlign": "right", "titleX": -6, "titleY": -12}


def lora(which: int, grid: Grid) -> list[Chart]:
    """Answers about people held out by the ranks of LoRA: ours, and the paper's if it has some."""
    charts = []
    for whose, shares in grid.sides():
        ranks, embedding = grid.axes(shares)
        values = [
            _cell(rank, of_embedding, share, f"rank {rank}, of the embedding {of_embedding}")
            for (rank, of_embedding), share in shares.items()
        ]
        rows = [(r, *(in_percent(shares.get((r, e))) for e in embedding)) for r in ranks]
        least, most = percent(min(shares.values())), percent(max(shares.values()))
        charts.append(
            Chart(
                name=f"lora{'-paper' * bool(charts)}-{which + 1}",
                title=f"{grid.label}: LoRA, {whose}",
                alt=f"{grid.label}: answers by the ranks of LoRA, {whose}, from {least} to {most}.",
                spec=_heat(values, "rank", ranks, "rank of the embedding", embedding),
                columns=("rank, and of the embedding", *embedding),
                rows=rows,
                legend="Exact match in % on people held out.",
            )
        )
    return charts


def scatter(agreement: Agreement) -> Chart:
    """Ours against the paper's, a point a dataset; those furthest apart in rank stand out."""
    ranks = {label: ranks for label, *ranks in agreement.misses()}
    values, rows = [], []
    each = zip(agreement.labels, agreement.ours, agreement.theirs, strict=True)
    for label, ours, theirs in each:
        rank, their_rank = ranks[label]
        rows.append((label, 100 * ours, 100 * theirs, rank, their_rank))
        tooltip = f"{label} – this run: {percent(ours)}, rank {rank:g}"
        tooltip += f"; the paper: {percent(theirs)}, rank {their_rank:g}"
        strength = 1.0 if label in agreement.furthest() else 0.4
        point = {"ours": 100 * ours, "theirs": 100 * theirs}
        values.append({**point, "tooltip": tooltip, "strength": strength})
    rows.sort(key=lambda row: -abs(row[3] - row[4]))
    position = {
        "x": {**PERCENT, "field": "theirs", "title": "the paper, %", "axis": {"tickCount": 5}},
        "y": {**PERCENT, "field": "ours", "title": "this run, %", "axis": UPRIGHT_LONG},
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
                "encoding": position,
            },
            {
                "name": "points",
                "mark": {"type": "point", "filled": True, "size": 60, "color": ACCENT},
                "encoding": {**position, "opacity": strength, "description": {"field": "tooltip"}},
            },
        ],
    }
    name, rho = MEASURES[agreement.name], agreement.spearman
    correlation = "no rank correlation, all of ours are the same"
    if rho is not None:
        correlation = f"rank correlation {rho:.3f}"
    alt = f"{name} of {len(agreement.labels)} datasets: {correlation}."
    if furthest := [miss for miss in agreement.misses() if miss[0] in agreement.furthest()]:
        labels = (f"{label} (rank {a:g}, the paper's {b:g})" for label, a, b in furthest)
        alt += f" Furthest apart: {', '.join(labels)}."
    return Chart(
        name=f"agreement-{agreement.name.replace('_', '-')}",
        title=name + (f": Spearman’s ρ = {rho:.3f}" if rho is not None else ""),
        alt=alt,
        spec=spec,
        columns=("", "this run", "the paper", "rank", "the paper's rank"),
        rows=rows,
    )
