"""The six questions about a person: their texts, spans and baselines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.corpus.encode import compact_vocabulary
from kstore_jax.tasks.base import (
    TASKS,
    TaskConfig,
    accuracy_by_column,
    accuracy_by_group,
    majority_baseline,
    majority_share,
)
from kstore_jax.world.people import draw_people
from tests.pipeline.runners import full_names
from tests.tasks.questions import question_examples
from tests.world.bundled import ATTRIBUTES

WORDINGS = 5


def person_and_attribute(row: int) -> tuple[int, int]:
    return divmod(row, len(ATTRIBUTES))


@given(seed=st.integers(0, 2**31), wording=st.integers(0, WORDINGS - 1))
def test_examples_of_a_causal_model_ask_first_and_end_with_the_answer(
    language, table, seed, wording
):
    people = draw_people(language.pools, seed, np.arange(3))
    vocabulary = compact_vocabulary(table, people)
    names = full_names(language.pools, people)
    examples = question_examples(table, people, vocabulary, wording)
    assert examples.positions.shape[:2] == (3 * len(ATTRIBUTES), 1)
    for row in range(len(examples)):
        person, a = person_and_attribute(row)
        value = language.pools.values[ATTRIBUTES[a]][people.values[person, a]]
        inside = examples.weights[row, 0] > 0
        assert vocabulary.decode(examples.targets[row, 0][inside]) == f" {value}<|endoftext|>"
        positions = examples.positions[row, 0][inside]
        assert positions.tolist() == [*range(positions[0], examples.lengths[row] - 1)]
        question = vocabulary.decode(examples.tokens[row, : positions[0] + 1])
        assert question.endswith("? Answer:")
        assert value not in question.replace(names[person], "")


@given(seed=st.integers(0, 2**31), wording=st.integers(0, WORDINGS - 1))
def test_examples_of_a_bidirectional_model_mask_every_token_of_the_answer(
    language, table, seed, wording
):
    people = draw_people(language.pools, seed, np.arange(3))
    vocabulary = compact_vocabulary(table, people)
    names, mask = full_names(language.pools, people), vocabulary.size
    examples = question_examples(table, people, vocabulary, wording, mask)
    for row in range(len(examples)):
        person, a = person_and_attribute(row)
        value = language.pools.values[ATTRIBUTES[a]][people.values[person, a]]
        inside = examples.weights[row, 0] > 0
        assert vocabulary.decode(examples.targets[row, 0][inside]) == f" {value}"
        tokens = examples.tokens[row, : examples.lengths[row]]
        masked = np.flatnonzero(tokens == mask)
        assert examples.positions[row, 0][inside].tolist() == masked.tolist()
        assert vocabulary.decode(tokens[: masked[0]]).endswith("? Answer:")
        assert tokens[masked[-1] + 1 :].tolist() == [vocabulary.end_of_text]
        visible = vocabulary.decode(tokens[tokens != mask])
        assert value not in visible.replace(names[person], "")


def test_wordings_differ_in_their_questions_alone(language, table):
    people = draw_people(language.pools, 0, np.arange(2))
    vocabulary = compact_vocabulary(table, people)
    wordings = [question_examples(table, people, vocabulary, w) for w in range(WORDINGS)]
    for row in range(2 * len(ATTRIBUTES)):
        texts = {vocabulary.decode(w.tokens[row, : w.lengths[row]]) for w in wordings}
        assert len(texts) == WORDINGS
        assert len({w.targets[row].tobytes() for w in wordings}) == 1


def test_there_are_no_more_wordings(language):
    assert language.questions.shape[1] == WORDINGS


def test_accuracy_by_attribute_is_a_share_of_people():
    hits = np.random.default_rng(0).random((40, len(ATTRIBUTES))) < 0.3
    shares = accuracy_by_column(hits, ATTRIBUTES)
    groups = np.tile(np.arange(len(ATTRIBUTES)), 40)
    assert accuracy_by_group(hits.ravel(), groups, ATTRIBUTES) == shares
    assert list(shares) == ["mean", *ATTRIBUTES]
    assert shares["major"] == sum(hits[:, ATTRIBUTES.index("major")]) / 40
    assert shares["mean"] == pytest.approx(hits.mean())


def test_majority_share_counts_the_most_frequent_value_of_the_others():
    assert majority_share(np.array([3, 1, 3, 2]), np.array([3, 3, 1, 5])) == 0.5
    assert majority_share(np.array([7, 7, 1]), np.array([1, 1, 1])) == 0.0
    draw = np.random.default_rng(0)
    trained, held_out = draw.integers(0, 4, 1001), draw.integers(0, 4, 500)
    best = max(range(4), key=lambda value: sum(x == value for x in trained))
    assert majority_share(trained, held_out) == sum(x == best for x in held_out) / 500


def test_majority_baseline_guesses_held_out_people_by_the_others():
    values = np.zeros((5, len(ATTRIBUTES)), int)
    values[:, 0] = [4, 4, 9, 9, 4]  # the last two are held out
    trained = np.repeat([True, True, True, False, False], len(ATTRIBUTES))
    groups = np.tile(np.arange(len(ATTRIBUTES)), 5)
    baseline = majority_baseline(values.ravel(), groups, trained, ~trained, ATTRIBUTES)
    assert baseline["birth_date"] == 0.5
    assert baseline["major"] == 1.0
    assert baseline["mean"] == pytest.approx((0.5 + 5) / 6)


def test_items_are_about_one_person_and_one_attribute_each(language, table):
    people = draw_people(language.pools, 0, np.arange(4))
    items = TASKS["extraction"].items(table, people, TaskConfig(), 0, 1)
    assert items.people.ravel().tolist() == np.repeat(np.arange(4), 6).tolist()
    assert items.groups.tolist() == [*range(6)] * 4
    assert items.classes.tolist() == people.values.ravel().tolist()
    assert items.answers.tolist() == items.texts.value_spans[:, 0, 0].tolist()
    members = np.array([True, False, False, True])
    assert items.about(members).tolist() == np.repeat(members, 6).tolist()
