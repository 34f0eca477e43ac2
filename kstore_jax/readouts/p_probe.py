"""P-probing: where in a biography a fact is readable (Part 3.1, section 5.1)."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kstore_jax.charts.drawing import Chart, beside, in_percent
from kstore_jax.charts.heat import cell, heat_spec
from kstore_jax.charts.shares import listed
from kstore_jax.charts.tables import Body, Line, Table
from kstore_jax.config.fields import number
from kstore_jax.corpus.encode import TokenizedTexts
from kstore_jax.corpus.examples import padded_length, padded_tokens
from kstore_jax.readouts import by_stated, probe_validation
from kstore_jax.readouts.base import READOUTS, Context, write_cases
from kstore_jax.readouts.measured import Measured, labels_of
from kstore_jax.readouts.probe_config import Probe
from kstore_jax.readouts.probe_data import ProbeExamples, biography_examples, person_labels
from kstore_jax.readouts.probe_training import (
    ProbeReadout,
    at_name,
    probe_tasks,
    probe_work,
    train_probe,
)
from kstore_jax.readouts.shares import Measurements, Share


@dataclasses.dataclass(frozen=True)
class PProbeConfig(Probe):
    """P-probing (Part 3.1, section 5.1)."""

    batch_size: int = number(50, 1)
    """Biographies a step."""
    embedding_rank: int = number(2, 1)
    """Rank of the embedding update."""
    biographies_per_person: int = number(0, 0)
    """Biographies of each person to read; 0: all."""


@READOUTS.register
class PProbe(ProbeReadout):
    """Trains a probe just before the first mention of each attribute, and scores it."""

    name = "p_probe"
    version = 3
    Config = PProbeConfig
    title = "P-probing: where in the text is the fact readable?"
    paragraph = (
        "The frozen model reads a biography. Just before each attribute is stated, linear probes "
        "on its last layer predict the attributes still to come. In the first row the model has "
        "read little more than the name: high numbers there mean that the fact is stored with the "
        "name. Numbers that are high only further down mean that it is tied to the text before it. "
        "Ceiling: the share of people whose value, or first token, occurs among those trained on."
    )

    def run(self, context: Context, config: PProbeConfig, folder: pathlib.Path) -> dict:
        """Returns the scores of `train_probe`. Where the biographies state attributes in couples
        also `by_stated`: for each kind of task and attribute a list of cells, one for each set of
        attributes `stated` before, with the share `right` of its number of `readings` (Figs. 6,
        15); and `pairs`, the attributes that are coupled.
        """
        examples, people, num_classes = biography_readings(context, config)
        couples = context.variant.order == "couples"
        rows = context.corpus.texts.take(_rows_read(context, config))
        starts = rows.value_spans[:, None, :, 0]
        stated = {"stated": starts < examples.positions[:, :, None]} if couples else {}
        scores, cases = train_probe(
            context, self.name, folder, config, "layer", examples, people, num_classes, stated
        )
        if couples:
            cases["pairs"] = np.array(context.table.language.schema.pairs)
            scores |= by_stated.scores(cases)
        write_cases(folder, cases)
        return scores

    def shares(self, result: dict) -> list[Share]:
        return [*super().shares(result), *by_stated.shares(result)]

    def measurements(self, cases: Mapping[str, np.ndarray]) -> list[Measurements]:
        more = by_stated.measurements(cases) if "stated" in cases else []
        return [*super().measurements(cases), *more]

    def intervals(self, cases: Mapping[str, np.ndarray]) -> dict:
        more = by_stated.cell_intervals(cases) if "stated" in cases else {}
        return super().intervals(cases) | more

    def departures(self, configs: Sequence[Mapping[str, Any]]) -> list[str]:
        notes = super().departures(configs)
        if most := sorted({config["biographies_per_person"] for config in configs} - {0}):
            read = " or ".join(map(str, most))
            notes.append(f"it reads at most {read} of the biographies of each person.")
        return notes

    def tables(self, groups: Sequence[Measured]) -> list[Table]:
        """How it was trained; whole values; and first tokens by whether the other half of a pair
        was read before (Figs. 6 and 15)."""
        training = probe_validation.table("P-probing", groups)
        of_whole = [
            Body(group.label, group.wording, _whole_lines(group))
            for group in groups
            if group.has("whole")
        ]
        labels = labels_of(groups)
        groups = [group for group in groups if group.has("by_stated")]
        bodies = [Body(group.label, group.wording, by_stated.pair_lines(group)) for group in groups]
        pairs = dict.fromkeys(
            " and ".join(map(group.label_of, pair))
            for group in groups
            for pair in group.results[0]["pairs"]
        )
        note = (
            "First tokens in %, over all places before the fact is stated: "
            f"{', '.join(pairs)} are adjacent in these texts, in this order."
        )
        title = "P-probing before and after the other half of a pair was read"
        return [
            *training,
            Table("P-probing of whole values", _WHOLE_NOTE, of_whole, labels=labels),
            Table(title, note, bodies, labels=labels),
        ]

    def charts(self, groups: Sequence[Measured]) -> list[Chart]:
        """First tokens: ours, and below them the paper's where it has the dataset."""
        groups = probe_validation.marked(groups)
        pairs = [groups[i : i + 2] for i in range(0, len(groups), 2)]
        return [_chart(i + 1, pair) for i, pair in enumerate(pairs)]

    def work(self, context: Context, texts: Any, config: PProbeConfig, scale: float) -> float:
        entries = context.variant.biographies_per_person
        held_out = scale * len(context.people) * (config.biographies_per_person or entries) / 2
        length = length_read(context, texts)
        return probe_work(config, context.table.language, length, held_out)


