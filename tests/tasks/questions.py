"""The questions of `extraction` as examples."""

from kstore_jax.corpus.encode import TokenTable
from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.tasks.base import TASKS, TaskConfig, item_examples
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
