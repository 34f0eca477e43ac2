"""Questions as examples and as texts."""

import itertools
from typing import Any

from kstore_jax.corpus.encode import TokenTable
from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.tasks.base import TASKS, Items, TaskConfig, item_examples
from kstore_jax.world.people import People


def question_examples(
    table: TokenTable,
    people: People,
    vocabulary: Vocabulary,
    wording: int = 0,
    mask_token: int | None = None,
) -> SpanExamples:
    items = TASKS["extraction"].items(table, people, TaskConfig(), 0, wording)
    return item_examples(items, vocabulary, table.tokenizer.end_of_text, mask_token)


def texts_of(table: TokenTable, items: Items) -> list[tuple[str, str, str]]:
    """The prompt, the hint and the answer of each item."""
    texts, decode = items.texts, table.tokenizer.decode
    found = []
    for i, (offset, (start, end)) in enumerate(
        zip(texts.offsets, texts.value_spans[:, 0].tolist(), strict=False)
    ):
        bounds = (0, start, items.answers[i], end)
        parts = [texts.tokens[offset + a : offset + b] for a, b in itertools.pairwise(bounds)]
        before, hint, answer = map(decode, parts)
        found.append((before, hint, answer))
    return found


def by_group(table: TokenTable, task: str, config: Any, items: Items) -> dict[str, list[tuple]]:
    """`(people, prompt, hint, answer, class)` of the items of each group."""
    names = TASKS[task].group_names(config, table.language)
    found: dict[str, list[tuple]] = {name: [] for name in names}
    for i, texts in enumerate(texts_of(table, items)):
        own = (tuple(items.people[i].tolist()), *texts, int(items.classes[i]))
        found[str(names[items.groups[i]])].append(own)
    return found