def length_read(context: Context, texts: TokenizedTexts) -> int:
    """The tokens of each row that P-probing reads of these biographies, padding included."""
    if context.shape.direction == "causal":
        return padded_length(1 + texts.value_spans[:, :, 0])
    return padded_tokens(texts, context.vocabulary)[0].shape[1]


def biography_readings(
    context: Context, config: PProbeConfig
) -> tuple[ProbeExamples, np.ndarray, tuple[int, ...]]:
    """The biographies that P-probing reads, the number of each one's person, and the number of
    classes of each task."""
    tasks, rows = probe_tasks(config, context.table.language), _rows_read(context, config)
    labels, num_classes = person_labels(context.table, context.people, tasks)
    people = context.corpus.people[rows]
    attributes = [context.attributes.index(name) for name, _ in tasks]
    texts = context.corpus.texts.take(rows)
    examples = biography_examples(texts, labels[people], context.vocabulary, attributes)
    if context.shape.direction == "causal":
        examples = examples.until_last_read()
    return examples, people, num_classes


def _rows_read(context: Context, config: PProbeConfig) -> np.ndarray:
    """The rows of the corpus with the biographies that are read."""
    count = config.biographies_per_person or context.variant.biographies_per_person
    return np.flatnonzero(context.corpus.entries < count)


_WHOLE_NOTE = (
    "Accuracy in %, just before the first attribute. A linear head predicts a value of several "
    "tokens from one hidden state. Dates have too many values."
)


def _whole_lines(group: Measured) -> list[Line]:
    ours = at_name(group.means("whole"))
    spreads = {name: group.spread("whole", name, 0) for name in ours}
    ends = {name: (spread.low, spread.high) for name, spread in spreads.items() if spread}
    lines = [
        Line("this run", ours, "ours", ends=ends),
        Line("majority guess", group.means("baseline")["whole"], "guess"),
    ]
    if theirs := group.published.get("p_whole"):
        lines.append(Line("the paper", at_name(theirs), "paper"))
    return lines


@dataclasses.dataclass(frozen=True)
class _Map:
    """One heat map: cells by attribute and position, and levels below them, by attribute."""

    group: Measured
    whose: str
    cells: Mapping[str, Sequence[float | None]]
    levels: Mapping[str, Mapping]

    @property
    def title(self) -> str:
        return f"{self.group.label}: {self.whose}"

    @property
    def lines(self) -> dict[str, Mapping[str, float | None]]:
        """The shares of each line by attribute."""
        positions = range(max(map(len, self.cells.values())))
        read = {_ordinal(p + 1): {a: x[p] for a, x in self.cells.items()} for p in positions}
        return {**read, **self.levels}

    def spec(self, labelled: bool) -> dict:
        """The map, with the spread of our shares."""
        values = []
        for p, (line, shares) in enumerate(self.lines.items()):
            where = line if line in self.levels else f"before the {line} attribute"
            for a in self.cells:
                spread = None
                if self.whose == _OURS and line not in self.levels:
                    spread = self.group.spread("first", a, p)
                ends = (spread.low, spread.high) if spread else None
                column = self.group.label_of(a)
                values.append(cell(line, column, shares.get(a), where, ends))
        lines = [*self.lines]
        lines.insert(len(lines) - len(self.levels), " ")
        return heat_spec(
            values, "before the", lines, "", [*map(self.group.label_of, self.cells)], labelled
        )

    @property
    def alt(self) -> str:
        shares = listed(at_name(self.cells), {a: self.group.label_of(a) for a in self.cells})
        return f"{self.title}, before the 1st attribute: {shares}."


_OURS = "this run"


def _maps(group: Measured) -> tuple[_Map, _Map | None]:
    """First tokens of this run, and the paper's where it has some."""
    levels = {"majority guess": group.means("baseline")["first"]}
    if group.has("ceiling"):
        levels["ceiling"] = group.means("ceiling")["first"]
    theirs = None
    if cells := group.published.get("p_first"):
        theirs = _Map(group, "the paper", cells, {"majority guess": group.published["q_guess"]})
    return _Map(group, _OURS, group.means("first"), levels), theirs


def _titled(one: _Map | None, first: _Map | None) -> tuple[str, dict | None]:
    """The title and the drawing of a map, the first of whose row is `first`."""
    if one is None:
        return "", None
    same = first is not None and one is not first and [*one.lines] == [*first.lines]
    return one.title, one.spec(labelled=not same)


def _chart(number: int, groups: Sequence[Measured]) -> Chart:
    """The maps of groups side by side."""
    ours, theirs = zip(*map(_maps, groups), strict=True)
    maps = [each for each in (*ours, *theirs) if each]
    attributes = {a: each.group.label_of(a) for each in maps for a in each.cells}
    rows = [
        (each.group.label, each.whose, line, *(in_percent(shares.get(a)) for a in attributes))
        for each in maps
        for line, shares in each.lines.items()
    ]
    return Chart(
        name=f"p-probing-{number}",
        title=f"{' and '.join(group.label for group in groups)}: P-probing",
        alt=f"P-probing, first token. {' '.join(each.alt for each in maps)}",
        spec=beside(
            [[_titled(each, row[0]) for each in row] for row in (ours, theirs) if any(row)]
        ),
        columns=("dataset", "whose", "before the", *attributes.values()),
        rows=rows,
        note="Accuracy in % of the first token, read just before an attribute is stated.",
    )


def _ordinal(number: int) -> str:
    teen = number % 100 in (11, 12, 13)
    return str(number) + ("th" if teen else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th"))
