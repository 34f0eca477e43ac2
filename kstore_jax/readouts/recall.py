"""Recall: the share of values in the biographies that a pretrained model predicts."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from kstore_jax.charts.tables import Body, Table
from kstore_jax.corpus.encode import TokenizedTexts
from kstore_jax.corpus.examples import SpanExamples, span_examples
from kstore_jax.intervals import intervals_by_column
from kstore_jax.readouts import spans
from kstore_jax.readouts.base import (
    READ_COST,
    READOUTS,
    Context,
    Readout,
    ReadoutConfig,
    write_cases,
)
from kstore_jax.readouts.measured import Measured, labels_of
from kstore_jax.readouts.shares import Measurements, measurements_of
from kstore_jax.tasks.base import accuracy_by_column

_MASKED_NOTE = (
    "Values predicted whole, in %, in the biographies that pretraining read. With all values "
    "hidden, only the name is left to predict them from, as in a question."
)
_MASKED_PAPER_NOTE = (
    " In the paper (Part 3.1, section 7), BERT predicts masked words from the words beside them. "
    "It ties them to the name only where those words do not determine them: the parts of a birth "
    "date, majors of one word. So its BERT answers birth dates and majors in part, and the other "
    "attributes hardly more often than a guess."
)


@dataclasses.dataclass(frozen=True)
class RecallConfig(ReadoutConfig):
    """Recitation: values predicted inside the biographies."""


_HIDDEN = {
    "name": "names hidden, too",
    "value": "all words of the value hidden",
    "values": "all words of all values hidden",
}
_HIDDEN_TEXTS = 1000
"""At most so many biographies are read with more of their text hidden."""


@READOUTS.register
class Recall(Readout):
    """The share of values in the biographies that a pretrained model predicts."""

    name = "recall"
    version = 2
    Config = RecallConfig

    def run(self, context: Context, config: RecallConfig, folder: pathlib.Path) -> dict:
        return recall(context, folder)

    def measurements(self, cases: Mapping[str, np.ndarray]) -> list[Measurements]:
        hidden = {name: cases[name] for name in cases if name.startswith("hidden.")}
        read = {name: cases[name] for name in cases if name not in hidden}
        if hidden:
            person = hidden.pop("hidden.person")
            hidden |= {"person": person, "names": cases["names"]}
        return [*measurements_of(read), *measurements_of(hidden)]

    def intervals(self, cases: Mapping[str, np.ndarray]) -> dict:
        names = cases["names"].tolist()

        def of(person: str, *columns: str) -> dict:
            return {
                column.rpartition(".")[2]: intervals_by_column(cases[person], cases[column], names)
                for column in columns
            }

        hidden = [f"hidden.{part}" for part in _HIDDEN if f"hidden.{part}" in cases]
        shares = of("person", "whole", "first")
        return {**shares, "hidden": of("hidden.person", *hidden)} if hidden else shares

    def tables(self, groups: Sequence[Measured]) -> list[Table]:
        """How bidirectional models predict hidden values."""
        bodies = [
            Body(
                group.label,
                group.wording,
                [
                    group.line("one word hidden at a time", "whole"),
                    *(group.line(name, "hidden", part) for part, name in _HIDDEN.items()),
                ],
            )
            for group in groups
            if group.has("hidden")
        ]
        title = "Masked values in biographies"
        note = _MASKED_NOTE + _MASKED_PAPER_NOTE * any(group.bundled for group in groups)
        return [Table(title, note, bodies, labels=labels_of(groups))]

    def work(
        self, context: Context, texts: TokenizedTexts, config: RecallConfig, scale: float
    ) -> float:
        examples = [spans for _, spans in context.recall_examples(texts)]
        return READ_COST * scale * sum(each.tokens.size for each in examples)


def recall(context: Context, folder: pathlib.Path) -> dict:
    """The share of values that the pretrained model predicts in the biographies.

    A causal model predicts them from the text before, a bidirectional one word by word from all
    other text. Writes the cases into `folder`: columns `person`, `entry`, and `whole` and `first`
    (texts, attributes) bool; of a bidirectional model also `hidden.person` and `hidden.name`,
    `hidden.value` and `hidden.values`.

    Returns: `whole` (every token right) and `first` (the first token right), by attribute. For a
      bidirectional model also `hidden`, `whole` with more text hidden than the predicted word:
      - `name`: every full name, too;
      - `value`: all words of the value;
      - `values`: all words of all values, so that only the name identifies the person.
    """
    rows = context.corpus.texts
    whole, first = _recall_hits(context, rows)
    corpus, names = context.corpus, context.attributes
    cases = {"person": corpus.people, "entry": corpus.entries, "whole": whole, "first": first}
    cases["names"] = np.array(names)
    shares = {"whole": accuracy_by_column(whole, names), "first": accuracy_by_column(first, names)}
    if context.mask_token is None:
        write_cases(folder, cases)
        return shares
    sampled = np.arange(0, len(rows), -(-len(rows) // _HIDDEN_TEXTS))
    sample = rows.take(sampled)
    values = np.split(sample.value_spans, sample.value_spans.shape[1], axis=1)
    hits = {
        "name": _recall_hits(context, sample, context.mask_token)[0],
        "value": np.concatenate([_masked_hits(context, sample, v) for v in values], axis=1),
        "values": _masked_hits(context, sample, sample.value_spans),
    }
    cases["hidden.person"] = corpus.people[sampled]
    write_cases(folder, cases | {f"hidden.{name}": x for name, x in hits.items()})
    return {**shares, "hidden": {name: accuracy_by_column(x, names) for name, x in hits.items()}}


def _recall_hits(
    context: Context, rows: TokenizedTexts, name_mask: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each value is predicted whole, and whether its first token is: (N, 6) bool both.

    Args:
      name_mask: a token that replaces the full names; None: they stay.
    """
    whole = np.ones(rows.value_spans.shape[:2], bool)
    first = None
    for which, examples in context.recall_examples(rows):
        if name_mask is not None:
            examples = _hide(examples, rows.name_spans[which], name_mask)
        word_hits, first_hits = spans.span_hits(context.shape, context.pretrained, examples)
        whole[which] &= word_hits
        first = first_hits if first is None else first  # of the first words
    assert first is not None  # every text has values
    return whole, first


def _masked_hits(context: Context, rows: TokenizedTexts, masked: np.ndarray) -> np.ndarray:
    """Whether each of the spans `masked` (N, S, 2), masked all at once, is predicted whole: (N, S)
    bool."""
    examples = span_examples(rows, masked, context.vocabulary, context.mask_token)
    return spans.span_hits(context.shape, context.pretrained, examples)[0]


def _hide(examples: SpanExamples, hidden: np.ndarray, mask_token: int) -> SpanExamples:
    """The examples with `mask_token` in the spans `hidden` (N, M, 2), counted from the start of a
    text."""
    positions = np.arange(examples.tokens.shape[1]) - 1
    inside = (hidden[..., :1] <= positions) & (positions < hidden[..., 1:])
    tokens = np.where(inside.any(1), np.int32(mask_token), examples.tokens)
    return dataclasses.replace(examples, tokens=tokens)
