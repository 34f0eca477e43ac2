"""The tables of the page: a group of rows a section, an attribute a column."""

from collections.abc import Sequence

from kstore_jax.report import paper
from kstore_jax.report.groups import Group
from kstore_jax.report.markup import Html, join, tag
from kstore_jax.world.people import ATTRIBUTES

_COLUMNS = ("mean", *ATTRIBUTES)


def in_numbers(found: Sequence[Group]) -> Html:
    """What was learned and answered, the paper's numbers below ours."""
    heads = ["exposures", "recited", "answers, trained on", "answers, held out: mean"]
    bodies = [_of_group(group) for group in found]
    theirs = tag("tr", tag("th", "the paper", colspan=11, scope="rowgroup"), class_="dataset")
    guess = _cells("majority guess", "guess", _NOT_LEARNED, paper.baseline().qa)
    bodies.append([theirs, guess])
    return join(
        [
            tag("p", _COLUMNS_TOLD, class_="note"),
            _by_attribute("Answers", heads, bodies),
            tag("p", _PAPER_TOLD, class_="note"),
        ]
    )


def table(name: str, heads: Sequence[str], bodies: Sequence[Sequence[Html]]) -> Html:
    """A table that scrolls in itself, sorted by any column but the first; a body stays together."""
    head = tag("thead", tag("tr", *(tag("th", each, scope="col") for each in heads)))
    parts = (head, *(tag("tbody", *rows) for rows in bodies))
    inside = tag("table", *parts, class_="sortable", aria_label=name)
    return tag("div", inside, class_="scroll", role="group", tabindex=0, aria_label=name)


def _by_attribute(name: str, heads: Sequence[str], bodies: Sequence[Sequence[Html]]) -> Html:
    """A table whose last columns are the attributes, one row a name."""
    columns = ["", *heads, *(attribute.replace("_", " ") for attribute in ATTRIBUTES)]
    return table(name, columns, bodies)


