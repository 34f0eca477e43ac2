"""The figures of a report: one function a figure, from a group of results to PNG and alt text.

Accuracies are shares, from 0 to 1, drawn in %; the paper's numbers are of `paper.py`. Colours are
of Okabe and Ito (2008), which colour-blind readers can tell apart. Wherever they appear, ours is
filled, the paper's is an empty diamond, the majority guess a black line and a probe's ceiling a
dotted one.
"""

import dataclasses
import functools
import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from kstore_jax.report import paper
from kstore_jax.report.agreement import Agreement
from kstore_jax.report.grids import Cells, Grid
from kstore_jax.report.groups import Group
from kstore_jax.report.series import Series
from kstore_jax.report.summary import percent
from kstore_jax.world.people import ATTRIBUTES

Shares = Mapping[str, float | None]
Curve = tuple[str, int, Sequence[int], Sequence[float]]
"""A label, the number of its group, steps, and the mean loss since the step before."""

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#785EF0", "#5B5B5B")
LINES = ("-", "--", ":", "-.")
HEAT = ("#eef3f9", "#c9dcee", "#86b6da", "#3f87bd", "#0f5795", "#08306b")
ACCENT = HEAT[4]

_SOFTWARE = "kstore_jax"  # what a PNG of ours names, in its metadata
_DPI = 180
_WIDTH = 4.7  # inches
_INK, _GREY, _PALE = "#1d2329", "#5d6771", "#e3e6ea"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.labelcolor": _GREY,
    "axes.edgecolor": "#b4bbc2",
    "axes.labelsize": 9.0,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _PALE,
    "xtick.color": _INK,
    "ytick.color": _GREY,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.4,
}
_SEQUENTIAL = LinearSegmentedColormap.from_list("accuracy", HEAT)
_LINE = 38  # characters of a title, beside the widest labels of an axis
_DARK_FROM = 0.55
_LEGEND = ("this run", "first token", "whole value", "the paper's", "majority guess", "ceiling")


