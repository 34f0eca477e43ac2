"""Partial and dual retrieval: a part of a value, or two values in both orders (Part 3.2, section
3)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kstore_jax.config.fields import names, text
from kstore_jax.corpus.encode import TokenTable
from kstore_jax.errors import UserError
from kstore_jax.tasks.base import TASKS, Items, Task, TaskConfig, text_items
from kstore_jax.tasks.values import attributes_of, dates_of
from kstore_jax.world.language import ANSWER_MARK, Language
from kstore_jax.world.people import People, full_names, value_texts

_PARTS = {  # question: the column of the date, the wordings
    "day": (
        1,
        (
            "Which day of the month is in the {label} of {name}?",
            "Which day of the month is the {label} of {name} in?",
            "Which is the day of the month in the {label} of {name}?",
        ),
    ),
    "year": (
        2,
        (
            "Which year is in the {label} of {name}?",
            "Which year is the {label} of {name} in?",
            "Which is the year in the {label} of {name}?",
        ),
    ),
}
_BOTH = (
    "What are the {first} and then the {second} of {name}?",
    "What are the {first} of {name} and then the {second}?",
    "What are the {first} of {name} and then the {second} of {name}?",
)


@dataclasses.dataclass(frozen=True)
class RetrievalConfig(TaskConfig):
    """Questions for a part of a value, and for two values."""

    date: str = text("birth_date")
    """Attribute whose day and year are asked; its values are dates. Empty: none."""
    pairs: tuple = names("birth_city+company", "university+major", "company_city+company")
    """Pairs of attributes, `NAME+NAME`; each is asked in both orders."""


@TASKS.register
class Retrieval(Task):
    """Item Q i + q is question q about person i."""

    name = "retrieval"
    rewordings_version = 1
    Config = RetrievalConfig

    def check(self, config: RetrievalConfig, language: Language) -> None:
        if config.date:
            dates_of(language, config.date, "tasks.retrieval.date")
        orders = _orders(config, language)
        if not self.group_names(config, language):
            raise UserError("tasks.retrieval.pairs: expected at least one pair, or a date")
        if len(set(orders)) < len(orders):
            raise UserError(f"tasks.retrieval.pairs: a pair is repeated in {config.pairs!r}")

    def group_names(self, config: RetrievalConfig, language: Language) -> Sequence[str]:
        existing = language.schema.names
        of_pairs = [f"{existing[a]}_then_{existing[b]}" for a, b in _orders(config, language)]
        return [*(_PARTS if config.date else ()), *of_pairs]

    def num_wordings(self, language: Language) -> int:
        return len(_BOTH)

    def items(
        self, table: TokenTable, people: People, config: RetrievalConfig, seed: int, wording: int
    ) -> Items:
        language = table.language
        schema, pools = language.schema, language.pools
        labels = [attribute.label for attribute in schema.attributes]
        everyone, facts = full_names(pools, people), value_texts(pools, people)
        prompts, answers, classes = [], [], []
        if config.date:
            (a,) = attributes_of(language, config.date, "tasks.retrieval.date")
            dates = dates_of(language, config.date, "tasks.retrieval.date")[people.values[:, a]]
            for column, wordings in _PARTS.values():
                question = wordings[wording]
                prompts.append([question.format(label=labels[a], name=name) for name in everyone])
                answers.append([f" {part}" for part in dates[:, column]])
                classes.append(dates[:, column])
        for a, b in _orders(config, language):
            question = _BOTH[wording].replace("{first}", labels[a])
            question = question.replace("{second}", labels[b])
            prompts.append([question.format(name=name) for name in everyone])
            answers.append([f" {values[a]}; {values[b]}" for values in facts])
            count = len(pools.values[schema.names[b]])
            classes.append(people.values[:, a] * count + people.values[:, b])
        questions = len(prompts)
        return text_items(
            table,
            [f"{prompt}{ANSWER_MARK}" for own in zip(*prompts, strict=True) for prompt in own],
            [answer for own in zip(*answers, strict=True) for answer in own],
            np.repeat(np.arange(len(people)), questions)[:, None],
            np.tile(np.arange(questions), len(people)),
            np.stack(classes, axis=1).ravel(),
        )


def _orders(config: RetrievalConfig, language: Language) -> list[tuple[int, int]]:
    """The two attributes of each question for two values, by number."""
    orders = []
    for pair in config.pairs:
        both = attributes_of(language, pair, "tasks.retrieval.pairs")
        if len(both) != 2:
            raise UserError(f"tasks.retrieval.pairs: expected NAME+NAME, got {pair!r}")
        orders += [(both[0], both[1]), (both[1], both[0])]
    return orders
