"""What the probes read: biographies and names as tokens, and the classes of the 11 tasks."""

import numpy as np

from kstore_jax.corpus.encode import TokenRows, piece_tokens
from kstore_jax.corpus.examples import tokens_of
from kstore_jax.corpus.shards import with_end_of_text
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.readout.probes import Readings
from kstore_jax.world.language import Language
from kstore_jax.world.people import ATTRIBUTES, People

TASKS = (
    ("birth_date", "first"),
    *((name, kind) for name in ATTRIBUTES[1:] for kind in ("first", "whole")),
)
"""A full date has too many classes to be probed (Part 3.1, section 5.1)."""


def labels(language: Language, who: People) -> tuple[np.ndarray, tuple[int, ...]]:
    """The class of each person in each task (N, 11) int32, and the number of classes of each task.

    Classes are the values of the pool, or the different first tokens of those values.
    """
    table = piece_tokens(language)
    columns, classes = [], []
    for name, kind in TASKS:
        a = ATTRIBUTES.index(name)
        of_value = np.arange(len(language.pools.values[name]))
        if kind == "first":
            first_tokens = table.tokens[table.starts[language.values[a] + of_value]]
            _, of_value = np.unique(first_tokens, return_inverse=True)
        columns.append(of_value[who.values[:, a]])
        classes.append(int(of_value.max()) + 1)
    return np.stack(columns, axis=1).astype(np.int32), tuple(classes)


def biography_readings(
    rows: TokenRows, labels_of_rows: np.ndarray, vocabulary: Vocabulary
) -> Readings:
    """Biographies, read just before each attribute in the order they come in; an attribute is
    asked for at the positions before it is stated (Part 3.1, section 5.1)."""
    starts = rows.value_spans[:, :, 0]
    positions = np.sort(starts, axis=1)
    attribute = [ATTRIBUTES.index(name) for name, _ in TASKS]
    return Readings(
        tokens=tokens_of(rows, vocabulary),
        positions=positions.astype(np.int32),
        labels=labels_of_rows,
        asked=positions[:, :, None] <= starts[:, None, attribute],
    )


def name_readings(language: Language, who: People, vocabulary: Vocabulary) -> Readings:
    """End token, full name, end token; read at the second (Part 3.1, section 5.2)."""
    table = piece_tokens(language)
    names = who.names + language.names
    rows = TokenRows(
        tokens=table.join(names),
        offsets=np.concatenate([[0], np.cumsum(table.lengths[names].sum(1))]),
        value_spans=np.empty((len(who), 0, 2), np.int64),
        name_spans=np.empty((len(who), 0, 2), np.int64),
    )
    closed = with_end_of_text(rows)
    tasks, classes = labels(language, who)
    return Readings(
        tokens=tokens_of(closed, vocabulary),
        positions=closed.lengths[:, None].astype(np.int32),
        labels=tasks,
        asked=np.ones((len(who), 1, len(classes)), bool),
    )
