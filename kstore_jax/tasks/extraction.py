"""Knowledge extraction: a question about each attribute of a person (Part 3.1, section 2.3)."""

from collections.abc import Sequence

import numpy as np

from kstore_jax.corpus.encode import TokenTable, encode_questions
from kstore_jax.tasks.base import TASKS, Items, Task, TaskConfig
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
        questions = write_questions(table.language, people.take(who), attributes, wording)
        texts = encode_questions(table, questions)
        return Items(
            texts=texts,
            answers=texts.value_spans[:, 0, 0],
            people=who[:, None],
            groups=attributes,
            classes=people.values.ravel(),
        )
