"""Writes finished runs as one page: a summary, tables, charts, and the paper's numbers.

The page is self-contained and loads nothing: charts are SVG, tables of values link to CSV inside
the page, style and script are inline, and the content policy allows that script alone, by its hash.
The page is a function of the results. All text goes through `markup.tag`, which escapes everything
that is not HTML already.
"""

import base64
import hashlib
import os
import pathlib
import re
import sys
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

from kstore_jax.charts.bars import MARKS
from kstore_jax.charts.drawing import Chart, as_csv, percent
from kstore_jax.charts.markup import Html, join, tag
from kstore_jax.charts.nouns import PERSON, shared_noun, with_noun
from kstore_jax.charts.pictures import SUFFIXES, is_ours
from kstore_jax.charts.tables import table
from kstore_jax.files import write_bytes, write_text
from kstore_jax.readouts.base import Readout
from kstore_jax.report import paper, tables
from kstore_jax.report.figures import charts_of, drawn_by, measured_by, readouts_in_order
from kstore_jax.report.groups import Group, distinct
from kstore_jax.report.groups import groups as group_rows
from kstore_jax.report.results import read_results
from kstore_jax.report.settings import configs_of, run_settings
from kstore_jax.report.summary import Summary, summarise


class Section(NamedTuple):
    """A part of the page with a heading; left out without `parts`."""

    name: str
    title: str
    parts: Sequence[Html]


