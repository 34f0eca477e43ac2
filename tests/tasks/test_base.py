"""What every task can rely on: items from texts, hints, groups, several tasks at once."""

import numpy as np
import pytest

from kstore_jax.corpus.encode import full_vocabulary
from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.errors import UserError
from kstore_jax.readouts.qa import right_answers
from kstore_jax.tasks.base import (
    Items,
    accuracy_by_group,
    check_tasks,
    concatenate_examples,
    item_examples,
    majority_baseline,
    text_items,
)

PROMPTS = ["[hint] Who was born first, Ann or Bo? Answer:", "Who was born first, Cy or Di? Answer:"]
HINTS, ANSWERS = [" 1901 and 1950, so", ""], [" Ann", " Di"]
PAIRS = np.array([[0, 1], [2, 3]])


@pytest.fixture
def items(table) -> Items:
    return text_items(
        table, PROMPTS, ANSWERS, PAIRS, groups=np.zeros(2, int), classes=np.arange(2), hints=HINTS
    )


def examples_of(table, items: Items) -> SpanExamples:
    return item_examples(items, full_vocabulary(table.tokenizer), table.tokenizer.end_of_text)


def test_hint_and_answer_are_the_span_after_the_prompt(table, items):
    vocabulary, texts = full_vocabulary(table.tokenizer), items.texts
    for i, (prompt, hint, answer) in enumerate(zip(PROMPTS, HINTS, ANSWERS, strict=True)):
        row = texts.tokens[texts.offsets[i] : texts.offsets[i + 1]].astype(int)
        start, end = texts.value_spans[i, 0]
        assert vocabulary.decode(row[:start]) == prompt
        assert vocabulary.decode(row[start : items.answers[i]]) == hint
        assert vocabulary.decode(row[items.answers[i] : end]) == answer
        assert end == len(row)
        (whole,) = table.tokenizer.encode([prompt + hint + answer])
        assert row.tolist() == list(whole)


def test_an_item_about_two_people_is_of_a_half_that_has_both(items):
    assert items.about(np.array([True, True, True, False])).tolist() == [True, False]


def test_examples_train_hint_answer_and_the_end_of_text(table, items):
    vocabulary, examples = full_vocabulary(table.tokenizer), examples_of(table, items)
    for i, (hint, answer) in enumerate(zip(HINTS, ANSWERS, strict=True)):
        targets = examples.targets[i, 0][examples.weights[i, 0] > 0]
        assert vocabulary.decode(targets) == f"{hint}{answer}<|endoftext|>"


def test_an_answer_after_a_hint_is_right_where_the_text_ends_with_it(table, items):
    examples, end = examples_of(table, items), table.tokenizer.end_of_text
    length = examples.targets.shape[2]

    def hits(*texts: str) -> list[bool]:
        rows = [list(ids) for ids in table.tokenizer.encode(list(texts))]
        tokens = np.array([ids + [end] * (length - len(ids)) for ids in rows], np.int32)
        return right_answers(items.hint_lengths, examples, tokens, end).tolist()

    assert hits(" 1901 and 1950, so Ann", " Di") == [True, True]
    assert hits(" 1950 and 1901, so Ann", " so it is Di") == [True, False]
    assert hits(" Ann, since 1901", " Ann") == [False, False]
    assert hits("", " Dia") == [False, False]
    end_first = np.full((2, length), end, np.int32)
    assert right_answers(items.hint_lengths, examples, end_first, end).tolist() == [False, False]


def test_several_tasks_are_padded_to_one_shape(table, items):
    one = examples_of(table, items)
    short = text_items(table, ["A?"], [" b"], PAIRS[:1], np.zeros(1, int), np.zeros(1, int))
    other, padding = examples_of(table, short), table.tokenizer.end_of_text
    assert concatenate_examples([one], padding) is one
    both = concatenate_examples([other, one], padding)
    assert len(both) == 3
    assert both.lengths.tolist() == [*other.lengths, *one.lengths]
    for row, part, i in ((0, other, 0), (1, one, 0), (2, one, 1)):
        inside = both.weights[row, 0] > 0
        wanted = part.weights[i, 0] > 0
        for name in ("targets", "positions"):
            ours, theirs = getattr(both, name)[row, 0], getattr(part, name)[i, 0]
            assert ours[inside].tolist() == theirs[wanted].tolist()
        length = part.lengths[i]
        assert both.tokens[row, :length].tolist() == part.tokens[i, :length].tolist()
        assert set(both.tokens[row, length:]) <= {padding}


def test_groups_without_items_are_left_out():
    hits, groups = np.array([True, False, True]), np.array([0, 0, 2])
    names = ["a", "b", "c"]
    assert accuracy_by_group(hits, groups, names) == {"mean": 0.75, "a": 0.5, "c": 1.0}
    trained = np.array([True, False, True])
    classes = np.array([1, 1, 1])
    assert majority_baseline(classes, groups, trained, ~trained, names) == {"mean": 1.0, "a": 1.0}
    assert accuracy_by_group(hits[:0], groups[:0], names) == {}


@pytest.mark.parametrize(
    "names", [(), ("extraction", "extraction"), ("extracton",), (3,), (["a"],)]
)
def test_lists_of_tasks_have_to_name_different_tasks(names):
    with pytest.raises(UserError, match=r"^finetune\.tasks: "):
        check_tasks(names, "finetune.tasks")
    check_tasks(("extraction",), "finetune.tasks")


def test_a_task_without_questions_is_refused(table):
    none = np.empty((0, 2), int)
    with pytest.raises(UserError, match=r"^tasks: expected at least one question"):
        text_items(table, [], [], none, none[:, 0], none[:, 0])
