"""The contract of a task: what a model is asked.

A task is one file: its configuration, and how people become questions with answers. Registered
here, it has a section in every configuration (`tasks.NAME`), and finetuning, mixed training and the
readout `qa` take it by name (`finetune.tasks`, `data.tasks`, `readouts.qa.tasks`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from kstore_jax.config.registry import Registry
from kstore_jax.corpus.encode import SPAN_DTYPE, TokenizedTexts, TokenTable
from kstore_jax.corpus.examples import SpanExamples, span_examples
from kstore_jax.corpus.shards import with_end_of_text
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError, nearest, shown
from kstore_jax.world import random
from kstore_jax.world.language import Language
from kstore_jax.world.people import People

HINTED = "_with_hint"
"""The end of the name of a group whose answers follow a hint; before it, the name of the same
questions without one."""


@dataclasses.dataclass(frozen=True)
class Items:
    """N questions with their answers.

    Attributes:
      texts: a control token (if the task has some), the question, a hint (if there is one) and the
        answer. `value_spans` (N, 1, 2) is what the model has to write: hint and answer.
      answers: (N,) int: start of the answer in its row, in tokens; later than the start of the span
        where there is a hint. Then the model's own text is generated, and the answer is right where
        that text ends with it. Without a hint, it is right where the most likely token is right at
        every place, which needs one forward.
      people: (N, P) int: the people each item is about, as rows of the people it was made from.
      groups: (N,) int: the group each item belongs to, an index into `Task.group_names`.
      classes: (N,) int: the right answer among the possible ones; the majority guess is the most
        frequent one in its group.
      accepted: the same questions with other answers that are right as well; None: there are none.
    """

    texts: TokenizedTexts
    answers: np.ndarray
    people: np.ndarray
    groups: np.ndarray
    classes: np.ndarray
    accepted: "Accepted | None" = None

    def __len__(self) -> int:
        return len(self.people)

    @property
    def hint_lengths(self) -> np.ndarray:
        """(N,) int: tokens of each hint; 0 where there is none."""
        return self.answers - self.texts.value_spans[:, 0, 0]

    def about(self, members: np.ndarray) -> np.ndarray:
        """(N,) bool: items that are only about people of the mask `members` (people,)."""
        return np.all(members[self.people], axis=1)

    def take(self, rows: np.ndarray) -> "Items":
        """The items in these rows; `rows` are different indices."""
        return Items(
            texts=self.texts.take(rows),
            answers=self.answers[rows],
            people=self.people[rows],
            groups=self.groups[rows],
            classes=self.classes[rows],
            accepted=self.accepted and self.accepted.about(rows, len(self)),
        )


@dataclasses.dataclass(frozen=True)
class Accepted:
    """Other right answers to questions.

    Attributes:
      items: each the question, with one such answer.
      of: (len(items),) int: the item of the question.
    """

    items: Items
    of: np.ndarray

    def about(self, rows: np.ndarray, count: int) -> "Accepted":
        """Those of the questions in these rows of `count`, which become 0, 1, ..."""
        numbers = np.full(count, -1)
        numbers[rows] = np.arange(len(rows))
        own = np.flatnonzero(numbers[self.of] >= 0)
        return Accepted(self.items.take(own), numbers[self.of[own]])


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """The configuration of a task without fields of its own."""


class Task:
    """One kind of question.

    Attributes:
      name: of its section and its results.
      version: of the questions that are trained; raised when they change.
      rewordings_version: of its wordings that are never trained; raised when they change. 0: they
        are a part of the world, or there are none.
      Config: its configuration, a frozen dataclass.
      in_language: whether its texts consist of pieces of the world's language alone. Otherwise
        the compact vocabulary looks its tokens up.
    """

    name: str
    version: int = 1
    rewordings_version: int = 0
    Config: type = TaskConfig
    in_language: bool = False

    def check(self, config: Any, language: Language) -> None:
        """Raises UserError, which begins with `tasks.NAME`, where the world lacks what the task
        needs."""

    def vocabulary_config(self, config: Any) -> Any:
        """The configuration whose questions a compact vocabulary has tokens for. Where it is equal
        for several experiments, they can share a pretrained model; so a task that asks for some of
        its questions returns the configuration that asks them all."""
        return config

    def group_names(self, config: Any, language: Language) -> Sequence[str]:
        """The names of the groups that results are split into."""
        raise NotImplementedError

    def num_wordings(self, language: Language) -> int:
        """The number of wordings; wording 0 is trained, the others are only asked.

        Those of the tasks here have no word that the task's trained questions lack. So compact
        vocabularies, and the token ids of what is trained, do not depend on them.
        """
        return 1

    def items(
        self, table: TokenTable, people: People, config: Any, seed: int, wording: int
    ) -> Items:
        """Returns the questions about some people, a pure function of its arguments.

        Args:
          table: the tokens of the world's language.
          seed: of the world.
          wording: from 0 to `num_wordings` - 1.
        """
        raise NotImplementedError


TASKS: Registry[Task] = Registry("task", "kstore_jax.tasks")


def text_items(
    table: TokenTable,
    prompts: Sequence[str],
    answers: Sequence[str],
    people: np.ndarray,
    groups: np.ndarray,
    classes: np.ndarray,
    hints: Sequence[str] = (),
) -> Items:
    """Returns items from texts. Answers and hints begin with a space, so that no token crosses
    their boundary.

    Args:
      people, groups, classes: as in `Items`.
      hints: a text for each item, empty for none; left out: no hints.

    Raises:
      UserError: there are no items, or the tokenizer lacks one of their words.
    """
    if not prompts:
        raise UserError("tasks: expected at least one question; the world has too few people")
    encode, unknown = table.tokenizer.encode, table.tokenizer.unknown
    hints = hints or [""] * len(prompts)
    parts = [encode(list(texts)) for texts in (prompts, hints, answers)]
    rows = [np.concatenate(row).astype(np.int64) for row in zip(*parts, strict=True)]
    for texts, ids in zip((prompts, hints, answers), parts, strict=True):
        if lacking := [i for i, row in enumerate(ids) if unknown in row]:
            raise UserError(
                "data.tokenizer: expected one with all words of the questions; this one lacks a "
                f"word of {shown(texts[lacking[0]])}"
            )
    before, hint, answer = (np.array([len(ids) for ids in part], np.int64) for part in parts)
    spans = np.stack([before, before + hint + answer], axis=1)[:, None].astype(SPAN_DTYPE)
    texts = TokenizedTexts(
        tokens=np.concatenate(rows).astype(table.tokens.dtype),
        offsets=np.concatenate([[0], np.cumsum(before + hint + answer)]),
        value_spans=spans,
        name_spans=np.empty((len(rows), 0, 2), SPAN_DTYPE),
    )
    return Items(texts, before + hint, people, groups, classes)


def item_examples(
    items: Items, vocabulary: Vocabulary, end_of_text: int, mask_token: int | None = None
) -> SpanExamples:
    """Items as examples with one span to predict each: hint and answer.

    Args:
      end_of_text: of the tokenizer.
      mask_token: None: each token, and the end of text after them, is predicted from the text
        before it. A token: it replaces the span, and each token is predicted at its own position.
    """
    spans = items.texts.value_spans.copy()
    if mask_token is None:
        spans[..., 1] += 1
    return span_examples(with_end_of_text(items.texts, end_of_text), spans, vocabulary, mask_token)


def accuracy_by_column(hits: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """The share of `hits` (N, A) bool that is true in each column, and `mean`, their mean."""
    return _with_mean({name: float(hits[:, a].mean()) for a, name in enumerate(names)})


def accuracy_by_group(hits: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> dict:
    """The share of `hits` (N,) bool that is true in each group, and `mean`, their mean; groups
    without an item are left out."""
    shares = {name: hits[groups == g] for g, name in enumerate(names)}
    return _with_mean({name: float(own.mean()) for name, own in shares.items() if len(own)})


def majority_guess(
    items: Items, trained: np.ndarray, held_out: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """The accuracy of guessing the most frequent answer to the trained questions of a group, where
    every accepted answer is right.

    Args:
      trained, held_out: (N,) bool.
    """
    of, classes = np.arange(len(items)), items.classes
    if accepted := items.accepted:
        of = np.concatenate([of, accepted.of])
        classes = np.concatenate([classes, accepted.items.classes])
    return majority_baseline(classes, items.groups[of], trained[of], held_out[of], names, of)


def majority_baseline(
    classes: np.ndarray,
    groups: np.ndarray,
    trained: np.ndarray,
    held_out: np.ndarray,
    names: Sequence[str],
    items: np.ndarray | None = None,
) -> dict[str, float]:
    """The accuracy of guessing the most frequent class: the share of held-out items of each group
    that have the most frequent class of its trained items, and `mean`, their mean.

    Args:
      classes, groups: (N,) int.
      trained, held_out: (N,) bool.
      items: (N,) int: the item of each of N answers, where several are right; None: one each.
    """
    shares = {}
    for group, name in enumerate(names):
        here = groups == group
        if (here & trained).any() and (here & held_out).any():
            asked = None if items is None else items[here & held_out]
            share = majority_share(classes[here & trained], classes[here & held_out], asked)
            shares[name] = share
    return _with_mean(shares)


def majority_share(
    trained: np.ndarray, held_out: np.ndarray, items: np.ndarray | None = None
) -> float:
    """The share of `held_out` (N,) that equals the most frequent element of `trained` (M,).

    Args:
      items: (N,) the item of each of `held_out`; the share is of items. None: one each.
    """
    values, counts = np.unique(trained, return_counts=True)
    right = held_out == values[counts.argmax()]
    if items is None:
        return float(np.mean(right))
    return len(np.unique(items[right])) / len(np.unique(items))


def _with_mean(shares: dict[str, float]) -> dict[str, float]:
    return {"mean": float(np.mean(list(shares.values()))), **shares} if shares else {}


def concatenate_examples(several: Sequence[SpanExamples], padding: int) -> SpanExamples:
    """Returns the rows of several sets of examples with one span each, in order, padded to the
    longest text and the longest span.

    Args:
      padding: the token that pads texts, the end of text.
    """
    if len(several) == 1:
        return several[0]
    length = max(part.tokens.shape[1] for part in several)
    longest = max(part.positions.shape[2] for part in several)

    def padded(part: SpanExamples, name: str) -> np.ndarray:
        column = getattr(part, name)
        if name == "tokens":
            missing, value = [(0, 0), (0, length - column.shape[1])], padding
        elif name == "lengths":
            return column
        else:
            missing, value = [(0, 0), (0, 0), (0, longest - column.shape[2])], 0
        return np.pad(column, missing, constant_values=value)

    return SpanExamples(
        *(
            np.concatenate([padded(part, field.name) for part in several])
            for field in dataclasses.fields(SpanExamples)
        )
    )


def trained_order(seed: int, ids: np.ndarray) -> np.ndarray:
    """Returns the rows of `ids` (N,) in a random order, a function of `seed`.

    Whether a person comes before another does not depend on the others. `finetune.people_fraction`
    trains the first people of P_train in this order.
    """
    return np.argsort(random.bits(seed, "order of people", ids), kind="stable")


def check_tasks(names: Sequence[Any], field: str) -> None:
    """Raises UserError, which begins with the field, where `names` is not some different tasks."""
    for name in names:
        if not isinstance(name, str) or name not in TASKS:
            raise UserError(f"{field}: no task {name!r}{nearest(str(name), list(TASKS))}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"{field}: expected one task or several different ones, got {names!r}")