def look(which: int) -> tuple[str, str]:
    """Colour and line style of group number `which`: no two of the first 32 are alike."""
    return COLOURS[which % len(COLOURS)], LINES[which // len(COLOURS) % len(LINES)]


def is_ours(png: bytes) -> bool:
    """Whether a PNG was drawn here."""
    return f"Software\0{_SOFTWARE}".encode() in png


def _figure(height: float) -> Callable:
    """Turns a function that draws on Axes into one that gives a PNG, `height` inches tall."""

    def drawing(draw: Callable[..., None]) -> Callable[..., bytes]:
        @functools.wraps(draw)
        def drawn(title: str, *args, **kwargs) -> bytes:
            with matplotlib.rc_context(_STYLE):
                figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
                axes = figure.subplots()
                axes.set_title(textwrap.fill(title, _LINE), pad=8)
                draw(axes, *args, **kwargs)
                png = io.BytesIO()
                figure.savefig(png, format="png", metadata={"Software": _SOFTWARE})
            return png.getvalue()

        return drawn

    return drawing


@_figure(3.1)
def _draw_answers(axes: Axes, seeds: Sequence[Shares], baseline: Shares, paper: Shares) -> None:
    """Exact match on people held out, by attribute; `seeds` are ours, one a seed."""
    x = np.arange(len(ATTRIBUTES))
    rows = [[seed[a] for a in ATTRIBUTES] for seed in seeds]
    _bars(axes, x, 0.52, rows, label="this run", color=ACCENT)
    _level(axes, x, 0.64, [baseline[a] for a in ATTRIBUTES], "majority guess", _INK, "-")
    if not paper.keys().isdisjoint(ATTRIBUTES):
        _diamonds(axes, x + 0.38, [paper.get(a) for a in ATTRIBUTES], label="the paper's")
    _share_axes(axes, "exact match (%)")


@_figure(3.1)
def _draw_q_probing(
    axes: Axes,
    seeds: Mapping[str, Sequence[Shares]],
    baseline: Mapping[str, Shares],
    paper: Mapping[str, Shares],
    ceiling: Mapping[str, Shares] | None,
) -> None:
    """Q-probing accuracy by attribute, of the `first` token and of the `whole` value."""
    styles = {
        "first": (-0.24, {"label": "first token", "color": ACCENT}),
        "whole": (
            0.18,
            {"label": "whole value", "facecolor": "white", "edgecolor": ACCENT, "hatch": "////"},
        ),
    }
    for kind, (shift, style) in styles.items():
        asked = [a for a in ATTRIBUTES if a in seeds[kind][0]]
        if not asked:
            continue
        x = np.array([ATTRIBUTES.index(a) for a in asked]) + shift
        once = kind == "first"
        _bars(axes, x, 0.27, [[seed[a] for a in asked] for seed in seeds[kind]], 7.0, **style)
        guess = [baseline[kind].get(a) for a in asked]
        _level(axes, x, 0.32, guess, "majority guess" * once, _INK, "-")
        if ceiling is not None:
            most = [ceiling[kind].get(a) for a in asked]
            _level(axes, x, 0.32, most, "ceiling" * once, _GREY, (0, (1, 1)))
        if paper.get(kind):
            published = [paper[kind].get(a) for a in asked]
            _diamonds(axes, x + 0.195, published, label="the paper's" * once)
    _share_axes(axes, "accuracy (%)")


def _bars(axes: Axes, x, width: float, rows: Sequence[Sequence], size: float = 8.5, **style):
    """Bars of the means of `rows`, their values above, and each row as a dot if there are many."""
    table = np.ma.masked_invalid(100 * np.array(rows, float))
    means = table.mean(0)
    axes.bar(x, means, width, linewidth=0.8, zorder=2, **style)
    for place, mean, top in zip(x, means, table.max(0), strict=True):
        if mean is np.ma.masked:
            continue
        text = f"{mean:.1f}" if size > 8 else f"{mean:.0f}"
        axes.annotate(
            text, (place, top), (0, 5 if len(table) > 1 else 3), textcoords="offset points",
            ha="center", size=size, bbox={"color": "white", "pad": 0.4, "alpha": 0.8}, zorder=6,
        )  # fmt: skip
    if len(table) > 1:
        spread = np.linspace(-0.3, 0.3, len(table))[:, None] * width
        where = np.broadcast_to(x, table.shape) + spread
        axes.scatter(where, table, 7, "white", edgecolors=_INK, linewidths=0.6, zorder=4)


def _level(axes: Axes, x, width: float, shares: Sequence, label: str, colour: str, dash) -> None:
    known = [(at, 100 * share) for at, share in zip(x, shares, strict=True) if share is not None]
    if known:
        at, level = np.array(known).T
        drawn = axes.hlines(
            level, at - width / 2, at + width / 2, colour, dash, zorder=3, clip_on=False
        )
        drawn.set_linewidth(1.3)
        drawn.set_label(label or "_")


def _diamonds(axes: Axes, x, shares: Sequence, label: str) -> None:
    level = [np.nan if share is None else 100 * share for share in shares]
    axes.plot(
        x, level, "D", markersize=4, color="white", markeredgecolor=_INK, markeredgewidth=1.0,
        label=label or "_", zorder=5, clip_on=False,
    )  # fmt: skip


def _share_axes(axes: Axes, label: str) -> None:
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel(label)
    axes.set_xlim(-0.55, len(ATTRIBUTES) - 0.4)
    axes.set_xticks(range(len(ATTRIBUTES)), [a.replace("_", "\n") for a in ATTRIBUTES])
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    order = [name for name in _LEGEND if name in handles]
    axes.figure.legend([handles[n] for n in order], order, loc="outside lower center", ncols=3)


@_figure(3.7)
def _draw_p_probing(
    axes: Axes, cells: Mapping[str, Sequence[float | None]], levels: Mapping[str, Shares]
) -> None:
    """P-probing accuracy: six positions down, attributes across, blank where not asked.

    `levels` are rows beneath: the majority guess, the ceiling.
    """
    positions = len(next(iter(cells.values())))
    table = np.array([[cells[a][p] for a in ATTRIBUTES] for p in range(positions)], float)
    below = np.array([[row.get(a) for a in ATTRIBUTES] for row in levels.values()], float)
    for top, part in ((0.0, table), (positions + 0.35, below.reshape(-1, len(ATTRIBUTES)))):
        _cells(axes, top, part)
    rows = len(levels)
    axes.set(xlim=(0, len(ATTRIBUTES)), ylim=(positions + (0.35 + rows if rows else 0), 0))
    axes.set_xticks(np.arange(len(ATTRIBUTES)) + 0.5, [a.replace("_", "\n") for a in ATTRIBUTES])
    places = [*range(positions), *(positions + 0.35 + row for row in range(rows))]
    names = [*(f"{_ordinal(p + 1)} attribute" for p in range(positions)), *levels]
    axes.set_yticks(np.array(places) + 0.5, names)
    axes.set_ylabel("read just before the …")
    axes.set_xlabel("asked for: first token of … (accuracy in %)")
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("bottom")
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _cells(axes: Axes, top: float, shares: np.ndarray) -> None:
    rows, columns = shares.shape
    if not rows:
        return
    edges = np.arange(columns + 1), top + np.arange(rows + 1)
    axes.pcolormesh(
        *edges, np.ma.masked_invalid(shares), cmap=_SEQUENTIAL, vmin=0, vmax=1,
        edgecolors="white", linewidth=1.5,
    )  # fmt: skip
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            ink = "white" if share >= _DARK_FROM else _INK
            text = f"{100 * share:.1f}"
            axes.text(column + 0.5, top + row + 0.5, text, color=ink, ha="center", va="center")


def _ordinal(number: int) -> str:
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number, 'th') }"


