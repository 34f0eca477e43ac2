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
FIRST_TOKEN_TASKS = tuple(task for task in TASKS if task[1] == "first")

Tasks = tuple[tuple[str, str], ...]


def _first_tokens(language: Language, attribute: int) -> np.ndarray:
    """The first GPT-2 id of every value of an attribute."""
    table = piece_tokens(language)
    values = np.arange(len(language.pools.values[ATTRIBUTES[attribute]]))
    return table.tokens[table.starts[language.values[attribute] + values]]


def labels(
    language: Language, who: People, tasks: Tasks = TASKS
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The class of each person in each task (N, T) int32, and the number of classes of each task.

    Classes are the values of the pool, or the different first tokens of those values.
    """
    columns, classes = [], []
    for name, kind in tasks:
        a = ATTRIBUTES.index(name)
        of_value = np.arange(len(language.pools.values[name]))
        if kind == "first":
            _, of_value = np.unique(_first_tokens(language, a), return_inverse=True)
        columns.append(of_value[who.values[:, a]])
        classes.append(int(of_value.max()) + 1)
    return np.stack(columns, axis=1).astype(np.int32), tuple(classes)


def class_tokens(language: Language, vocabulary: Vocabulary) -> tuple[np.ndarray, ...]:
    """The model's token of each class of each first-token task; -1 where the vocabulary has none,
    which then is nobody's class."""
    return tuple(
        vocabulary.places(np.unique(_first_tokens(language, ATTRIBUTES.index(name))))
        for name, _ in FIRST_TOKEN_TASKS
    )


def shared_tokens(language: Language, vocabulary: Vocabulary) -> np.ndarray:
    """The model's tokens that templates are made of, and the end of text."""
    literals = np.arange(int(language.names[0]))
    tokens = np.unique(piece_tokens(language).join(literals))
    return np.append(vocabulary.encode(tokens), vocabulary.end_of_text)


def biography_readings(
    rows: TokenRows, labels_of_rows: np.ndarray, vocabulary: Vocabulary, tasks: Tasks = TASKS
) -> Readings:
    """Biographies, read just before each attribute in the order they come in; an attribute is
    asked for at the positions before it is stated (Part 3.1, section 5.1)."""
    starts = rows.value_spans[:, :, 0]
    positions = np.sort(starts, axis=1)
    attribute = [ATTRIBUTES.index(name) for name, _ in tasks]
    return Readings(
        tokens=tokens_of(rows, vocabulary),
        positions=positions.astype(np.int32),
        labels=labels_of_rows,
        asked=positions[:, :, None] <= starts[:, None, attribute],
    )


def name_readings(
    language: Language, who: People, vocabulary: Vocabulary, tasks: Tasks = TASKS
) -> Readings:
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
    of_people, classes = labels(language, who, tasks)
    return Readings(
        tokens=tokens_of(closed, vocabulary),
        positions=closed.lengths[:, None].astype(np.int32),
        labels=of_people,
        asked=np.ones((len(who), 1, len(classes)), bool),
    )
