"""A chart: one Vega-Lite specification, drawn as SVG for the page and as files for print.

`vl-convert` draws without a browser and without a network, so the page shows every chart without a
script, in print too. Every mark carries its value as `aria-label`, which `page.js` shows at the
pointer or the keyboard focus. Accuracies are shares, from 0 to 1, drawn in % with one decimal.
Colours named in `page.css` follow the reader's light or dark theme; print uses the light ones. The
others are of Okabe and Ito (2008), which colour-blind readers can distinguish.
"""

import csv
import dataclasses
import functools
import html
import io
import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import vl_convert

from kstore_jax.charts.markup import Html
from kstore_jax.charts.pictures import pictures

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#785EF0", "#5B5B5B")
DASHES = {"-": [1, 0], "--": [5, 3], ":": [1.5, 2.5], "-.": [6, 2, 1.5, 2]}
HEAT = ("#eef3f9", "#c9dcee", "#86b6da", "#3f87bd", "#0f5795", "#08306b")
_VEGA_LITE = "6.4"
WIDTH = 340
INK, GREY, LINE, ACCENT, PALE, PAPER = (
    f"var(--{name})" for name in ("ink", "grey", "line", "accent", "pale", "paper")
)
_PRINT_COLOURS = {
    INK: "#1d2329", GREY: "#5d6771", LINE: "#e3e6ea", ACCENT: HEAT[4], PALE: f"{HEAT[4]}40",
    PAPER: "#ffffff",
}  # fmt: skip
_TITLE_LETTER, _NOTE_LETTER = 7.4, 5.6  # pixels of an average letter of a title and of a note
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
      note: how to read it, for print; the page says so above its charts.
      decimals: of the numbers of a column in the table that the page shows, where not one.
    """

    name: str
    title: str
    alt: str
    spec: dict
    columns: tuple[str, ...]
    rows: Sequence[Sequence]
    note: str = ""
    decimals: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def values(self) -> list[tuple]:
        """The rows, with three decimals, for CSV files."""
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
        svg = re.sub(r"\d+_marks", "_marks", svg)
        svg = re.sub(r" (?:d|transform)=\"[^\"]*\"", _round_coordinates, svg)
        name = html.escape(f"{self.title}; the arrow keys go from value to value")
        style = f"max-width:{1.5 * self.width:.0f}px"
        style += f";min-width:{0.8 * self.width:.0f}px" * self.is_wide
        head = f'<svg class="chart" role="graphics-document" aria-label="{name}" style="{style}"'
        return Html(re.sub(r'<svg [^>]*?class="marks"', head, svg, count=1))

    @functools.cached_property
    def printed_svg(self) -> str:
        """The drawing for print: on white, with its title and note."""
        printed = {"config": {**_CONFIG, "background": "#ffffff"}, **self.spec}
        title: dict[str, Any] = {
            "text": textwrap.wrap(self.title, max(20, int(self.width / _TITLE_LETTER))),
            "subtitle": textwrap.wrap(self.note, max(30, int(self.width / _NOTE_LETTER))),
            "subtitleColor": GREY, "subtitlePadding": 4, "anchor": "start", "frame": "bounds",
            "fontSize": 14, "fontWeight": "normal", "color": INK, "offset": 12,
        }  # fmt: skip
        text = json.dumps({"padding": 8, **printed, "title": title})
        for name, colour in _PRINT_COLOURS.items():
            text = text.replace(name, colour)
        text = re.sub(r"#([0-9A-Fa-f]{6})40\b", _on_white, text)
        svg = vl_convert.vegalite_to_svg(json.loads(text), vl_version=_VEGA_LITE)
        return re.sub(r"<(?:path|line)[^>]* opacity=\"0\"[^>]*/>", "", svg)

    @functools.cached_property
    def files(self) -> dict[str, bytes]:
        """The drawing for print by suffix."""
        return pictures(self.printed_svg)


def beside(rows: Sequence[Sequence[tuple[str, dict | None]]]) -> dict:
    """Drawings side by side, with a title each.

    Args:
      rows: titles and specifications; None for an empty place, as large as the first drawing.
    """
    drawings = [spec for row in rows for _, spec in row if spec]
    if len(drawings) == 1:
        return drawings[0]
    width, height = (drawings[0][side] for side in ("width", "height"))
    empty = {"width": width, "height": height, "data": {"values": []}, "mark": "point"}
    numbers = itertools.count()

    def titled(title: str, spec: dict | None) -> dict:
        if spec is None:
            return empty
        number = next(numbers)
        layers = [
            {**layer, "name": f"{layer['name']}{number}"} if "name" in layer else layer
            for layer in spec["layer"]
        ]
        text = textwrap.wrap(title, max(20, int(spec["width"] / 6)))
        head: dict[str, Any] = {
            "text": text, "anchor": "start", "fontSize": 12, "fontWeight": "normal", "color": INK,
            "offset": 10,
        }  # fmt: skip
        return {**spec, "layer": layers, "title": head}

    views = [{"hconcat": [titled(*one) for one in row], "spacing": 28} for row in rows]
    return {"vconcat": views, "spacing": 22} if len(views) > 1 else views[0]


def stacked(name: str, charts: Sequence[Chart]) -> Chart:
    """Charts of one kind, with titles such as `single: P-probing`, as one chart without a table of
    values, below each other."""
    if len(charts) == 1:
        return charts[0]
    views, what = [], ""
    for number, chart in enumerate(charts):
        label, _, what = chart.title.rpartition(": ")
        head = {"text": label, "anchor": "start", "fontSize": 12, "fontWeight": "normal"}
        views.append({**_renamed(chart.spec, f"{number}"), "title": {**head, "color": INK}})
    return Chart(
        name=name,
        title=what[:1].upper() + what[1:],
        alt=" ".join(chart.alt for chart in charts),
        spec={"vconcat": views, "spacing": 28},
        columns=(),
        rows=(),
        note=charts[0].note,
    )


def _renamed(spec: Any, suffix: str) -> Any:
    """A specification with a suffix at the name of every layer; no two may have the same."""
    if isinstance(spec, list):
        return [_renamed(part, suffix) for part in spec]
    if not isinstance(spec, dict):
        return spec
    renamed = {key: _renamed(part, suffix) for key, part in spec.items()}
    return (
        {**renamed, "name": f"{spec['name']}-{suffix}"} if {"mark", "name"} <= {*spec} else renamed
    )


def look(which: int) -> tuple[str, str]:
    """The colour and line style of group number `which`; the first 32 are all different."""
    dashes = [*DASHES]
    return COLOURS[which % len(COLOURS)], dashes[which // len(COLOURS) % len(dashes)]


def as_csv(lines: Iterable[Sequence]) -> str:
    """Lines of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _on_white(colour: re.Match) -> str:
    """A colour of a quarter of full strength on white paper. With one font, and without anything
    transparent, `vl-convert` writes the same PDF every time."""
    strong = bytes.fromhex(colour[1])
    return "#" + bytes(round(255 - (255 - part) / 4) for part in strong).hex()


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


