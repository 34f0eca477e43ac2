"""What every task trains: questions about P_train, in which nobody of P_test occurs."""

import numpy as np
import pytest

from kstore_jax.corpus.encode import token_table
from kstore_jax.corpus.tokenizer import load_tokenizer
from kstore_jax.errors import UserError
from kstore_jax.pipeline.experiment import parse
from kstore_jax.tasks.base import TASKS, text_items
from kstore_jax.tasks.numeric import NumericTask
from kstore_jax.world.people import draw_people, full_names, in_train_half
from tests.tasks.questions import texts_of

HINTS = {
    name: {"hints": True} for name, task in TASKS.entries().items() if isinstance(task, NumericTask)
}


@pytest.mark.parametrize("task", [*TASKS])
def test_nobody_of_p_test_is_in_a_question_that_is_trained(table, task):
    config = getattr(parse({"tasks": {task: HINTS.get(task, {})}}).tasks, task)
    people = draw_people(table.language.pools, 4, np.arange(40))
    halves, names = in_train_half(4, people.ids), full_names(table.language.pools, people)
    items = TASKS[task].items(table, people, config, 4, 0)
    for half in (True, False):
        own = items.take(np.flatnonzero(items.about(halves == half)))
        texts = ["".join(parts) for parts in texts_of(table, own)]
        assert len(texts) >= 19
        named = {i for i, name in enumerate(names) if any(name in text for text in texts)}
        assert named == set(np.flatnonzero(halves == half).tolist())
    again = TASKS[task].items(table, people, config, 4, 0)
    np.testing.assert_array_equal(items.texts.tokens, again.texts.tokens)


def test_words_that_a_tokenizer_lacks_are_refused(language):
    people = draw_people(language.pools, 4, np.arange(4))
    words = token_table(language, load_tokenizer("word", language, 4, people))
    one, group = np.zeros((1, 1), int), np.zeros(1, int)
    message = r"^data\.tokenizer: .* lacks a word of ' xylophone'$"
    with pytest.raises(UserError, match=message):
        text_items(words, ["What is the"], [" xylophone"], one, group, group)
    assert len(text_items(words, ["What is the"], [" major"], one, group, group)) == 1