@_figure(3.4)
def _draw_lora(axes: Axes, ranks: Sequence[str], embedding: Sequence[str], cells: Cells) -> None:
    """Answers about people held out: ranks down, those of the embedding across."""
    table = np.array([[cells.get((r, e)) for e in embedding] for r in ranks], float)
    _cells(axes, 0.0, table)
    axes.set(xlim=(0, len(embedding)), ylim=(len(ranks), 0))
    axes.set_xticks(np.arange(len(embedding)) + 0.5, embedding)
    axes.set_yticks(np.arange(len(ranks)) + 0.5, ranks)
    axes.set_xlabel("rank of the embedding (exact match in %)")
    axes.set_ylabel("rank of queries and values")
    axes.grid(False)
    axes.spines[:].set_visible(False)


@_figure(3.9)
def _draw_scatter(axes: Axes, agreement: Agreement) -> None:
    """Ours against the paper's, a point a dataset; the furthest apart in rank stand out."""
    axes.plot([0, 100], [0, 100], color=_PALE, linewidth=1.2)
    x, y = 100 * np.array(agreement.theirs), 100 * np.array(agreement.ours)
    strength = [1.0 if label in agreement.furthest() else 0.4 for label in agreement.labels]
    axes.scatter(x, y, 20, ACCENT, alpha=strength, linewidths=0, zorder=3)
    axes.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal")
    axes.set_xlabel("the paper (%)")
    axes.set_ylabel("this run (%)")


@_figure(3.0)
def _draw_losses(axes: Axes, curves: Sequence[Curve]) -> None:
    """Pretraining loss by step."""
    told = set()
    for label, which, steps, values in curves:
        colour, line = look(which)
        axes.plot(
            steps, values, color=colour, linestyle=line, linewidth=1.2,
            label="_" if label in told else label, marker="." if len(steps) < 12 else "",
        )  # fmt: skip
        told.add(label)
    axes.set_xlabel("pretraining step")
    axes.set_ylabel("loss (nats a token)")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    if len(told) <= 4:
        axes.legend(loc="upper right")
    else:
        axes.figure.set_figheight(3.0 + 0.1 * len(told))
        axes.figure.legend(loc="outside lower center", ncols=2)


