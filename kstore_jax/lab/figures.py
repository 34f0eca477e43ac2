"""The figures of a report: one function a figure, from plain numbers to the bytes of a PNG.

Accuracies come as shares, from 0 to 1, and are drawn in %. Colours are of Okabe and Ito (2008),
which colour-blind readers can tell apart. Wherever they appear, ours is filled, the paper's is an
empty diamond, the majority guess a black line and a probe's ceiling a dotted one.
"""

import functools
import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from kstore_jax.world.people import ATTRIBUTES

Shares = Mapping[str, float | None]

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#785EF0", "#5B5B5B")
LINES = ("-", "--", ":", "-.")

_DPI = 170
_WIDTH = 5.2  # inches
_INK, _GREY, _PALE = "#1d2329", "#5d6771", "#e3e6ea"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.labelcolor": _GREY,
    "axes.edgecolor": "#b4bbc2",
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
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
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.4,
}
_SEQUENTIAL = LinearSegmentedColormap.from_list(
    "accuracy", ["#eef3f9", "#c9dcee", "#86b6da", "#3f87bd", "#0f5795", "#08306b"]
)
_DARK_FROM = 0.55
_LEGEND = ("this run", "first token", "whole value", "the paper's", "majority guess", "ceiling")


def look(which: int) -> tuple[str, str]:
    """Colour and line style of group number `which`: no two of the first 32 are alike."""
    return COLOURS[which % len(COLOURS)], LINES[which // len(COLOURS) % len(LINES)]


def _figure(height: float) -> Callable:
    """Turns a function that draws on Axes into one that gives a PNG, `height` inches tall."""

    def drawing(draw: Callable[..., None]) -> Callable[..., bytes]:
        @functools.wraps(draw)
        def drawn(title: str, *args, **kwargs) -> bytes:
            with matplotlib.rc_context(_STYLE):
                figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
                axes = figure.subplots()
                axes.set_title(title if len(title) <= 62 else f"{title[:61]}…", pad=8)
                draw(axes, *args, **kwargs)
                png = io.BytesIO()
                figure.savefig(png, format="png", metadata={"Software": None})
            return png.getvalue()

        return drawn

    return drawing


@_figure(3.1)
def answers(
    axes: Axes, colour: str, seeds: Sequence[Shares], baseline: Shares, paper: Shares | None
) -> None:
    """Exact match on people held out, by attribute; `seeds` are ours, one a seed."""
    x = np.arange(len(ATTRIBUTES))
    rows = [[seed[a] for a in ATTRIBUTES] for seed in seeds]
    _bars(axes, x, 0.52, rows, label="this run", color=colour)
    _level(axes, x, 0.64, [baseline[a] for a in ATTRIBUTES], "majority guess", _INK, "-")
    if paper is not None:
        _diamonds(axes, x + 0.38, [paper[a] for a in ATTRIBUTES], label="the paper's")
    _share_axes(axes, "exact match (%)")


@_figure(3.1)
def q_probing(
    axes: Axes,
    colour: str,
    seeds: Mapping[str, Sequence[Shares]],
    baseline: Mapping[str, Shares],
    paper: Mapping[str, Shares] | None,
    ceiling: Mapping[str, Shares] | None,
) -> None:
    """Q-probing accuracy by attribute, of the `first` token and of the `whole` value."""
    styles = {
        "first": (-0.24, {"label": "first token", "color": colour}),
        "whole": (
            0.18,
            {"label": "whole value", "facecolor": "white", "edgecolor": colour, "hatch": "////"},
        ),
    }
    for kind, (shift, style) in styles.items():
        asked = [a for a in ATTRIBUTES if a in seeds[kind][0]]
        x = np.array([ATTRIBUTES.index(a) for a in asked]) + shift
        once = kind == "first"
        _bars(axes, x, 0.27, [[seed[a] for a in asked] for seed in seeds[kind]], 6.5, **style)
        guess = [baseline[kind].get(a) for a in asked]
        _level(axes, x, 0.32, guess, "majority guess" * once, _INK, "-")
        if ceiling is not None:
            most = [ceiling[kind].get(a) for a in asked]
            _level(axes, x, 0.32, most, "ceiling" * once, _GREY, (0, (1, 1)))
        if paper is not None:
            published = [paper[kind].get(a) for a in asked]
            _diamonds(axes, x + 0.195, published, label="the paper's" * once)
    _share_axes(axes, "accuracy (%)")


def _bars(axes: Axes, x, width: float, rows: Sequence[Sequence], size: float = 8.0, **style):
    """Bars of the means of `rows`, their values above, and each row as a dot if there are many."""
    table = 100 * np.array(rows, float)
    means = table.mean(0)
    axes.bar(x, means, width, linewidth=0.8, zorder=2, **style)
    for place, mean, top in zip(x, means, table.max(0), strict=True):
        text = f"{mean:.1f}" if size > 7 else f"{mean:.0f}"
        axes.annotate(
            text, (place, top), (0, 3), textcoords="offset points", ha="center", size=size,
            bbox={"color": "white", "pad": 0.4, "alpha": 0.8}, zorder=6,
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
    axes.figure.legend([handles[n] for n in order], order, loc="outside lower center", ncols=5)


@_figure(3.7)
def p_probing(
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


@_figure(3.0)
def losses(axes: Axes, curves: Sequence[tuple[str, int, Sequence[int], Sequence[float]]]) -> None:
    """Pretraining loss. A curve is a label, the number of its group, steps, and mean losses."""
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
        axes.figure.legend(loc="outside lower center", ncols=2)
