"""The tables of the page: a group of rows a section, an attribute a column."""

from collections.abc import Sequence

from kstore_jax.report import paper
from kstore_jax.report.groups import Group
from kstore_jax.report.markup import Html, join, tag
from kstore_jax.world.people import ATTRIBUTES

_COLUMNS = ("mean", *ATTRIBUTES)


def in_numbers(groups: Sequence[Group]) -> Html:
    """Recall and answers of each group, with the paper's numbers."""
    heads = ["exposures", "recited", "answers, trained on", "answers, held out: mean"]
    bodies = [_of_group(group) for group in groups]
    theirs = tag("tr", tag("th", "the paper", colspan=11, scope="rowgroup"), class_="dataset")
    guess = _cells("majority guess", "guess", _NOT_LEARNED, paper.baseline().qa)
    bodies.append([theirs, guess])
    return join(
        [
            tag("p", _COLUMNS_NOTE, class_="note"),
            _by_attribute("Answers", heads, bodies),
            tag("p", _PAPER_NOTE, class_="note"),
        ]
    )


def table(name: str, heads: Sequence[str], bodies: Sequence[Sequence[Html]]) -> Html:
    """A table that scrolls by itself and sorts by every column except the first; sorting keeps the
    rows of a body together."""
    head = tag("thead", tag("tr", *(tag("th", each, scope="col") for each in heads)))
    parts = (head, *(tag("tbody", *rows) for rows in bodies))
    inside = tag("table", *parts, class_="sortable", aria_label=name)
    return tag("div", inside, class_="scroll", role="group", tabindex=0, aria_label=name)


def _by_attribute(name: str, heads: Sequence[str], bodies: Sequence[Sequence[Html]]) -> Html:
    """A table whose last columns are the attributes, one row a name."""
    columns = ["", *heads, *(attribute.replace("_", " ") for attribute in ATTRIBUTES)]
    return table(name, columns, bodies)


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


def _title(group: Group, columns: int) -> Html:
    named = tag("span", group.label, " ", tag("small", group.wording))
    return tag("tr", tag("th", named, colspan=columns, scope="rowgroup"), class_="dataset")


def _of_group(group: Group) -> list[Html]:
    rows = [_title(group, 11)]
    learned = _learned(*(group.mean(name) for name in _LEARNED))
    many = len(group.rows) > 1
    name = f"this run, mean of {len(group.rows)}" if many else "this run"
    rows.append(_cells(name, "ours", learned, group.means("qa")))
    for row in group.rows if many else ():
        own = _learned(*(row[name] for name in _LEARNED))
        rows.append(_cells(f"seed {row['seed']}", "seed", own, row["qa"]))
    rows.append(_cells("majority guess", "guess", _NOT_LEARNED, group.means("qa_baseline")))
    if (published := group.published) and published.qa:
        often = paper.EXPOSURES if group.setting == paper.THE_16 else None
        learned = _learned(often, None, None)
        rows.append(_cells("the paper", "paper", learned, published.qa))
    return rows


_LEARNED = ("exposures", "bio_recall", "qa_train")
_NOT_LEARNED = ("–",) * len(_LEARNED)


def _learned(exposures: float | None, *shares: float | None) -> list[str]:
    often = "–" if exposures is None else f"{exposures:.0f}"
    return [often, *map(_in_percent, shares)]


def _in_percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _cells(name: str, kind: str, before: Sequence[str], shares: dict) -> Html:
    """A row: text cells, then a mean and a share for each attribute."""
    cells = [tag("td", text) for text in before]
    cells += [
        tag("td", _in_percent(shares.get(column)), class_="main" if column == "mean" else "each")
        for column in _COLUMNS
    ]
    return tag("tr", tag("th", name, scope="row"), *cells, class_=kind)


def first_tokens(groups: Sequence[Group]) -> Html:
    """First tokens of answers; the paper prints those about the trained half."""
    bodies = []
    for group in groups:
        guess = group.means("q_probe", "baseline")["first"]
        guess["mean"] = sum(guess.values()) / len(guess)
        bodies.append(
            [
                _title(group, 8),
                _cells("trained on", "each", (), group.means("qa_first", "train")),
                _cells("held out", "ours", (), group.means("qa_first", "test")),
                _cells("majority guess", "guess", (), guess),
            ]
        )
        published = group.published
        if published and published.qa_train_first is not None:
            theirs = {"mean": published.qa_train_first}
            bodies[-1].append(_cells("the paper, trained on", "paper", (), theirs))
    return _part("First tokens of the answers", _FIRST_NOTE, ["mean"], bodies)


def _part(title: str, note: str, heads: Sequence[str], bodies: Sequence[Sequence[Html]]) -> Html:
    """A table by attribute with heading and note; nothing without bodies."""
    if not bodies:
        return Html("")
    return join(
        [tag("h3", title), tag("p", note, class_="note"), _by_attribute(title, heads, bodies)]
    )


_FIRST_NOTE = (
    "Accuracy in %. The first token of a birth date is the month, and many universities begin with "
    "the same word, so the majority guess is higher than above. The paper prints means of the "
    "trained half (Fig. 2a and 11; here for LoRA of rank 8, and 128 for the embedding)."
)


def by_beam(groups: Sequence[Group]) -> Html:
    """Answers by beam search and greedy ones; nothing without beam search."""
    bodies = [
        [
            _title(group, 8),
            _cells("greedy", "each", (), group.means("qa")),
            _cells("beam search", "ours", (), group.means("qa_beam")),
        ]
        for group in groups
        if all(row.get("qa_beam") for row in group.rows)
    ]
    note = "Exact match in %, about people held out. The paper decodes with a beam of 4."
    return _part("Answers by beam search", note, ["mean"], bodies)