def write(runs: Sequence[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Writes `out/report.html` and its pictures in `out/figures`, each as SVG, PNG and PDF, from
    `results.json` of every run.

    A row that several runs have appears once. Stale pictures of an earlier page are removed;
    pictures by other programs, or that somebody changed, stay.

    Returns: the path of the page.

    Raises:
      UserError: a run holds no results, or damaged ones; nothing is written.
    """
    results = [read_results(run) for run in runs]
    groups = group_rows(distinct(row for one in results for row in one.rows))
    drawn = charts_of(groups)
    notes = {readout.name: _departures(groups, readout) for readout in readouts_in_order()}
    provenances = [record for one in results for record in one.provenances]
    noun = shared_noun(group.noun for group in groups)
    sections = [
        *_openings(groups, noun),
        Section("glance", "At a glance", [_glance(groups)]),
        Section("numbers", "In numbers", _numbers(groups, noun)),
        *(
            Section(name, title, _figures(text, notes.get(name, ()), drawn[name]))
            for name, title, text in sections_of(any(group.bundled for group in groups), noun)
        ),
        Section("run", "Settings of the run", run_settings(groups, provenances)),
        Section("files", "Files", [_files(runs, out, groups)]),
    ]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    pictures = {
        out / "figures" / f"{chart.name}{suffix}": content
        for section_charts in drawn.values()
        for chart in section_charts
        for suffix, content in chart.files.items()
    }
    for path, content in pictures.items():
        write_bytes(path, content)
    names = [run.resolve().name for run in runs]
    page = out / "report.html"
    missing = dict.fromkeys(line for one in results for line in one.missing)
    failed = [f"Not on this page, because it failed: {x}." for one in results for x in one.failed]
    lead = _lead(" ".join(map(str, runs)), summarise(groups), [*failed, *missing])
    write_text(page, _page(f"kstore: {', '.join(names)}", lead, [s for s in sections if s.parts]))
    for path in (out / "figures").iterdir():
        if path not in pictures and path.suffix in SUFFIXES and is_ours(path):
            path.unlink()
    for line in missing:
        print(f"note: {line}", file=sys.stderr)
    return page


def _openings(groups: Sequence[Group], noun: str) -> list[Section]:
    """What readouts show at the beginning of the page."""
    return [
        Section(
            f"opening-{readout.name}",
            with_noun(readout.title, noun),
            drawn_by(readout, readout.opening, measured),
        )
        for readout in readouts_in_order()
        if (measured := measured_by(groups, readout))
    ]


def _page(title: str, lead: Html, sections: Sequence[Section]) -> str:
    style, script = (
        Html(pathlib.Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8"))
        for kind in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", style),
    )
    links = [tag("li", tag("a", each.title, href=f"#{each.name}")) for each in sections]
    nav = tag("nav", tag("ul", *links), aria_label="Contents")
    body = [tag("section", tag("h2", each.title), *each.parts, id=each.name) for each in sections]
    inside = tag("body", tag("main", lead, nav, *body), tag("script", script))
    return f"<!doctype html>\n{tag('html', head, inside, lang='en')}\n"


def _lead(runs: str, summary: Summary, left_out: Sequence[str]) -> Html:
    parts = [tag("p", f"kstore report · {runs}", class_="eyebrow"), tag("h1", summary.headline)]
    parts += [tag("p", summary.verdict, class_="verdict")] if summary.verdict else []
    parts += [tag("p", caveat, class_="warn") for caveat in (*left_out, *summary.caveats)]
    return tag("header", *parts)


def _glance(groups: Sequence[Group]) -> Html:
    compared = any(group.published and group.published.qa for group in groups)
    note = f"Diamond: the paper's answers about people held out ({paper.SETTING})."
    notes = [tag("p", note, class_="note")] * compared
    return join([tag("div", *map(_bars, groups), class_="glance"), *notes])


def _bars(group: Group) -> Html:
    if not group.has("recall", "qa"):
        return Html("")
    published = group.published
    theirs = published.qa.get("mean") if published else None
    mark = "" if theirs is None else tag("u", style=f"left:{100 * theirs:.1f}%")
    bars = []
    for what, share, kind, extra in (
        ("recites its texts", group.recall, "stored", ""),
        (with_noun("answers about people held out", group.noun), group.answers, None, mark),
    ):
        fill = tag("i", class_=kind, style=f"width:{100 * share:.1f}%")
        bars += [tag("span", what), tag("div", fill, extra, class_="track")]
        bars += [tag("b", percent(share))]
    name = tag("h3", group.label, tag("small", _seeds(group)))
    return tag("section", name, tag("div", *bars, class_="bars"))


def _seeds(group: Group) -> str:
    count = len(group.rows)
    return group.wording + (f"; mean of {count} seeds" if count > 1 else "")


def _numbers(groups: Sequence[Group], noun: str) -> list[Html]:
    of_readouts = []
    for readout in readouts_in_order():
        if measured := measured_by(groups, readout):
            of_readout = drawn_by(readout, readout.tables, measured)
            shown = [drawn for table in of_readout if (drawn := table.about(noun).html)]
            of_readouts += [*shown, *_departures(groups, readout)] if shown else []
    return [tables.in_numbers(groups, noun), *of_readouts, tables.grid(groups, noun)]


def _departures(groups: Sequence[Group], readout: Readout) -> list[Html]:
    """How a readout departs from the paper's, for groups with people of its world."""
    rows = [row for group in groups if group.bundled for row in group.rows]
    if not (notes := readout.departures(configs_of(rows, readout.name))):
        return []
    lead = tag("strong", "Read beside the paper's numbers: ")
    sentences = " ".join(note[0].upper() + note[1:] for note in notes)
    return [tag("p", lead, sentences, class_="note")]


def _figures(text: str, notes: Sequence[Html], drawn: Sequence[Chart]) -> list[Html]:
    """How to read the charts of a section, notes, and the charts; nothing without charts."""
    if not drawn:
        return []
    marks = {mark for chart in drawn for mark in re.findall(r"(\w+)_marks", chart.svg)}
    legend = [_switch(mark, name) for mark, name in MARKS.items() if mark in marks]
    shown = [tag("fieldset", tag("legend", "Marks shown", class_="spoken"), *legend)] * bool(legend)
    return [tag("p", text), *notes, *shown, tag("div", *map(_figure, drawn), class_="figures")]


def _switch(mark: str, name: str) -> Html:
    """The meaning of a mark, with a switch; `page.css` hides the mark where it is unchecked."""
    box = Html(f'<input type="checkbox" checked class="{mark}">')
    return tag("label", box, tag("i", class_=mark), name)


def _figure(chart: Chart) -> Html:
    def cell(column: str, value: float | str | None) -> Html:
        return tag("td", _cell(value, chart.decimals.get(column, 1)))

    values = table(
        f"values of {chart.title}",
        chart.columns,
        [
            [tag("tr", tag("th", row[0], scope="row"), *map(cell, chart.columns[1:], row[1:]))]
            for row in chart.values
        ],
    )
    csv = as_csv([chart.columns, *chart.values])
    links = [
        tag(
            "a", "CSV", download=f"{chart.name}.csv", aria_label=f"CSV of {chart.title}",
            href=f"data:text/csv;charset=utf-8,{urllib.parse.quote(csv)}",
        ),
        *(
            tag(
                "a", suffix[1:].upper(), href=urllib.parse.quote(f"figures/{chart.name}{suffix}"),
                aria_label=f"{suffix[1:].upper()} of {chart.title}",
            )
            for suffix in SUFFIXES
        ),
    ]  # fmt: skip
    below = tag("div", tag("details", tag("summary", "Values"), values), *links, class_="below")
    caption = tag("figcaption", chart.title)
    drawing = tag("div", chart.svg, class_="drawn")
    drawn = caption, drawing, tag("p", chart.alt, class_="alt"), below
    return tag("figure", *drawn, class_="wide" if chart.is_wide else None)


def _cell(value: float | str | None, decimals: int) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    return f"{value:,.{decimals}f}" if isinstance(value, float) else f"{value:,}"


_BEFORE = (
    (
        "agreement",
        "Ours against the paper's",
        "Each point is a dataset. On the line both shares are equal. Models and worlds of other "
        "sizes answer more or fewer questions overall, so compare the order. The datasets whose "
        "ranks are furthest apart are in full colour.",
        "",
    ),
    (
        "stored",
        "As many bits, and fewer answers",
        "Bits of the facts that each pretrained model has stored, at least, beside the answers "
        "about people held out after finetuning. Where bits are equal and answers are not, the "
        "facts are "
        "in the model and cannot be asked for.",
        "",
    ),
    (
        "lora",
        "Ways of finetuning: the ranks of LoRA",
        "Answers about people held out. Rows: the rank of the change to queries and values. "
        "Columns: the rank of the change to the embedding. All: these weights themselves are "
        "trained.",
        "In the paper's last cell, every weight of the model is trained (Fig. 2a, 2b and 11).",
    ),
    (
        "series",
        "More questions, or more people",
        "Answers about people held out, for models that differ in the share of questions in "
        "pretraining, in the number of people and of windows read, or in how many people's "
        "questions are trained.",
        "The paper's share of questions: Fig. 10.",
    ),
)
_AFTER = (
    (
        "losses",
        "Pretraining",
        "Mean next-token loss over the whole text, on the training data. Long curves are sampled; "
        "metrics.jsonl in the folder of the stage has every point.",
        "",
    ),
)


def sections_of(bundled: bool, noun: str = PERSON) -> list[tuple[str, str, str]]:
    """Name, title and text of each section of charts: of the readouts, between the others.

    Args:
      bundled: whether the texts say what the paper found.
      noun: what the worlds of the page are about.
    """
    of_readouts = [
        (r.name, r.title or r.name, r.paragraph, r.in_the_paper) for r in readouts_in_order()
    ]
    return [
        (
            name,
            with_noun(title, noun),
            with_noun(f"{text} {in_the_paper}".strip() if bundled else text, noun),
        )
        for name, title, text, in_the_paper in (*_BEFORE, *of_readouts, *_AFTER)
    ]


def _files(runs: Sequence[pathlib.Path], out: pathlib.Path, groups: Sequence[Group]) -> Html:
    rows = as_csv(tables.all_rows(groups))
    href = f"data:text/csv;charset=utf-8,{urllib.parse.quote(rows)}"
    links = [tag("a", "Every row as CSV", download="rows.csv", href=href)]
    for path in (run / name for run in runs for name in ("results.json", "config.json")):
        beside = pathlib.Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()
        links += [tag("a", beside, href=urllib.parse.quote(beside))] * path.exists()
    text = "CSV is inside this page; SVG, PNG, PDF and JSON are files next to it."
    return join([tag("p", text), tag("ul", *(tag("li", link) for link in links))])
