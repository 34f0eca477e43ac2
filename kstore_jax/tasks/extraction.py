"""Knowledge extraction: a question about each attribute of a person (Part 3.1, section 2.3)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kstore_jax.corpus.encode import TokenTable, encode_questions, ragged_indices
from kstore_jax.tasks.base import TASKS, Accepted, Items, Task, TaskConfig
from kstore_jax.world.language import Language
from kstore_jax.world.people import People
from kstore_jax.world.questions import write_questions


@TASKS.register
class Extraction(Task):
    """`question? Answer: value`; item A i + a asks for attribute a of person i."""

    name = "extraction"
    Config = TaskConfig
    in_language = True

    def group_names(self, config: TaskConfig, language: Language) -> Sequence[str]:
        return language.schema.names

    def num_wordings(self, language: Language) -> int:
        return language.questions.shape[1]

    def items(
        self, table: TokenTable, people: People, config: TaskConfig, seed: int, wording: int
    ) -> Items:
        count = people.values.shape[1]
        who = np.repeat(np.arange(len(people)), count)
        attributes = np.tile(np.arange(count), len(people))
        items = _items(table, people, who, attributes, wording)
        return dataclasses.replace(items, accepted=_accepted(table, people, wording))


def _items(
    table: TokenTable, people: People, who: np.ndarray, attributes: np.ndarray, wording: int
) -> Items:
    """The question about attribute `attributes[i]` (N,) of the person in row `who[i]` (N,)."""
    of_each = people.take(who)
    texts = encode_questions(table, write_questions(table.language, of_each, attributes, wording))
    return Items(
        texts=texts,
        answers=texts.value_spans[:, 0, 0],
        people=who[:, None],
        groups=attributes,
        classes=of_each.values[np.arange(len(who)), attributes],
    )


def _accepted(table: TokenTable, people: People, wording: int) -> Accepted | None:
    """The questions about facts with several values, once with each of the values alone."""
    pools, found = table.language.pools, []
    for a, name in enumerate(pools.schema.names):
        if name in pools.accepted:
            starts, members = pools.accepted[name]
            values = people.values[:, a]
            counts = starts[values + 1] - starts[values]
            who = np.repeat(np.arange(len(people)), counts)
            single = members[ragged_indices(starts[values], counts)]
            found.append((who, np.full(len(who), a), single))
    if not sum(len(who) for who, _, _ in found):
        return None
    who, attributes, single = map(np.concatenate, zip(*found, strict=True))
    values = people.values[who]
    values[np.arange(len(who)), attributes] = single
    changed = dataclasses.replace(people.take(who), values=values)
    items = _items(table, changed, np.arange(len(who)), attributes, wording)
    items = dataclasses.replace(items, people=who[:, None])
    return Accepted(items, who * people.values.shape[1] + attributes)
