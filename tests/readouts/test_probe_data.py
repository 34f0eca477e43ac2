"""Probes read the token just before a value, and ask for what is not stated yet."""

import numpy as np
import pytest

from kstore_jax.corpus.encode import compact_vocabulary, encode_biographies
from kstore_jax.readouts.probe_data import TASKS, biography_examples, name_examples, person_labels
from kstore_jax.world.people import ATTRIBUTES, draw_people

IDS = np.arange(30)


@pytest.fixture(scope="module", params=["single", "multi2+permute", "single+permute1+fullname"])
def read(request, table, biographies):
    """The examples of some biographies, their text, the vocabulary, and the people in them."""
    written = biographies(request.param, IDS)
    rows = encode_biographies(table, written)
    who = draw_people(table.language.pools, 0, written.people)
    vocabulary = compact_vocabulary(table, who)
    examples = biography_examples(rows, person_labels(table, who)[0], vocabulary)
    return examples, vocabulary, who


def test_every_value_begins_right_after_a_position_read(language, read):
    examples, vocabulary, who = read
    assert (np.diff(examples.positions, axis=1) > 0).all()
    for row in range(len(examples)):
        after = [
            vocabulary.decode(examples.tokens[row, place + 1 :]).removeprefix(" ")
            for place in examples.positions[row]
        ]
        for a, name in enumerate(ATTRIBUTES):
            value = language.pools.values[name][who.values[row, a]]
            assert any(text.startswith(value) for text in after)


def test_a_task_is_asked_at_the_positions_up_to_that_of_its_statement(language, read):
    examples, vocabulary, who = read
    assert examples.active.shape == (len(examples), 6, len(TASKS))
    for row in range(len(examples)):
        for t, (name, _) in enumerate(TASKS):
            value = language.pools.values[name][who.values[row, ATTRIBUTES.index(name)]]
            last = np.flatnonzero(examples.active[row, :, t]).max()
            assert examples.active[row, : last + 1, t].all()
            place = examples.positions[row, last]
            told = vocabulary.decode(examples.tokens[row, : place + 1])
            assert vocabulary.decode(examples.tokens[row, place + 1 :]).strip().startswith(value)
            if name != "company_city":  # which may be the city of birth as well
                assert value not in told


def test_names_are_read_at_the_end_of_text_that_closes_them(language, table):
    who = draw_people(language.pools, 0, IDS)
    vocabulary = compact_vocabulary(table, who)
    examples = name_examples(table, who, vocabulary)
    pools = language.pools
    for row, (first, middle, last) in enumerate(who.names):
        place = examples.positions[row, 0]
        assert examples.tokens[row, 0] == examples.tokens[row, place] == vocabulary.end_of_text
        name = f"{pools.first_names[first]} {pools.middle_names[middle]} {pools.last_names[last]}"
        assert vocabulary.decode(examples.tokens[row, 1:place]).strip() == name
    assert examples.active.all()


def test_classes_are_values_or_their_first_tokens(language, table):
    who = draw_people(language.pools, 0, np.arange(400))
    found, classes = person_labels(table, who)
    pools = language.pools
    for t, (name, kind) in enumerate(TASKS):
        values = [pools.values[name][v] for v in who.values[:, ATTRIBUTES.index(name)]]
        assert found[:, t].min() >= 0
        assert found[:, t].max() < classes[t]
        if kind == "whole":
            assert classes[t] == len(pools.values[name])
            assert all(pools.values[name][c] == v for c, v in zip(found[:, t], values, strict=True))
        else:
            assert classes[t] <= len(pools.values[name])
            month_or_word = [v.split()[0] for v in values]
            same = {}
            for word, c in zip(month_or_word, found[:, t], strict=True):
                assert same.setdefault(word, c) == c
    assert classes[0] == 12  # the first token of a date is its month
    assert {name for name, kind in TASKS if kind == "whole"} == set(ATTRIBUTES[1:])
