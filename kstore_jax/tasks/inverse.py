"""Inverse search: who has these facts? The answer is a first name or a full name (Part 3.2, section
5)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kstore_jax.config.fields import names
from kstore_jax.corpus.encode import TokenTable
from kstore_jax.errors import UserError
from kstore_jax.tasks.base import TASKS, Items, Task, TaskConfig, text_items
from kstore_jax.tasks.values import attributes_of
from kstore_jax.world.language import ANSWER_MARK, Language
from kstore_jax.world.people import People, full_names, value_texts

_FIELD = "tasks.inverse.clues"
_ALL = "+".join(("birth_date", "birth_city", "university", "major", "company", "company_city"))
_WORDINGS = {  # answer: the question
    "first_name": (
        "What is the first name of the {noun} with {facts}?",
        "What first name is the name of the {noun} with {facts}?",
    ),
    "full_name": (
        "What is the full name of the {noun} with {facts}?",
        "What full name is the name of the {noun} with {facts}?",
    ),
}


@dataclasses.dataclass(frozen=True)
class InverseConfig(TaskConfig):
    """Questions for the name of the person with some values."""

    clues: tuple = names(
        "birth_date",
        "birth_date+birth_city",
        "university+major+company",
        "university+major+company+birth_city",
        _ALL,
    )
    """Sets of attributes, `NAME+NAME+...`, whose values a question states."""


@TASKS.register
class Inverse(Task):
    """Each set of clues asks for the first and the full name of each person; where a name has one
    part, for the full name alone."""

    name = "inverse"
    rewordings_version = 1
    Config = InverseConfig

    def check(self, config: InverseConfig, language: Language) -> None:
        sets = [frozenset(attributes_of(language, clues, _FIELD)) for clues in config.clues]
        if not sets or len(set(sets)) < len(sets):
            raise UserError(
                f"{_FIELD}: expected one or several different sets, got {config.clues!r}"
            )

    def group_names(self, config: InverseConfig, language: Language) -> Sequence[str]:
        count = len(language.schema.names)
        sets = [
            "all" if len(clues.split("+")) == count > 1 else clues.replace("+", "_and_")
            for clues in config.clues
        ]
        return [f"{clues}_to_{answer}" for clues in sets for answer in _answers(language)]

    def num_wordings(self, language: Language) -> int:
        return len(_WORDINGS["full_name"])

    def items(
        self, table: TokenTable, people: People, config: InverseConfig, seed: int, wording: int
    ) -> Items:
        language, pools = table.language, table.language.pools
        labels = [attribute.label for attribute in language.schema.attributes]
        everyone, facts = full_names(pools, people), value_texts(pools, people)
        answers = {  # text and class of each person
            "first_name": ([pools.names[0][i] for i in people.names[:, 0]], people.names[:, 0]),
            "full_name": (everyone, people.ids),
        }
        prompts, texts, classes = [], [], []
        for clues in config.clues:
            chosen = attributes_of(language, clues, _FIELD)
            stated = [" and ".join(f"the {labels[a]} {own[a]}" for a in chosen) for own in facts]
            for answer in _answers(language):
                question = _WORDINGS[answer][wording].replace("{noun}", language.schema.noun)
                prompts += [f"{question.format(facts=text)}{ANSWER_MARK}" for text in stated]
                texts += [f" {name}" for name in answers[answer][0]]
                classes.append(answers[answer][1])
        groups = len(classes)
        return text_items(
            table,
            prompts,
            texts,
            np.tile(np.arange(len(people)), groups)[:, None],
            np.repeat(np.arange(groups), len(people)),
            np.concatenate(classes),
        )


def _answers(language: Language) -> list[str]:
    return [name for name in _WORDINGS if name == "full_name" or len(language.schema.name) > 1]
