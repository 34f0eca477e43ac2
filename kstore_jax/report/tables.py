"""The tables of the page that are of no single readout."""

from collections.abc import Sequence

from kstore_jax.charts.drawing import as_label
from kstore_jax.charts.markup import Html, join, tag
from kstore_jax.charts.tables import Body, Line, Table, percent_cell, table
from kstore_jax.readouts.base import READOUTS
from kstore_jax.readouts.measured import values_at
from kstore_jax.report import paper
from kstore_jax.report.groups import RECALL, TRAINED_ANSWERS, Group

_HEADS = ("exposures", "recited", "answers, trained on")


def in_numbers(groups: Sequence[Group]) -> Html:
    """Recall and answers of each group, with the paper's numbers."""
    bodies = [Body(group.label, group.wording, _of_group(group)) for group in groups]
    compared = any(group.published and group.published.qa for group in groups)
    if compared:
        guess = Line("majority guess", paper.baseline().qa, "guess", _empty())
        bodies.append(Body("the paper", "", [guess]))
    labels = {name: label for group in groups for name, label in group.labels.items()}
    parts = [
        tag("p", _COLUMNS_NOTE, class_="note"),
        Table("Answers", "", bodies, _HEADS, labels=labels).html,
    ]
    return join([*parts, *[tag("p", _PAPER_NOTE, class_="note")] * compared])


_COLUMNS_NOTE = (
    "Accuracy in %. Exposures: how often pretraining reads about each person. Recited: attribute "
    "values predicted whole inside the biographies. Answers: exact match, about people whose "
    "questions were finetuned on (half of them, or the celebrities if there are any), and about "
    "the people held out. Majority guess: always the commonest answer about the people trained on."
)
_PAPER_NOTE = (
    f"The paper: {paper.SOURCE}, Fig. 1, 3, 7, 10, 17; {paper.SETTING}. Its means are "
    "the printed ones. It states recitation in words only: above 99 %. For trained answers it "
    f"prints first tokens only. {paper.LORA_ON_SINGLE}"
)


def _of_group(group: Group) -> list[Line]:
    many = len(group.rows) > 1
    name = f"this run, mean of {len(group.rows)}" if many else "this run"
    answers: dict = {}
    guess: dict = {}
    if group.has("qa") and (measured := group.measured("qa")):
        answers = measured.means("extraction", "test", "exact")
        guess = measured.means("extraction", "baseline")
    lines = [Line(name, answers, "ours", _learned(group.rows))]
    for row in group.rows if many else ():
        own = row["readouts"]["qa"]["extraction"]["test"]["exact"] if answers else {}
        lines.append(Line(f"seed {row['seed']}", own, "seed", _learned((row,))))
    if guess:
        lines.append(Line("majority guess", guess, "guess", _empty()))
    if (published := group.published) and published.qa:
        often = f"{paper.EXPOSURES}" if group.setting == paper.THE_16 else "–"
        lines.append(Line("the paper", published.qa, "paper", [often, "–", "–"]))
    return lines


def _empty() -> list[str]:
    return ["–"] * len(_HEADS)


def _learned(rows: tuple[dict, ...]) -> list[str]:
    """The text columns: means over rows; a dash where a readout is missing."""
    cells = [f"{sum(row['exposures'] for row in rows) / len(rows):.0f}"]
    for path in (RECALL, TRAINED_ANSWERS):
        measured = all(path[1] in row["readouts"] for row in rows)
        cells.append(percent_cell(sum(values_at(rows, path)) / len(rows) if measured else None))
    return cells


def grid(groups: Sequence[Group]) -> Html:
    """The rows of finetuning grids and the chosen ones; nothing without a grid."""
    parts = []
    for group in groups:
        for row in group.rows:
            if not (tried := row.get("finetune_grid")):
                continue
            names = [name for name in tried[0] if name not in ("validation", "chosen")]
            heads = [*(as_label(name) for name in names), "people held back", "chosen"]
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
            title = f"{group.label}, seed {row['seed']}"
            parts += [tag("h4", title), table(title, heads, [[line] for line in lines])]
    if not parts:
        return Html("")
    note = (
        "Exact match in %, about people of the trained half whose questions were held back. The "
        "best row answers the questions about the other half."
    )
    return join([tag("h3", "Ways of finetuning"), tag("p", note, class_="note"), *parts])


def all_rows(groups: Sequence[Group]) -> list[list]:
    """Every row of the results as lines of a CSV file, heads first; accuracies in %."""
    numbers = [
        {
            f"{name} {column}": share
            for name, result in row["readouts"].items()
            if name in READOUTS
            for column, share in READOUTS[name].numbers(result).items()
        }
        for group in groups
        for row in group.rows
    ]
    heads = ["group", "dataset", "seed", "people", "exposures"]
    columns = [*dict.fromkeys(column for of_row in numbers for column in of_row)]
    rows = [(group.label, row) for group in groups for row in group.rows]
    lines = [
        [
            label,
            *(row[name] for name in heads[1:]),
            *(None if (x := of_row.get(c)) is None else round(100 * x, 3) for c in columns),
        ]
        for (label, row), of_row in zip(rows, numbers, strict=True)
    ]
    return [[*heads, *columns], *lines]
