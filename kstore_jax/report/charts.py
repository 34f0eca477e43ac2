"""Charts that compare groups; `curves.py` has the other ones, and each readout its own."""

from collections.abc import Sequence

from kstore_jax.charts.drawing import (
    ACCENT,
    INK,
    LINE,
    PALE,
    PERCENT,
    UPRIGHT_LONG,
    WIDTH,
    Chart,
    beside,
    in_percent,
    percent,
)
from kstore_jax.charts.heat import cell, heat_spec
from kstore_jax.charts.nouns import shared_noun, with_noun
from kstore_jax.report.agreement import Agreement
from kstore_jax.report.grids import Grid
from kstore_jax.report.groups import ANSWERS, Group

MEASURES = {
    "qa_mean": "Answers about people held out",
    "q_first_mean": "Q-probing, first tokens",
}
"""The measures that are compared with the paper's."""


def lora(which: int, grid: Grid) -> Chart:
    """Answers about people held out by the ranks of LoRA: ours, and the paper's."""
    sides, rows, alt = [], [], []
    _, embeddings = grid.axes({**grid.ours, **grid.theirs})
    for whose, shares in grid.sides():
        ranks, embedding = grid.axes(shares)
        ends = grid.ends if whose == "this run" else {}
        values = [
            cell(rank, of, share, f"{whose} – rank {rank}, of the embedding", ends.get((rank, of)))
            for (rank, of), share in shares.items()
        ]
        sides.append((whose, heat_spec(values, "rank", ranks, "rank of the embedding", embedding)))
        rows += [(whose, r, *(in_percent(shares.get((r, e))) for e in embeddings)) for r in ranks]
        least, most = percent(min(shares.values())), percent(max(shares.values()))
        alt.append(f"{whose}: from {least} to {most}")
    return Chart(
        name=f"lora-{which + 1}",
        title=f"{grid.label}: answers by the ranks of LoRA",
        alt=f"{grid.label}: answers by the ranks of LoRA; {'; '.join(alt)}.",
        spec=beside([sides]),
        columns=("", "rank, and of the embedding", *embeddings),
        rows=rows,
        note="Exact match in % on people held out.",
    )


def scatter(agreement: Agreement) -> Chart:
    """Ours against the paper's, a point a dataset; those furthest apart in rank stand out."""
    ranks = {label: ranks for label, *ranks in agreement.misses()}
    values, rows = [], []
    each = zip(agreement.labels, agreement.ours, agreement.theirs, strict=True)
    for label, ours, theirs in each:
        rank, their_rank = ranks[label]
        rows.append((label, 100 * ours, 100 * theirs, f"{rank:g}", f"{their_rank:g}"))
        tooltip = f"{label} – this run: {percent(ours)}, rank {rank:g}"
        tooltip += f"; the paper: {percent(theirs)}, rank {their_rank:g}"
        fill = ACCENT if label in agreement.furthest() else PALE
        point = {"ours": 100 * ours, "theirs": 100 * theirs}
        values.append({**point, "tooltip": tooltip, "fill": fill})
    rows.sort(key=lambda row: -abs(float(row[3]) - float(row[4])))
    position = {
        "x": {**PERCENT, "field": "theirs", "title": "the paper, %", "axis": {"tickCount": 5}},
        "y": {**PERCENT, "field": "ours", "title": "this run, %", "axis": UPRIGHT_LONG},
    }
    fill = {"field": "fill", "type": "nominal", "scale": None}
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
                "mark": {"type": "point", "size": 55, "stroke": ACCENT, "opacity": 1},
                "encoding": {**position, "fill": fill, "description": {"field": "tooltip"}},
            },
        ],
    }
    name, rho = MEASURES[agreement.name], agreement.spearman
    correlation = "no rank correlation, all of ours are the same"
    if rho is not None:
        correlation = f"rank correlation {rho:.3f}"
    ends = ""
    if agreement.interval:
        ends = " ({:.2f} to {:.2f})".format(*agreement.interval)
        correlation += f"{ends}, 95 % interval of a bootstrap over datasets"
    alt = f"{name} of {len(agreement.labels)} datasets: {correlation}."
    note = "Each point is a dataset; on the line both shares are equal."
    if furthest := [miss for miss in agreement.misses() if miss[0] in agreement.furthest()]:
        labels = (f"{label} (rank {a:g}, the paper's {b:g})" for label, a, b in furthest)
        apart = f" Furthest apart: {', '.join(labels)}."
        alt += apart
        note += f"{apart[:-1]}, in full colour."
    return Chart(
        name=f"agreement-{agreement.name.replace('_', '-')}",
        title=name
        + (
            ""
            if rho is None
            else f": Spearman’s ρ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{rho:.3f}{ends}"
        ),
        alt=alt,
        spec=spec,
        columns=("", "this run", "the paper", "rank", "the paper's rank"),
        rows=rows,
        note=note,
    )


def stored_and_answered(groups: Sequence[Group]) -> Chart:
    """The bits that each model has stored about a person, beside its answers about people held
    out."""
    noun = shared_noun(group.noun for group in groups)
    bits_each, about = with_noun("bits a person", noun), with_noun("about people held out", noun)
    values, rows = [], []
    for group in groups:
        people = group.share(("capacity", "people"))
        bits, most = (group.share(("capacity", n)) / people for n in ("learned", "most_learned"))
        low, high = group.ends(ANSWERS)
        text = f"{bits:.1f} {bits_each} of {most:.1f}; answers: {percent(group.answers)}"
        values.append(
            {
                "label": group.label, "bits": bits, "most": most, "answers": 100 * group.answers,
                "low": 100 * low, "high": 100 * high, "tooltip": f"{group.label} – {text}",
            }
        )  # fmt: skip
        rows.append((group.label, bits, most, 100 * group.answers))
    stored = _bars(values, "bits", f"{bits_each}; line: all there is", ("tick", {"x": "most"}))
    answered = _bars(values, "answers", "answers, %", ("rule", {"x": "low", "x2": "high"}))
    stored["layer"][0]["encoding"]["y"]["axis"] = {"labelLimit": 260}
    texts = " ".join(f"{value['tooltip']}." for value in values)
    return Chart(
        name="stored",
        title="Stored, and answered",
        alt=f"{bits_each[0].upper()}{bits_each[1:]} and answers {about}, by dataset. {texts}",
        spec=beside([[("stored", stored), (f"answered {about}", answered)]]),
        columns=("", bits_each, "all there is", "answers"),
        rows=rows,
        note="Bits that the pretrained model has stored, at least; exact match in %.",
    )


def _bars(values: Sequence[dict], field: str, title: str, marks: tuple[str, dict]) -> dict:
    """A horizontal bar for each group, with marks on it.

    Args:
      marks: kind of mark in ink on each bar, and the fields of its ends by channel.
    """
    kind, ends = marks
    y = {"field": "label", "type": "nominal", "sort": None, "title": None, "axis": None}
    x = {
        "field": field, "type": "quantitative", "title": title, "scale": {"domainMin": 0},
        "axis": {"tickCount": 5},
    }  # fmt: skip
    layers = [
        {
            "name": "bars",
            "mark": {"type": "bar", "color": ACCENT, "height": 11},
            "encoding": {"x": x, "y": y, "description": {"field": "tooltip"}},
        },
        {
            "mark": {"type": kind, "color": INK, "aria": False},
            "encoding": {"y": y, "x": {**x, "field": ends["x"]}}
            | {channel: {"field": end} for channel, end in ends.items() if channel != "x"},
        },
    ]
    height = 18 * len(values)
    return {"width": 230, "height": height, "data": {"values": [*values]}, "layer": layers}
