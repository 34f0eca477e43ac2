"""Texts, positions, classes and shared tokens of the probes."""

import jax
import numpy as np
import pytest

from kstore_jax.corpus.encode import compact_vocabulary, encode_biographies
from kstore_jax.corpus.tokenizer import Vocabulary, gpt2
from kstore_jax.model.forward import forward, init
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts.probe_data import (
    ProbeExamples,
    all_tasks,
    biography_examples,
    class_tokens,
    first_token_tasks,
    name_examples,
    person_labels,
    shared_tokens,
)
from kstore_jax.world.language import load_language
from kstore_jax.world.people import People, draw_people
from tests.pipeline.runners import full_names
from tests.world.bundled import ATTRIBUTES

IDS = np.arange(30)

TASKS = all_tasks(load_language())
ATTRIBUTE_OF_TASK = [ATTRIBUTES.index(name) for name, _ in TASKS]
FIRST_TOKEN_TASKS = first_token_tasks(load_language())


def value_of(language, people: People, person: int, attribute: str) -> str:
    return language.pools.values[attribute][people.values[person, ATTRIBUTES.index(attribute)]]


def first_token(vocabulary: Vocabulary, text: str) -> int:
    """The model's first token of a text after a space."""
    return int(vocabulary.encode(np.array(gpt2().encode([f" {text}"])[0][:1]))[0])


@pytest.fixture(scope="module", params=["single", "multi2+permute", "single+permute1+fullname"])
def biography_data(request, table, biographies) -> tuple[ProbeExamples, Vocabulary, People]:
    """Examples of some biographies, the vocabulary, and the person of each biography."""
    written = biographies(request.param, IDS)
    texts = encode_biographies(table, written)
    people = draw_people(table.language.pools, 0, written.people)
    vocabulary = compact_vocabulary(table, people)
    examples = biography_examples(
        texts, person_labels(table, people, TASKS)[0], vocabulary, ATTRIBUTE_OF_TASK
    )
    return examples, vocabulary, people


def test_what_follows_the_last_position_read_is_left_out(biography_data):
    examples, vocabulary, _ = biography_data
    shorter = examples.until_last_read()
    length = shorter.tokens.shape[1]
    assert examples.positions.max() < length < examples.tokens.shape[1]
    assert np.array_equal(shorter.tokens, examples.tokens[:, :length])
    assert shorter.lengths.max() == length < examples.lengths.max()
    shape = Shape(vocabulary=vocabulary.size, layers=1, heads=2, width=16)
    params = init(shape, jax.random.key(0))
    read, whole = (
        forward(shape, params, rows.tokens[:8], positions=rows.positions[:8])
        for rows in (shorter, examples)
    )
    np.testing.assert_allclose(read, whole, rtol=1e-5, atol=1e-5)


def test_every_value_begins_right_after_a_position(language, biography_data):
    examples, vocabulary, people = biography_data
    assert (np.diff(examples.positions, axis=1) > 0).all()
    for row in range(len(examples)):
        continuations = [
            vocabulary.decode(examples.tokens[row, position + 1 :]).removeprefix(" ")
            for position in examples.positions[row]
        ]
        for name in ATTRIBUTES:
            value = value_of(language, people, row, name)
            assert any(text.startswith(value) for text in continuations)


def test_a_task_is_active_up_to_the_position_before_its_value(language, biography_data):
    examples, vocabulary, people = biography_data
    assert examples.active.shape == (len(examples), 6, len(TASKS))
    for row in range(len(examples)):
        for t, (name, _) in enumerate(TASKS):
            value = value_of(language, people, row, name)
            last = np.flatnonzero(examples.active[row, :, t]).max()
            assert examples.active[row, : last + 1, t].all()
            position = examples.positions[row, last]
            before = vocabulary.decode(examples.tokens[row, : position + 1])
            after = vocabulary.decode(examples.tokens[row, position + 1 :])
            assert after.strip().startswith(value)
            if name != "company_city":  # which may be the city of birth as well
                assert value not in before


def test_names_are_read_at_the_end_of_text_after_them(language, table):
    people = draw_people(language.pools, 0, IDS)
    vocabulary = compact_vocabulary(table, people)
    examples = name_examples(table, people, vocabulary, TASKS)
    for row, name in enumerate(full_names(language.pools, people)):
        position = examples.positions[row, 0]
        assert examples.tokens[row, 0] == examples.tokens[row, position] == vocabulary.end_of_text
        assert vocabulary.decode(examples.tokens[row, 1:position]).strip() == name
    assert examples.active.all()


def test_classes_are_values_or_their_first_tokens(language, table):
    people = draw_people(language.pools, 0, np.arange(400))
    labels, num_classes = person_labels(table, people, TASKS)
    for t, (name, kind) in enumerate(TASKS):
        pool = language.pools.values[name]
        values = [value_of(language, people, person, name) for person in range(400)]
        assert labels[:, t].min() >= 0
        assert labels[:, t].max() < num_classes[t]
        if kind == "whole":
            assert num_classes[t] == len(pool)
            assert [pool[label] for label in labels[:, t]] == values
        else:
            assert num_classes[t] <= len(pool)
            label_of_word: dict[str, int] = {}
            for value, label in zip(values, labels[:, t], strict=True):
                assert label_of_word.setdefault(value.split()[0], label) == label
    assert num_classes[0] == 12  # the first token of a date is its month
    assert {name for name, kind in TASKS if kind == "whole"} == set(ATTRIBUTES[1:])


def test_the_token_of_a_class_is_the_first_token_of_its_values(language, table):
    people = draw_people(language.pools, 0, np.arange(50))
    vocabulary = compact_vocabulary(table, people)
    labels, _ = person_labels(table, people, FIRST_TOKEN_TASKS)
    tokens = class_tokens(table, vocabulary)
    for t, (name, _) in enumerate(FIRST_TOKEN_TASKS):
        for person, label in enumerate(labels[:, t]):
            value = value_of(language, people, person, name)
            assert tokens[t][label] == first_token(vocabulary, value)


def test_shared_tokens_are_of_templates_and_not_of_names(language, table):
    people = draw_people(language.pools, 0, np.arange(50))
    vocabulary = compact_vocabulary(table, people)
    shared = set(shared_tokens(table, vocabulary).tolist())
    assert vocabulary.end_of_text in shared
    assert {first_token(vocabulary, word) for word in ("born", "university")} < shared
    surnames = {language.pools.names[-1][k] for k in people.names[:, 2]}
    first_tokens = {first_token(vocabulary, name) for name in surnames}
    assert len(first_tokens & shared) < 0.2 * len(first_tokens)
