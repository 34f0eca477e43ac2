"""A chart: one Vega-Lite specification, drawn as SVG for the page and as PNG for print.

`vl-convert` draws without a browser and without a network, so the page shows every chart without a
script, in print too. Every mark carries its value as `aria-label`, which `page.js` shows at the
pointer or the keyboard focus. Accuracies are shares, from 0 to 1, drawn in %. Colours named in
`page.css` follow the reader's light or dark theme; print uses the light ones. The others are of
Okabe and Ito (2008), which colour-blind readers can distinguish.
"""

import csv
import dataclasses
import functools
import html
import io
import json
import re
import struct
import textwrap
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import vl_convert

from kstore_jax.charts.markup import Html

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#785EF0", "#5B5B5B")
DASHES = {"-": [1, 0], "--": [5, 3], ":": [1.5, 2.5], "-.": [6, 2, 1.5, 2]}
HEAT = ("#eef3f9", "#c9dcee", "#86b6da", "#3f87bd", "#0f5795", "#08306b")
_VEGA_LITE = "6.4"
WIDTH = 340
INK, GREY, LINE, ACCENT, PAPER = (
    f"var(--{name})" for name in ("ink", "grey", "line", "accent", "paper")
)
_PRINT_COLOURS = {
    INK: "#1d2329", GREY: "#5d6771", LINE: "#e3e6ea", ACCENT: HEAT[4], PAPER: "#ffffff"
}  # fmt: skip
_PPI = 216  # pixels an inch of a PNG, three a point of the drawing
_TITLE_CHARACTERS = 52  # a line of a printed title
_SOFTWARE = b"Software\0kstore_jax"  # in the metadata of PNGs
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
      name: of its picture, without suffix.
      title: what the chart shows.
      alt: its content in words.
      spec: its Vega-Lite specification.
      columns: the heads of its table of values.
      rows: the cells of the table, accuracies in %; None for an empty cell.
      legend: what its marks mean, for print; the page has switches instead.
    """

    name: str
    title: str
    alt: str
    spec: dict
    columns: tuple[str, ...]
    rows: Sequence[Sequence]
    legend: str = ""

    @property
    def values(self) -> list[tuple]:
        """The rows, with three decimals."""
        return [
            tuple(round(cell, 3) if isinstance(cell, float) else cell for cell in row)
            for row in self.rows
        ]

    @functools.cached_property
    def _svg(self) -> str:
        return vl_convert.vegalite_to_svg({"config": _CONFIG, **self.spec}, vl_version=_VEGA_LITE)

    @property
    def width(self) -> float:
        """Of the drawing, in pixels."""
        return float(re.findall(r'<svg [^>]*?width="([0-9.]+)"', self._svg)[0])

    @property
    def is_wide(self) -> bool:
        """Whether it does not fit beside another chart."""
        return self.width > 1.4 * WIDTH

    @functools.cached_property
    def svg(self) -> Html:
        """The drawing for the page, without what a page does not need."""
        svg = self._svg
        for unneeded in _UNNEEDED:
            svg = re.sub(unneeded, "", svg)
        svg = re.sub(r" (?:d|transform)=\"[^\"]*\"", _round_coordinates, svg)
        name = html.escape(f"{self.title}; the arrow keys go from value to value")
        style = f"max-width:{1.5 * self.width:.0f}px"
        style += f";min-width:{0.8 * self.width:.0f}px" * self.is_wide
        head = f'<svg class="chart" role="graphics-document" aria-label="{name}" style="{style}"'
        return Html(re.sub(r'<svg [^>]*?class="marks"', head, svg, count=1))

    @functools.cached_property
    def png(self) -> bytes:
        """The drawing for print: on white, with its title and legend."""
        png = vl_convert.vegalite_to_png(self._printed, vl_version=_VEGA_LITE, ppi=_PPI)
        return _signed(png)

    @functools.cached_property
    def printed_svg(self) -> str:
        """The same as an SVG file of its own."""
        return vl_convert.vegalite_to_svg(self._printed, vl_version=_VEGA_LITE)

    @property
    def _printed(self) -> dict:
        title: dict[str, Any] = {
            "text": textwrap.wrap(self.title, _TITLE_CHARACTERS), "anchor": "start", "offset": 12,
            "fontSize": 13, "subtitle": textwrap.wrap(self.legend, 60), "subtitleColor": GREY,
        }  # fmt: skip
        printed = {"config": {**_CONFIG, "background": "#ffffff"}, **self.spec, "title": title}
        text = json.dumps(printed)
        for name, colour in _PRINT_COLOURS.items():
            text = text.replace(name, colour)
        return json.loads(text)


def _signed(png: bytes) -> bytes:
    """A PNG with the name of this package in a text chunk after its header."""
    chunk = b"tEXt" + _SOFTWARE
    signature = struct.pack(">I", len(_SOFTWARE)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:33] + signature + png[33:]


def is_ours(png: bytes) -> bool:
    """Whether a PNG was drawn by this package."""
    return _SOFTWARE in png


def look(which: int) -> tuple[str, str]:
    """The colour and line style of group number `which`; the first 32 are all different."""
    dashes = [*DASHES]
    return COLOURS[which % len(COLOURS)], dashes[which // len(COLOURS) % len(dashes)]


def picture_name(kind: str, which: int, label: str) -> str:
    """The file name of the picture of group number `which`, without suffix."""
    safe = re.sub(r"[^A-Za-z0-9+]+", "-", label)[:60].strip("-")
    return f"{kind}-{which + 1}-{safe}"


def as_csv(lines: Iterable[Sequence]) -> str:
    """Lines of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _round_coordinates(attribute: re.Match) -> str:
    """Coordinates to a hundredth of a pixel."""
    return re.sub(r"(?<=\.\d\d)\d+", "", attribute[0])


_UNNEEDED = (
    r"<path class=\"(?:background|foreground)\"[^>]*/>",
    r" (?:pointer-events|opacity|font-family|font-size)=\"(?:none|1|sans-serif|11px)\"",
    r" role=\"graphics-object\" aria-roledescription=\"[^\"]*\"",
    r" aria-roledescription=\"[^\"]*\"",
    r"<g></g>",
)
"""Parts of an SVG that a page does not need: empty frames, defaults, repeated words."""


def percent(share: float) -> str:
    """A share as `3.1 %`, with a space that does not break."""
    return f"{100 * share:.1f}\N{NARROW NO-BREAK SPACE}%"


def as_label(name: str) -> str:
    """A name of the code as words: `birth_date` as `birth date`."""
    return name.replace("_", " ")


def in_percent(share: float | None) -> float | None:
    """A share in %, None for None."""
    return None if share is None else 100 * share


_UPRIGHT = {"tickCount": 5, "titleAngle": 0, "titleAlign": "right", "titleY": -8}
UPRIGHT_LONG = {**_UPRIGHT, "titleAlign": "left", "titleX": -24}
"""The axis of a title of several words, above the labels."""
PERCENT: dict[str, Any] = {
    "type": "quantitative", "title": "%", "axis": _UPRIGHT, "scale": {"domain": [0, 100]}
}  # fmt: skip
"""The y encoding of accuracies, without its field."""
