"""The tables of the page that are of no single readout."""

from collections.abc import Sequence

from kstore_jax.charts.drawing import as_label
from kstore_jax.charts.markup import Html, join, tag
from kstore_jax.charts.nouns import with_noun
from kstore_jax.charts.tables import Body, Line, Table, percent_and_ends, percent_cell, table
from kstore_jax.readouts.measured import BOOTSTRAP, SEEDS, Spread, find
from kstore_jax.report import paper
from kstore_jax.report.groups import ANSWERS, HELD_BACK_ANSWERS, RECALL, TRAINED_ANSWERS, Group

_Columns = dict[tuple[str, ...], str]
"""The columns of the first table before the answers by attribute: path in the readouts -> head."""


def in_numbers(groups: Sequence[Group], noun: str) -> Html:
    """Recall and answers of each group, with the paper's numbers; notes about a `noun`."""
    columns: _Columns = {RECALL: "recited", TRAINED_ANSWERS: "answers, trained on"}
    if any(_has(group, HELD_BACK_ANSWERS) for group in groups):
        columns[HELD_BACK_ANSWERS] = "answers, held back"
    bodies = [Body(group.label, group.wording, _of_group(group, columns)) for group in groups]
    compared = any(group.published and group.published.qa for group in groups)
    if compared:
        guess = Line("majority guess", paper.baseline().qa, "guess", _empty(columns))
        bodies.append(Body("the paper", "", [guess]))
    labels = {name: label for group in groups for name, label in group.labels.items()}
    heads = ["exposures", *columns.values()]
    notes = [
        _COLUMNS_NOTE + _HELD_BACK_NOTE * (HELD_BACK_ANSWERS in columns),
        spread_note([group.spread(ANSWERS) for group in groups]),
    ]
    return join(
        [
            *(tag("p", with_noun(note, noun), class_="note") for note in notes if note),
            Table("Answers", "", bodies, heads, labels=labels).html,
            *[tag("p", _PAPER_NOTE, class_="note")] * compared,
        ]
    )


def spread_note(spreads: Sequence[Spread | None]) -> str:
    """What the brackets behind shares are, and how many people and cases these shares are of."""
    notes = {BOOTSTRAP: [], SEEDS: []}
    for spread in spreads:
        if spread:
            notes[spread.kind].append(f"{spread.people:,} people and {spread.cases:,} questions")
    counts = " or ".join(dict.fromkeys(notes[BOOTSTRAP]))
    of_people = f"95 % intervals of a bootstrap over people ({counts} held out)"
    parts = [of_people] * bool(counts)
    parts += ["of several seeds, the lowest and the highest"] * bool(notes[SEEDS])
    return f"In brackets: {'; '.join(parts)}." if parts else ""


_COLUMNS_NOTE = (
    "Accuracy in %. Exposures: how often pretraining reads about each person. Recited: attribute "
    "values predicted whole inside the biographies. Answers: exact match, about people whose "
    "questions were trained (half of them, or the celebrities if there are any), and about the "
    "people held out. Majority guess: always the commonest answer about the people trained on."
)
_HELD_BACK_NOTE = (
    " Held back: people of the trained half whose questions chose a row of the finetuning grid, "
    "and were not trained."
)
_PAPER_NOTE = (
    f"The paper: {paper.SOURCE}, Fig. 1, 3, 7, 10, 17; {paper.SETTING}. Its means are "
    "the printed ones. It states recitation in words only: above 99 %. For trained answers it "
    f"prints first tokens only. {paper.LORA_ON_SINGLE}"
)


def _of_group(group: Group, columns: _Columns) -> list[Line]:
    many = len(group.rows) > 1
    name = f"this run, mean of {len(group.rows)}" if many else "this run"
    answered = group.measured("qa") if group.has("qa") else None
    before = [f"{sum(row.exposures for row in group.rows) / len(group.rows):.0f}"]
    before += [_cell(group, path) for path in columns]
    if not answered:
        return [Line(name, {}, "ours", before)]
    lines = [answered.line(name, *ANSWERS[1:-1], kind="ours", before=before)]
    for row in group.rows if many else ():
        shares = [find(row.readouts, path) for path in columns]
        cells = [f"{row.exposures:.0f}", *map(percent_cell, shares)]
        lines.append(Line(f"seed {row.seed}", find(row.readouts, ANSWERS[:-1]), "seed", cells))
    guess = answered.means("extraction", "baseline")
    lines.append(Line("majority guess", guess, "guess", _empty(columns)))
    if (published := group.published) and published.qa:
        often = f"{paper.EXPOSURES}" if group.setting == paper.THE_16 else "–"
        lines.append(Line("the paper", published.qa, "paper", [often, *_empty(columns)[1:]]))
    return lines


def _empty(columns: _Columns) -> list[str]:
    return ["–"] * (1 + len(columns))


def _has(group: Group, path: tuple[str, ...]) -> bool:
    """Whether every row has a share at a path of its readouts."""
    return all(find(row.readouts, path) is not None for row in group.rows)


def _cell(group: Group, path: tuple[str, ...]) -> Html:
    """The mean over the seeds and its spread; a dash where a row has no such share."""
    share, spread = group.share(path) if _has(group, path) else None, group.spread(path)
    return join(percent_and_ends(share, (spread.low, spread.high) if spread else None))


def grid(groups: Sequence[Group], noun: str) -> Html:
    """The rows of finetuning grids and the chosen ones, in words about a `noun`; nothing without a
    grid."""
    parts = []
    for group in groups:
        for row in group.rows:
            if not (tried := row.finetune_grid):
                continue
            names = [name for name in tried[0] if name not in ("validation", "chosen")]
            heads = [
                *(as_label(name) for name in names),
                with_noun("people held back", noun),
                "chosen",
            ]
            lines = [
                tag(
                    "tr",
                    tag("th", str(way[names[0]]), scope="row"),
                    *(tag("td", str(way[name])) for name in names[1:]),
                    tag("td", percent_cell(way["validation"]), class_="main"),
                    tag("td", "chosen" if way["chosen"] else "–"),
                )
                for way in tried
            ]
            title = f"{group.label}, seed {row.seed}"
            parts += [tag("h4", title), table(title, heads, [[line] for line in lines])]
    if not parts:
        return Html("")
    note = (
        "Exact match in %, about people of the trained half whose questions were held back. The "
        "best row answers the questions about the other half."
    )
    lead = tag("p", with_noun(note, noun), class_="note")
    return join([tag("h3", "Ways of finetuning"), lead, *parts])


def all_rows(groups: Sequence[Group]) -> list[list]:
    """The results of all rows in long form (`Row.lines`) as lines of a CSV file, heads first."""
    lines = []
    for group in groups:
        for row in group.rows:
            own = {"group": group.label, "dataset": row.dataset, "seed": row.seed}
            own |= {"people": row.people, "steps": row.steps, "exposures": row.exposures}
            lines += [own | line for line in row.lines()]
    heads = [*dict.fromkeys(head for line in lines for head in line)]
    return [heads, *([line.get(head) for head in heads] for line in lines)]
