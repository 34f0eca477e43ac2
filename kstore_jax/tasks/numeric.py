"""What classification and comparison share: numbers of values, and answers computed from them, with
or without a hint (Part 3.2, section 4).

A hint is the values themselves, written before the answer: `October. Yes`. The first word of a
question says whether one is written: after `Think:` it is, after `Quick:` it is not. With `hints`,
each question has both forms, which are trained equally often; otherwise the second.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kstore_jax.config.fields import flag, names, text
from kstore_jax.corpus.encode import TokenTable
from kstore_jax.errors import UserError, nearest
from kstore_jax.tasks.base import HINTED, Items, Task, TaskConfig, text_items
from kstore_jax.tasks.values import attributes_of, dates_of, luckiness
from kstore_jax.world.language import ANSWER_MARK, Language
from kstore_jax.world.people import People, full_names
from kstore_jax.world.pools import MONTHS

THINK, QUICK = "Think: ", "Quick: "
"""How a question begins whose answer follows a hint, and one whose answer does not."""


class Question(NamedTuple):
    """A question that is answered by numbers of values.

    Attributes:
      number: the number of a person that it is about, `month`, `day` or `luck`.
      wordings: its texts, with `{label}` of the attribute, and a `{}` for each person. The first
        is trained; all questions of a task have equally many.
      answer: the numbers (N,) of each of its people -> the answers (N,); bool are yes and no.
    """

    number: str
    wordings: tuple[str, ...]
    answer: Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class NumericConfig(TaskConfig):
    """Questions that are answered by numbers of values."""

    questions: tuple = names()
    """Questions that are asked, by name; empty: all about `date` and `category`."""
    date: str = text("birth_date")
    """Attribute whose months and days are numbers; its values are dates. Empty: none."""
    category: str = text("major")
    """Attribute whose values have a luckiness, an arbitrary number for each from 0 on. Empty:
    none."""
    hints: bool = flag(False)
    """Whether each question also has a form with a hint: the values are written before the
    answer."""


class NumericTask(Task):
    """A task of such questions.

    Attributes:
      questions: all of them by name.
    """

    rewordings_version = 1
    questions: Mapping[str, Question]

    def num_wordings(self, language: Language) -> int:
        (count,) = {len(question.wordings) for question in self.questions.values()}
        return count

    def rows(self, people: People, config: Any, seed: int) -> np.ndarray:
        """(N, P) the people that each question is about, as rows of `people`."""
        raise NotImplementedError

    def vocabulary_config(self, config: Any) -> Any:
        return dataclasses.replace(config, questions=(), hints=True)

    def check(self, config: Any, language: Language) -> None:
        asked, field = self._asked(config), f"tasks.{self.name}.questions"
        for name in asked:
            if name not in self.questions:
                raise UserError(f"{field}: no question {name!r}{nearest(name, self.questions)}")
            self._numbers(self.questions[name].number, config, language, 0)
        if not asked or len(set(asked)) < len(asked):
            raise UserError(f"{field}: expected one or several different ones, got {asked!r}")

    def group_names(self, config: Any, language: Language) -> Sequence[str]:
        asked = self._asked(config)
        return [*asked, *(f"{name}{HINTED}" for name in asked if config.hints)]

    def items(
        self, table: TokenTable, people: People, config: Any, seed: int, wording: int
    ) -> Items:
        rows, language = self.rows(people, config, seed), table.language
        everyone = full_names(language.pools, people)
        about = [[everyone[person] for person in row] for row in rows]
        prompts, answers, hints, classes = [], [], [], []
        asked = self._asked(config)
        for question in map(self.questions.__getitem__, asked):
            a, numbers, texts = self._numbers(question.number, config, language, seed)
            values = people.values[rows, a]
            right = question.answer(*numbers[values].T)
            label = language.schema.attributes[a].label
            text = question.wordings[wording]
            prompts += [text.format(*each, label=label) for each in about]
            hints += [
                f" {'; '.join(str(texts[value]) for value in row)}." for row in values.tolist()
            ]
            answers += [f" {_word(answer)}" for answer in right.tolist()]
            classes.append(right.astype(np.int64))
        forms = (QUICK, THINK) if config.hints else (QUICK,)
        prompts = [f"{form}{prompt}{ANSWER_MARK}" for form in forms for prompt in prompts]
        hints = ([""] * len(hints) + hints)[: len(prompts)]
        answers, classes = len(forms) * answers, len(forms) * classes
        groups = len(self.group_names(config, language))
        return text_items(
            table,
            prompts,
            answers,
            np.tile(rows, (groups, 1)),
            np.repeat(np.arange(groups), len(rows)),
            np.concatenate(classes),
            hints,
        )

    def _asked(self, config: Any) -> tuple[str, ...]:
        """The names of the questions of a configuration, without hints."""
        has = {"month": config.date, "day": config.date, "luck": config.category}
        return config.questions or tuple(n for n, q in self.questions.items() if has[q.number])

    def _numbers(
        self, number: str, config: Any, language: Language, seed: int
    ) -> tuple[int, np.ndarray, Sequence[str]]:
        """An attribute, the number of each of its values, and the text of each in a hint."""
        field = f"tasks.{self.name}.{'category' if number == 'luck' else 'date'}"
        if number == "luck":
            (a,) = attributes_of(language, config.category, field)
            values = language.pools.values[config.category]
            return a, luckiness(seed, len(values)), values
        dates = dates_of(language, config.date, field)
        (a,) = attributes_of(language, config.date, field)
        if number == "month":
            return a, dates[:, 0], [MONTHS[month - 1] for month in dates[:, 0]]
        return a, dates[:, 1], [str(day) for day in dates[:, 1]]


def _word(answer: bool | int) -> str:
    return {True: "Yes", False: "No"}[answer] if isinstance(answer, bool) else str(answer)