DYNAMICS = {
    "bio_train_first": ("biographies, P_train", "#0072B2", "--"),
    "bio_test_first": ("biographies, P_test", "#0072B2", "-"),
    "qa_train_first": ("answers, P_train", "#D55E00", "--"),
    "qa_test_first": ("answers, P_test", "#D55E00", "-"),
    "qa_test_exact": ("whole answers, P_test", "#009E73", "-"),
}


@_figure(3.3)
def _draw_dynamics(axes: Axes, steps: Sequence[int], shares: Mapping[str, Sequence[float]]) -> None:
    """What a model knows while it is pretrained, as in Fig. 1 of the paper."""
    for name, (label, colour, line) in DYNAMICS.items():
        if name in shares:
            values = 100 * np.array(shares[name])
            axes.plot(steps, values, color=colour, linestyle=line, linewidth=1.3, label=label)
    axes.set_xlabel("pretraining step")
    axes.set_ylabel("first tokens right (%)")
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)
    axes.figure.legend(loc="outside lower center", ncols=2)


@_figure(3.0)
def _draw_along(axes: Axes, series: Series) -> None:
    """Answers about people held out along a number, ours and the paper's."""
    for label, shares, style in (
        ("this run", series.ours, {"color": ACCENT, "marker": "o"}),
        ("the paper", series.theirs, {"color": _INK, "marker": "D", "markerfacecolor": "white"}),
    ):
        if shares:
            values = 100 * np.array([*shares.values()])
            axes.plot([*shares], values, label=label, linewidth=1.3, markersize=4, **style)
    axes.set_xlabel(series.along)
    axes.set_ylabel("exact match (%)")
    axes.set_ylim(0, 103)
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure: its file's name, its PNG, and what it shows in words."""

    name: str
    png: bytes
    alt: str


def answers(which: int, group: Group) -> Drawing:
    """Exact match on people held out, the paper's beside ours."""
    published = group.published
    theirs = published.qa if published else {}
    guess = group.means("qa_baseline")
    png = _draw_answers(
        f"{group.label} · answers, people held out", group.each("qa"), guess, theirs
    )
    alt = f"{group.label}: exact match on people held out. This run: {_told(group.means('qa'))}."
    alt += f" Majority guess: {_told(guess)}."
    return _drawing("answers", which, group, png, alt + _theirs(theirs))


def p_probing(which: int, group: Group) -> list[Drawing]:
    """P-probing of first tokens: ours, and the paper's where it has the dataset."""
    cells = group.means("p_probe", "first")
    levels = {"majority guess": group.means("p_probe", "baseline")["first"]}
    if ceiling := group.ceiling("p_probe"):
        levels["ceiling"] = ceiling["first"]
    title = f"{group.label}: P-probing, first token"
    png = _draw_p_probing(f"{group.label} · P-probing, this run", cells, levels)
    alt = f"{title}, this run, just before the first attribute: {_told(_at_name(cells))}."
    drawn = [_drawing("p-probing", which, group, png, alt)]
    if (published := group.published) and published.p_first:
        beside = {"majority guess": paper.baseline().q_first}
        beside |= {"": {}} if ceiling else {}  # cells as high as those of ours
        png = _draw_p_probing(f"{group.label} · P-probing, the paper", published.p_first, beside)
        told = _told(_at_name(published.p_first))
        alt = f"{title}, the paper, just before the first attribute: {told}."
        drawn.append(_drawing("p-probing-paper", which, group, png, alt))
    return drawn


def _at_name(cells: dict) -> dict:
    return {name: values[0] for name, values in cells.items()}


def q_probing(which: int, group: Group) -> Drawing:
    """Q-probing of first tokens and whole values, the paper's beside ours."""
    published = group.published
    theirs = {"first": published.q_first, "whole": published.q_whole} if published else {}
    kinds = ("first", "whole")
    seeds = {kind: [_at_name(probed) for probed in group.each("q_probe", kind)] for kind in kinds}
    guess, ceiling = group.means("q_probe", "baseline"), group.ceiling("q_probe")
    png = _draw_q_probing(f"{group.label} · Q-probing", seeds, guess, theirs, ceiling)
    means = {kind: _told(_at_name(group.means("q_probe", kind))) for kind in kinds}
    whole = f" Whole: {means['whole']}." if means["whole"] else ""
    alt = f"{group.label}: Q-probing. First token: {means['first']}.{whole}"
    return _drawing("q-probing", which, group, png, alt + _theirs(theirs.get("first")))


