"""Tables as HTML: rows in bodies that belong together, an attribute a column."""

import dataclasses
from collections.abc import Mapping, Sequence

from kstore_jax.charts.drawing import as_label
from kstore_jax.charts.markup import Html, join, tag
from kstore_jax.charts.nouns import with_noun


def table(name: str, heads: Sequence[str], bodies: Sequence[Sequence[Html]]) -> Html:
    """A table that scrolls by itself and sorts by every column except the first; sorting keeps the
    rows of a body together."""
    head = tag("thead", tag("tr", *(tag("th", each, scope="col") for each in heads)))
    parts = (head, *(tag("tbody", *rows) for rows in bodies))
    inside = tag("table", *parts, class_="sortable", aria_label=name)
    return tag("div", inside, class_="scroll", role="group", tabindex=0, aria_label=name)


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
      name: its first cell.
      shares: shares from 0 to 1 by column; a missing one, or None, is an empty cell.
      kind: how it is drawn: `ours`, `seed`, `guess` or `paper`; empty: plainly.
      before: text cells between the name and the shares.
      ends: the ends of the interval of a share, by column.
    """

    name: str
    shares: Mapping[str, float | None]
    kind: str = ""
    before: Sequence[str] = ()
    ends: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Body:
    """Rows that belong together, under a title."""

    title: str
    small: str
    lines: Sequence[Line]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of shares in %, with heading and note.

    Attributes:
      title, note: above it; a table without note has no heading.
      heads: titles of the text columns, after the first.
      bodies: its rows.
      labels: titles of columns by name; without one, the name as words.
    """

    title: str
    note: str
    bodies: Sequence[Body]
    heads: Sequence[str] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def about(self, noun: str) -> "Table":
        """The same table about a `noun` where title and note say person or people."""
        title, note = with_noun(self.title, noun), with_noun(self.note, noun)
        return dataclasses.replace(self, title=title, note=note)

    @property
    def html(self) -> Html:
        """The table for the page; empty without bodies."""
        if not self.bodies:
            return Html("")
        lines = [line for body in self.bodies for line in body.lines]
        columns = [*dict.fromkeys(name for line in lines for name in line.shares)]
        width = 1 + len(self.heads) + len(columns)
        bodies = [
            [_title(body, width), *(_row(line, columns) for line in body.lines)]
            for body in self.bodies
        ]
        inside = table(
            self.title,
            ["", *self.heads, *(self.labels.get(c, as_label(c)) for c in columns)],
            bodies,
        )
        if not self.note:
            return inside
        return join([tag("h3", self.title), tag("p", self.note, class_="note"), inside])


def _title(body: Body, columns: int) -> Html:
    named = tag("span", body.title, *([" ", tag("small", body.small)] if body.small else []))
    return tag("tr", tag("th", named, colspan=columns, scope="rowgroup"), class_="dataset")


def _row(line: Line, columns: Sequence[str]) -> Html:
    cells = [tag("td", text) for text in line.before]
    cells += [
        tag(
            "td",
            *percent_and_ends(line.shares.get(name), line.ends.get(name)),
            class_="main" if name == "mean" else None,
        )
        for name in columns
    ]
    return tag("tr", tag("th", line.name, scope="row"), *cells, class_=line.kind or None)


def percent_and_ends(share: float | None, ends: tuple[float, float] | None) -> list[str | Html]:
    """The parts of a cell: a share, and the ends of its interval where there is one."""
    if share is None or ends is None:
        return [percent_cell(share)]
    return [f"{percent_cell(share)} ", tag("small", f"({in_words(*ends)})")]


def in_words(low: float, high: float) -> str:
    """An interval of shares in %, `88.9 to 94.2`."""
    return f"{percent_cell(low)} to {percent_cell(high)}"


def percent_cell(share: float | None) -> str:
    """A share in % with one decimal, as in a cell; a dash for None."""
    return "–" if share is None else f"{100 * share:.1f}"
