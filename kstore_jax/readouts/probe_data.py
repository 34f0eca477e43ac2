"""What the probes read: biographies and names as tokens, and the classes of the 11 tasks."""

import numpy as np

from kstore_jax.corpus.encode import PieceTokens, TokenRows, plain_rows
from kstore_jax.corpus.examples import tokens_of
from kstore_jax.corpus.shards import with_end_of_text
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.readouts.probes import Readings
from kstore_jax.world.people import ATTRIBUTES, People

TASKS = (
    ("birth_date", "first"),
    *((name, kind) for name in ATTRIBUTES[1:] for kind in ("first", "whole")),
)
"""A full date has too many classes to be probed (Part 3.1, section 5.1)."""
FIRST_TOKEN_TASKS = tuple(task for task in TASKS if task[1] == "first")

Tasks = tuple[tuple[str, str], ...]


def _first_tokens(table: PieceTokens, attribute: int) -> np.ndarray:
    """The first id of every value of an attribute."""
    values = np.arange(len(table.language.pools.values[ATTRIBUTES[attribute]]))
    return table.tokens[table.language.values[attribute] + values, 0]


def labels(
    table: PieceTokens, who: People, tasks: Tasks = TASKS
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The class of each person in each task (N, T) int32, and the number of classes of each task.

    Classes are the values of the pool, or the different first tokens of those values.
    """
    columns, classes = [], []
    for name, kind in tasks:
        a = ATTRIBUTES.index(name)
        of_value = np.arange(len(table.language.pools.values[name]))
        if kind == "first":
            _, of_value = np.unique(_first_tokens(table, a), return_inverse=True)
        columns.append(of_value[who.values[:, a]])
        classes.append(int(of_value.max()) + 1)
    return np.stack(columns, axis=1).astype(np.int32), tuple(classes)


def class_tokens(table: PieceTokens, vocabulary: Vocabulary) -> tuple[np.ndarray, ...]:
    """The model's token of each class of each first-token task; -1 where the vocabulary has none,
    which then is nobody's class."""
    return tuple(
        vocabulary.places(np.unique(_first_tokens(table, ATTRIBUTES.index(name))))
        for name, _ in FIRST_TOKEN_TASKS
    )


def shared_tokens(table: PieceTokens, vocabulary: Vocabulary) -> np.ndarray:
    """The model's tokens that templates are made of, and the end of text."""
    tokens, _ = table.join(np.arange(int(table.language.names[0])))
    known = vocabulary.places(np.unique(tokens))
    return np.append(known[known >= 0], vocabulary.end_of_text)


def biography_readings(
    rows: TokenRows, labels_of_rows: np.ndarray, vocabulary: Vocabulary, tasks: Tasks = TASKS
) -> Readings:
    """Biographies, read just before each attribute in the order they come in; an attribute is
    asked for at the positions before it is stated (Part 3.1, section 5.1)."""
    tokens, lengths = tokens_of(rows, vocabulary)
    starts = rows.value_spans[:, :, 0]
    positions = np.sort(starts, axis=1)
    attribute = [ATTRIBUTES.index(name) for name, _ in tasks]
    return Readings(
        tokens=tokens,
        lengths=lengths,
        positions=positions.astype(np.int32),
        labels=labels_of_rows,
        asked=positions[:, :, None] <= starts[:, None, attribute],
    )


def name_readings(
    table: PieceTokens, who: People, vocabulary: Vocabulary, tasks: Tasks = TASKS
) -> Readings:
    """End token, full name, end token; read at the second (Part 3.1, section 5.2)."""
    names = who.names + table.language.names
    joined, _ = table.join(names)
    rows = plain_rows(joined, table.lengths[names].sum(axis=1))
    closed = with_end_of_text(rows, table.tokenizer.end_of_text)
    of_people, classes = labels(table, who, tasks)
    tokens, lengths = tokens_of(closed, vocabulary)
    return Readings(
        tokens=tokens,
        lengths=lengths,
        positions=closed.lengths[:, None].astype(np.int32),
        labels=of_people,
        asked=np.ones((len(who), 1, len(classes)), bool),
    )