_COLUMNS_TOLD = (
    "Accuracy in %. Exposures: how often each person is read about in pretraining. Recited: "
    "attribute values predicted whole inside the biographies. Answers: exact match, about the "
    "people whose questions were finetuned on (half of them, or the celebrities where there are "
    "any), and about those held out. Majority guess: always the commonest answer of the former."
)
_PAPER_TOLD = (
    f"The paper: {paper.SOURCE}, Fig. 1, 3, 7, 10, 17; {paper.SETTING}. The mean is what it "
    "prints. Of recitation it says in words only: above 99 %. Of trained answers it prints the "
    f"first tokens alone. {paper.LORA_ON_SINGLE}"
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


def _cells(name: str, kind: str, learned: Sequence[str], shares: dict) -> Html:
    """A row: what was learned, as text, then a mean and a share for each attribute."""
    cells = [tag("td", text) for text in learned]
    cells += [
        tag("td", _in_percent(shares.get(column)), class_="main" if column == "mean" else "each")
        for column in _COLUMNS
    ]
    return tag("tr", tag("th", name, scope="row"), *cells, class_=kind)


def first_tokens(found: Sequence[Group]) -> Html:
    """First tokens of answers, of which the paper prints those about the trained half."""
    bodies = []
    for group in found:
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
    return _part("First tokens of the answers", _FIRST_TOLD, ["mean"], bodies)


def _part(title: str, told: str, heads: Sequence[str], bodies: Sequence[Sequence[Html]]) -> Html:
    """A table by attribute with its heading; nothing where it has no bodies."""
    if not bodies:
        return Html("")
    note = tag("p", told, class_="note")
    return join([tag("h3", title), note, _by_attribute(title, heads, bodies)])


_FIRST_TOLD = (
    "Accuracy in %. The first token of a birth date is the month, that of many a university its "
    "first word, so the majority guess is higher than above. The paper prints means of the "
    "trained half (Fig. 2a and 11; here those of LoRA of rank 8, and 128 for the embedding)."
)


def by_beam(found: Sequence[Group]) -> Html:
    """Answers by beam search beside greedy ones; nothing where none was made."""
    bodies = [
        [
            _title(group, 8),
            _cells("greedy", "each", (), group.means("qa")),
            _cells("beam search", "ours", (), group.means("qa_beam")),
        ]
        for group in found
        if all(row.get("qa_beam") for row in group.rows)
    ]
    told = "Exact match in %, about people held out. The paper decodes with a beam of 4."
    return _part("Answers by beam search", told, ["mean"], bodies)


def grid(found: Sequence[Group]) -> Html:
    """What was finetuned, and which of it was asked; nothing where there was one way alone."""
    told = []
    for group in found:
        for row in group.rows:
            if not (tried := row.get("qa_grid")):
                continue
            names = [name for name in tried[0] if name not in ("validation", "chosen")]
            heads = [*(name.replace("_", " ") for name in names), "people held back", "asked"]
            lines = [
                tag(
                    "tr",
                    tag("th", str(way[names[0]]), scope="row"),
                    *(tag("td", str(way[name])) for name in names[1:]),
                    tag("td", _in_percent(way["validation"]), class_="main"),
                    tag("td", "asked" if way["chosen"] else "–"),
                )
                for way in tried
            ]
            title = f"{group.label}, seed {row['seed']}"
            told += [tag("h4", title), table(title, heads, [[line] for line in lines])]
    if not told:
        return Html("")
    note = (
        "Exact match in %, about people of the trained half whose questions were held back; the "
        "best way is the one that the other half is asked by."
    )
    return join([tag("h3", "Ways of finetuning"), tag("p", note, class_="note"), *told])


def by_stated(found: Sequence[Group]) -> Html:
    """P-probing of couples by whether the other of the pair was read before (Figs. 6 and 15)."""
    bodies = []
    for group in found:
        if not all("by_stated" in row["p_probe"] for row in group.rows):
            continue
        bodies.append([_title(group, 8)])
        for kind, name in (("before its other half", "each"), ("after it", "ours")):
            shares = {
                attribute: _share_stated(group, attribute, pair, kind == "after it")
                for pair in zip(ATTRIBUTES[::2], ATTRIBUTES[1::2], strict=True)
                for attribute in pair
            }
            known = [share for share in shares.values() if share is not None]
            shares["mean"] = sum(known) / len(known)
            bodies[-1].append(_cells(kind, name, (), shares))
    told = (
        "First tokens in %, over all places before the fact is stated: birth date and city, "
        "university and major, company and its city stand together in these texts, in this order."
    )
    title = "P-probing before and after the other half of a pair was read"
    return _part(title, told, ["mean"], bodies)


def _share_stated(group: Group, attribute: str, pair: Sequence[str], after: bool) -> float | None:
    """The share of right readings with or without the pair's other half before them, over seeds."""
    (other,) = set(pair) - {attribute}
    cells = [
        cell
        for row in group.rows
        for cell in row["p_probe"]["by_stated"]["first"][attribute]
        if (other in cell["stated"]) == after
    ]
    readings = sum(cell["readings"] for cell in cells)
    return sum(cell["right"] * cell["readings"] for cell in cells) / readings if readings else None


def told_from(found: Sequence[Group]) -> Html:
    """What bidirectional models tell values in biographies from; nothing where there are none."""
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
        for group in found
        if all(row.get("bio_recall_hidden") for row in group.rows)
    ]
    return _part("What masked words are told from", _TOLD_FROM, ["mean"], bodies)


_TOLD_FROM = (
    "Values told whole, in %, in the biographies that were read in pretraining. With all values "
    "hidden there is but the name to tell them from, as there is in a question. The paper's "
    "(Part 3.1, section 7): masked words are told from the words beside them, and tied to the name "
    "only where these do not tell: the parts of a birth date, majors of one word. So its BERT "
    "answers birth dates and majors in part, and the rest hardly more often than a guess."
)


def reworded(found: Sequence[Group]) -> Html:
    """Answers in wordings never trained; nothing where no row knows of them."""
    bodies = []
    for group in found:
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
    return _part(title, _REWORDED_TOLD, ["from wording to wording", "mean"], bodies)


_REWORDED_TOLD = (
    "Accuracy in %, exact match about people held out. Finetuning asks in one wording; here the "
    "same model is asked in others, and where it answers fewer, what it learned hangs in part on "
    "the words of the question. From wording to wording: the lowest and the highest of their means."
)


def all_rows(found: Sequence[Group]) -> list[list]:
    """Every row of the results, a line each under a line of heads; accuracies in %."""
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
        for group in found
        for row in group.rows
    ]
    return [heads, *lines]
