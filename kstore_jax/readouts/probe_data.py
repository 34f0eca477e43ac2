"""Inputs and labels of the probes: biographies and names as tokens, classes of the tasks."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts, TokenTable, without_spans
from kstore_jax.corpus.examples import padded_length, padded_tokens
from kstore_jax.corpus.shards import with_end_of_text
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.world.language import Language
from kstore_jax.world.people import People

ProbeTasks = tuple[tuple[str, str], ...]
"""Pairs of an attribute and `first` (first token) or `whole` (whole value)."""


def first_token_tasks(language: Language) -> ProbeTasks:
    """The first token of each attribute."""
    return tuple((name, "first") for name in language.schema.names)


def all_tasks(language: Language) -> ProbeTasks:
    """First token and whole value of each attribute; a whole date has too many classes to be probed
    (Part 3.1, section 5.1)."""
    return tuple(
        (attribute.name, kind)
        for attribute in language.schema.attributes
        for kind in ("first", "whole")
        if kind == "first" or not attribute.years
    )


@dataclasses.dataclass(frozen=True)
class ProbeExamples:
    """N texts, the Q positions a probe reads in each, and the right classes of T tasks.

    Attributes:
      tokens: (N, L) int32: the end of text, the text, then padding.
      positions: (N, Q) int32: positions whose hidden state is read.
      labels: (N, T) int32: the right class of each task.
      active: (N, Q, T) bool: whether a task is trained and scored at a position.
      lengths: (N,) int32: tokens of each row without padding.
    """

    tokens: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    active: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """The texts in the rows `which`, as a dictionary of columns."""
        return {f.name: getattr(self, f.name)[which] for f in dataclasses.fields(self)}

    def take(self, which: np.ndarray) -> "ProbeExamples":
        """The texts in the rows `which`."""
        return ProbeExamples(**self.batch(which))

    def until_last_read(self) -> "ProbeExamples":
        """The texts without the columns after the last position read, on which no state that is
        read of a causal model depends."""
        length = padded_length(1 + self.positions)
        lengths = np.minimum(self.lengths, length)
        return dataclasses.replace(self, tokens=self.tokens[:, :length], lengths=lengths)


def _first_tokens(table: TokenTable, attribute: int) -> np.ndarray:
    """The first token of every value of an attribute, (values,) int."""
    language = table.language
    values = np.arange(len(language.pools.values[language.schema.names[attribute]]))
    return table.tokens[language.value_offsets[attribute] + values, 0]


def person_labels(
    table: TokenTable, people: People, tasks: ProbeTasks
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The class of each person in each task (N, T) int32, and the number of classes of each task.

    Classes are the values of the pool, or the distinct first tokens of those values.
    """
    columns, num_classes = [], []
    for name, kind in tasks:
        a = table.language.schema.names.index(name)
        class_of_value = np.arange(len(table.language.pools.values[name]))
        if kind == "first":
            _, class_of_value = np.unique(_first_tokens(table, a), return_inverse=True)
        columns.append(class_of_value[people.values[:, a]])
        num_classes.append(int(class_of_value.max()) + 1)
    return np.stack(columns, axis=1).astype(np.int32), tuple(num_classes)


def class_tokens(table: TokenTable, vocabulary: Vocabulary) -> tuple[np.ndarray, ...]:
    """The model's token of each class, for each of `first_token_tasks`; -1 where the vocabulary has
    none, and then nobody has that class."""
    return tuple(
        vocabulary.lookup(np.unique(_first_tokens(table, a)))
        for a in range(len(table.language.schema.names))
    )


def shared_tokens(table: TokenTable, vocabulary: Vocabulary) -> np.ndarray:
    """The tokens whose embedding `embedding_update="shared"` updates: those of templates and
    questions, and the end of text. (n,) ids of the model."""
    tokens, _ = table.join_tokens(np.arange(int(table.language.name_offsets[0])))
    in_model = vocabulary.lookup(np.unique(tokens))
    return np.append(in_model[in_model >= 0], vocabulary.end_of_text)


def biography_examples(
    rows: TokenizedTexts,
    labels: np.ndarray,
    vocabulary: Vocabulary,
    attributes: Sequence[int],
) -> ProbeExamples:
    """Biographies, read at the token before each value, in the order of the text.

    A task is active at the positions up to the one before its value (Part 3.1, section 5.1).

    Args:
      labels: (N, T) int32: the right class of each task in each biography.
      attributes: (T,) the number of each task's attribute.
    """
    tokens, lengths = padded_tokens(rows, vocabulary)
    starts = rows.value_spans[:, :, 0]
    positions = np.sort(starts, axis=1)
    return ProbeExamples(
        tokens=tokens,
        lengths=lengths,
        positions=positions.astype(np.int32),
        labels=labels,
        active=positions[:, :, None] <= starts[:, None, attributes],
    )


def name_examples(
    table: TokenTable, people: People, vocabulary: Vocabulary, tasks: ProbeTasks
) -> ProbeExamples:
    """End of text, full name, end of text; read at the second end of text (Part 3.1, section
    5.2)."""
    names = people.names + table.language.name_offsets
    joined, _ = table.join_tokens(names)
    rows = without_spans(joined, table.lengths[names].sum(axis=1))
    closed = with_end_of_text(rows, table.tokenizer.end_of_text)
    labels, num_classes = person_labels(table, people, tasks)
    tokens, lengths = padded_tokens(closed, vocabulary)
    return ProbeExamples(
        tokens=tokens,
        lengths=lengths,
        positions=closed.lengths[:, None].astype(np.int32),
        labels=labels,
        active=np.ones((len(people), 1, len(num_classes)), bool),
    )
