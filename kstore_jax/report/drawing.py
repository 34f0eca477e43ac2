"""A chart of the page: a Vega-Lite specification, drawn as SVG while the page is written.

`vl-convert` draws it with no browser and no network, so the page shows every chart without a
script, in print too. Every mark carries what it says as `aria-label`, which `page.js` shows where
the pointer or the keyboard is. Accuracies come as shares, from 0 to 1, and are drawn in %. Colours
that are names of `page.css` follow the reader's light or dark theme.
"""

import csv
import dataclasses
import html
import io
import re
from collections.abc import Iterable, Sequence

import vl_convert

from kstore_jax.report.markup import Html

_VEGA_LITE = "6.4"
WIDTH = 340
INK, GREY, LINE, ACCENT, PAPER = (
    f"var(--{name})" for name in ("ink", "grey", "line", "accent", "paper")
)
_CONFIG = {
    "background": None,
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": GREY, "titleColor": GREY, "labelFontSize": 11, "titleFontSize": 11,
        "titleFontWeight": "normal", "gridColor": LINE, "domain": False, "ticks": False,
        "labelPadding": 6, "labelLimit": 150, "aria": False,
    },
    "axisX": {"grid": False, "labelAngle": 0, "labelColor": INK},
    "legend": {
        "labelColor": INK, "labelFontSize": 11, "title": None, "orient": "bottom", "columns": 2,
        "symbolType": "stroke", "symbolSize": 260, "labelLimit": 300, "columnPadding": 36,
        "aria": False,
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart and its values.

    Attributes:
      title: what it shows.
      svg: the drawing.
      columns: the heads of its table of values.
      rows: their cells, in % where they are accuracies; None where there is none.
    """

    title: str
    svg: Html
    columns: tuple[str, ...]
    rows: tuple[tuple, ...]


def as_csv(lines: Iterable[Sequence]) -> str:
    """Lines of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def chart(title: str, spec: dict, columns: Iterable[str], rows: Iterable[Sequence]) -> Chart:
    rounded = (
        tuple(round(cell, 3) if isinstance(cell, float) else cell for cell in row) for row in rows
    )
    return Chart(title, _svg(title, spec), tuple(columns), tuple(rounded))


def _svg(title: str, spec: dict) -> Html:
    """The drawing, less what a page does not need of it."""
    drawn = vl_convert.vegalite_to_svg({"config": _CONFIG, **spec}, vl_version=_VEGA_LITE)
    for unneeded in _UNNEEDED:
        drawn = re.sub(unneeded, "", drawn)
    drawn = re.sub(r" (?:d|transform)=\"[^\"]*\"", _coarser, drawn)
    name = html.escape(f"{title}; the arrow keys go from value to value")
    head = f'<svg class="chart" role="graphics-document" aria-label="{name}"'
    return Html(re.sub(r'<svg [^>]*?class="marks"', head, drawn, count=1))


def _coarser(place: re.Match) -> str:
    """Coordinates to a hundredth of a pixel."""
    return re.sub(r"(?<=\.\d\d)\d+", "", place[0])


_UNNEEDED = (
    r"<path class=\"(?:background|foreground)\"[^>]*/>",
    r" (?:pointer-events|opacity|font-family|font-size)=\"(?:none|1|sans-serif|11px)\"",
    r" role=\"graphics-object\" aria-roledescription=\"[^\"]*\"",
    r" aria-roledescription=\"[^\"]*\"",
    r"<g></g>",
)
"""What a page does without: empty frames, defaults, the same word at every mark."""


def in_percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


UPRIGHT = {"tickCount": 5, "titleAngle": 0, "titleAlign": "right", "titleY": -8}
UPRIGHT_LONG = {**UPRIGHT, "titleAlign": "left", "titleX": -24}