def _told(shares: dict) -> str:
    known = {name.replace("_", " "): x for name, x in shares.items() if x is not None}
    return ", ".join(f"{name} {percent(x)}" for name, x in known.items())


def _theirs(shares: Mapping[str, float] | None) -> str:
    return f" The paper: {_told(shares)}." if shares else ""


def _drawing(kind: str, which: int, group: Group, png: bytes, alt: str) -> Drawing:
    safe = re.sub(r"[^A-Za-z0-9+]+", "-", group.label)[:60].strip("-")
    return Drawing(f"{kind}-{which + 1}-{safe}", png, alt)


def dynamics(which: int, group: Group, seed: int, lines: Sequence[dict]) -> Drawing:
    """What a row's model knew while it was pretrained; `lines` are the metrics with evaluations."""
    shares = {
        name: [line["evaluation"][name] for line in lines]
        for name in DYNAMICS
        if name in lines[0]["evaluation"]
    }
    title = f"{group.label} · while it is pretrained"
    png = _draw_dynamics(title, [line["step"] for line in lines], shares)
    told = (f"{DYNAMICS[name][0]} {percent(values[-1])}" for name, values in shares.items())
    alt = f"{group.label}, seed {seed}: first tokens right over pretraining steps. At the end: "
    return _drawing(f"dynamics-{seed}", which, group, png, f"{alt}{', '.join(told)}.")


MEASURES = {
    "qa_mean": "Answers about people held out",
    "q_first_mean": "Q-probing, first tokens",
}
"""What is compared with the paper's, in words."""


def scatter(agreement: Agreement) -> Drawing:
    """Ours against the paper's, with the correlation of the ranks."""
    name, rho = MEASURES[agreement.name], agreement.spearman
    told = "no rank correlation, all of ours are the same"
    if rho is not None:
        told = f"rank correlation {rho:.3f}"
    alt = f"{name} of {len(agreement.labels)} datasets: {told}."
    if furthest := [miss for miss in agreement.misses() if miss[0] in agreement.furthest()]:
        each = (f"{label} (rank {a:g}, the paper's {b:g})" for label, a, b in furthest)
        alt += f" Furthest apart: {', '.join(each)}."
    png = _draw_scatter(f"{name} · {told}", agreement)
    return Drawing(f"agreement-{agreement.name.replace('_', '-')}", png, alt)


def lora(which: int, grid: Grid) -> list[Drawing]:
    """Answers held out by the ranks of LoRA: ours, and the paper's where it has some."""
    drawn = []
    for whose, cells in grid.told():
        png = _draw_lora(f"{grid.label} · LoRA, {whose}", *grid.axes(cells), cells)
        least, most = percent(min(cells.values())), percent(max(cells.values()))
        alt = f"{grid.label}: answers by the ranks of LoRA, {whose}, from {least} to {most}."
        drawn.append(Drawing(f"lora{'-paper' * bool(drawn)}-{which + 1}", png, alt))
    return drawn


def along(which: int, series: Series) -> Drawing:
    """Answers about people held out along a number, ours and the paper's."""
    told = ", ".join(f"{number:,.10g}: {percent(share)}" for number, share in series.ours.items())
    alt = f"{series.title}, {series.along}; this run {told}."
    if series.theirs:
        told = ", ".join(f"{number:,.10g}: {percent(x)}" for number, x in series.theirs.items())
        alt += f" The paper {told}."
    return Drawing(f"along-{which + 1}", _draw_along(series.title, series), alt)


def losses(curves: Sequence[Curve]) -> Drawing:
    """Pretraining losses of all rows."""
    ends = ", ".join(f"{label} {values[-1]:.3f}" for label, _, _, values in curves)
    alt = f"Pretraining loss over steps, in nats a token. At the end: {ends}."
    return Drawing("loss", _draw_losses("Pretraining loss", curves), alt)