def percent_range(low: float, high: float) -> str:
    """Two shares as `3.1 to 4.0 %`."""
    return f"{100 * low:.1f} to {percent(high)}"


def as_label(name: str) -> str:
    """A name of the code as words: `birth_date` as `birth date`."""
    return name.replace("_", " ")


def in_percent(share: float | None) -> float | None:
    """A share in %, None for None."""
    return None if share is None else 100 * share


WORD_A_LINE = "split(datum.label, ' ')"
_LETTER, _SPACE = 5.2, 4  # pixels of an average letter of a label, and between labels


def column_width(labels: Sequence[str], least: float) -> float:
    """Pixels of a column, so that labels with one word a line do not touch; at least `least`."""
    longest = max((len(word) for label in labels for word in label.split()), default=0)
    return max(least, _LETTER * longest + _SPACE)


_UPRIGHT = {"tickCount": 5, "titleAngle": 0, "titleAlign": "right", "titleY": -8}
UPRIGHT_LONG = {**_UPRIGHT, "titleAlign": "left", "titleX": -24}
"""The axis of a title of several words, above the labels."""
PERCENT: dict[str, Any] = {
    "type": "quantitative", "title": "%", "axis": _UPRIGHT, "scale": {"domain": [0, 100]}
}  # fmt: skip
"""The y encoding of accuracies, without its field."""