def grid(groups: Sequence[Group]) -> Html:
    """The rows of finetuning grids and the chosen ones; nothing without a grid."""
    parts = []
    for group in groups:
        for row in group.rows:
            if not (tried := row.get("qa_grid")):
                continue
            names = [name for name in tried[0] if name not in ("validation", "chosen")]
            heads = [*(name.replace("_", " ") for name in names), "people held back", "chosen"]
            lines = [
                tag(
                    "tr",
                    tag("th", str(way[names[0]]), scope="row"),
                    *(tag("td", str(way[name])) for name in names[1:]),
                    tag("td", _in_percent(way["validation"]), class_="main"),
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


def by_stated(groups: Sequence[Group]) -> Html:
    """P-probing of couples by whether the other of the pair was read before (Figs. 6 and 15)."""
    bodies = []
    for group in groups:
        if not all("by_stated" in row["p_probe"] for row in group.rows):
            continue
        bodies.append([_title(group, 8)])
        for kind, name in (("before its other half", "each"), ("after it", "ours")):
            shares = {
                attribute: _share_stated(group, attribute, pair, kind == "after it")
                for pair in zip(ATTRIBUTES[::2], ATTRIBUTES[1::2], strict=True)
                for attribute in pair
            }
            measured = [share for share in shares.values() if share is not None]
            shares["mean"] = sum(measured) / len(measured)
            bodies[-1].append(_cells(kind, name, (), shares))
    note = (
        "First tokens in %, over all places before the fact is stated: birth date and city, "
        "university and major, company and its city are adjacent in these texts, in this order."
    )
    title = "P-probing before and after the other half of a pair was read"
    return _part(title, note, ["mean"], bodies)


def _share_stated(group: Group, attribute: str, pair: Sequence[str], after: bool) -> float | None:
    """The share of right readings with or without the pair's other half before them, over seeds."""
    (other,) = set(pair) - {attribute}
    cells = [
        cell
        for row in group.rows
        for cell in row["p_probe"]["by_stated"]["first"][attribute]
        if (other in cell["stated"]) == after
    ]
    count = sum(cell["readings"] for cell in cells)
    return sum(cell["right"] * cell["readings"] for cell in cells) / count if count else None


def masked_recall(groups: Sequence[Group]) -> Html:
    """How bidirectional models predict hidden values; nothing without such models."""
    lines = {"name": "names hidden, too", "value": "all words of the value hidden"}
    lines["values"] = "all words of all values hidden"
    bodies = [
        [
            _title(group, 8),
            _cells("one word hidden at a time", "each", (), group.means("bio_recall_by_attribute")),
            *(
                _cells(line, "each", (), group.means("bio_recall_hidden", hidden))
                for hidden, line in lines.items()
            ),
        ]
        for group in groups
        if all(row.get("bio_recall_hidden") for row in group.rows)
    ]
    return _part("Masked values in biographies", _MASKED_NOTE, ["mean"], bodies)


_MASKED_NOTE = (
    "Values predicted whole, in %, in the biographies that pretraining read. With all values "
    "hidden, only the name is left to predict them from, as in a question. In the paper (Part 3.1, "
    "section 7), BERT predicts masked words from the words beside them. It ties them to the name "
    "only where those words do not determine them: the parts of a birth date, majors of one word. "
    "So its BERT answers birth dates and majors in part, and the other attributes hardly more "
    "often than a guess."
)


def reworded(groups: Sequence[Group]) -> Html:
    """Answers in untrained wordings; nothing where no row has them."""
    bodies = []
    for group in groups:
        if not (wordings := group.reworded):
            continue
        means = [wording["mean"] for wording in wordings]
        spread = " to ".join(map(_in_percent, (min(means), max(means))))
        mean = {name: sum(w[name] for w in wordings) / len(wordings) for name in _COLUMNS}
        bodies.append(
            [
                _title(group, 9),
                _cells("the trained wording", "each", ["–"], group.means("qa")),
                _cells(f"mean of {len(wordings)} never trained", "ours", [spread], mean),
            ]
        )
    title = "Questions in wordings never trained"
    return _part(title, _REWORDED_NOTE, ["from wording to wording", "mean"], bodies)


_REWORDED_NOTE = (
    "Accuracy in %, exact match about people held out. Finetuning trains one wording; here the "
    "same model answers others. Where it answers fewer, what it learned depends in part on the "
    "words of the question. From wording to wording: the lowest and the highest of their means."
)


def all_rows(groups: Sequence[Group]) -> list[list]:
    """Every row of the results as lines of a CSV file, heads first; accuracies in %."""
    heads = ["group", "dataset", "seed", "people", *_LEARNED, *(f"qa {c}" for c in _COLUMNS)]
    heads += [f"q_probe first {name}" for name in ATTRIBUTES]
    lines = [
        [
            group.label,
            row["dataset"],
            row["seed"],
            row["people"],
            row["exposures"],
            *(round(100 * row[name], 3) for name in _LEARNED[1:]),
            *(round(100 * row["qa"][name], 3) for name in _COLUMNS),
            *(round(100 * row["q_probe"]["first"][name][0], 3) for name in ATTRIBUTES),
        ]
        for group in groups
        for row in group.rows
    ]
    return [heads, *lines]
