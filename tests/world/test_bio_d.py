"""bioD(K,C,D,L,T): entries whose values are random strings."""

import math
import re

import numpy as np
import pytest

from kstore_jax.corpus.encode import compact_vocabulary, encode_biographies, token_table
from kstore_jax.corpus.tokenizer import load_tokenizer
from kstore_jax.errors import UserError
from kstore_jax.readouts.bound import bound_of, span_names
from kstore_jax.world.biographies import Variant, write_biographies
from kstore_jax.world.language import load_language, pieces_to_text
from kstore_jax.world.people import draw_people, full_names, value_texts
from kstore_jax.world.pools import StringValues, load_pools
from tests.chi_square import assert_uniform

WORLD = "bioD(3,2,16,2,5)"
IDS = np.arange(400)


@pytest.fixture(scope="module")
def entries():
    """The language of the world, its first 400 entries, and texts about them."""
    language = load_language(WORLD, 1.0, 0.1)
    people = draw_people(language.pools, 7, IDS)
    return language, people, write_biographies(language, 7, Variant.parse("fresh"), people, IDS)


def test_values_are_pairs_of_16_different_strings_of_two_of_five_symbols(entries):
    language, people, _ = entries
    for pool in language.pools.values.values():
        assert isinstance(pool, StringValues)
        assert len(pool) == 16**2
        assert len(set(pool.strings)) == 16
        assert {word for string in pool.strings for word in string.split()} <= {
            f"x{letter}" for letter in "abcde"
        }
        assert all(len(string.split()) == 2 for string in pool.strings)
        assert pool[16 * 3 + 5] == f"{pool.strings[3]} {pool.strings[5]}"
    assert len({pool.strings for pool in language.pools.values.values()}) == 3
    texts = value_texts(language.pools, people)
    assert texts[0] == tuple(
        pool[v] for pool, v in zip(language.pools.values.values(), people.values[0], strict=True)
    )


def test_each_string_of_a_value_is_drawn_uniformly():
    pool = load_pools(WORLD).values["id_2"]
    people = draw_people(load_pools(WORLD), 0, np.arange(20_000))
    assert isinstance(pool, StringValues)
    for digit in pool.digits(people.values[:, 1]).T:
        assert_uniform(np.bincount(digit, minlength=16))
    assert_uniform(np.bincount(people.values[:, 1], minlength=256))


def test_a_text_states_every_value_and_its_spans_are_known(entries):
    language, people, written = entries
    table = token_table(language, load_tokenizer("word", language, 7, people))
    texts = encode_biographies(table, written)
    names = full_names(language.pools, people)
    assert len(set(names)) == len(IDS)
    for b, values in enumerate(value_texts(language.pools, people)):
        text = pieces_to_text(language, written.texts.pieces[b])
        assert names[b] in text
        tokens = texts.tokens[texts.offsets[b] : texts.offsets[b + 1]]
        for k, value in enumerate(values, 1):
            (sentence,) = [part for part in text.split(".") if f" ID {k} " in part]
            assert value in sentence
            start, end = texts.value_spans[b, k - 1]
            assert table.tokenizer.decode(tokens[start:end]) == f" {value}"
    used = compact_vocabulary(table, people)
    assert set(texts.tokens.tolist()) <= set(used.ids.tolist())


def test_each_attribute_has_one_sentence_and_their_order_is_random(entries):
    language, people, written = entries
    names, values = full_names(language.pools, people), value_texts(language.pools, people)
    orders = set()
    for b in range(len(IDS)):
        text = pieces_to_text(language, written.texts.pieces[b]).strip()
        ids = [int(k) for k in re.findall(r"ID (\d)", text)]
        whose = [f"{names[b]}'s", "Its", "Its"]
        of_ids = zip(whose, ids, strict=True)
        expected = " ".join(f"{who} ID {k} is {values[b][k - 1]}." for who, k in of_ids)
        assert text == expected
        orders.add(tuple(ids))
    assert len(orders) == math.factorial(3)


def test_the_bound_counts_strings_once(entries):
    language, _, _ = entries
    spans = span_names(language.pools)
    assert spans == ("name", "id_1", "id_2", "id_3", "id_1.first", "id_2.first", "id_3.first")
    bound = bound_of(language.pools, 400, np.ones(7))
    assert bound.names == ("name", "id_1", "id_2", "id_3", "strings")
    assert bound.most[1:].tolist() == [8.0, 8.0, 8.0, pytest.approx(2 * math.log2(5) - 4)]
    assert bound.draws.tolist() == [400.0] * 4 + [3 * 16.0]
    nats = math.log(2) * np.array([30.0, 8.0, 8.0, 8.0, 0.1, 0.2, 0.3])
    assert bound.bits(nats)[-1] == pytest.approx(2 * math.log2(5) - 4 - 0.2)
    assert bound.learned(nats) == pytest.approx(48 * (2 * math.log2(5) - 4 - 0.2))


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ("bioD(0,1,2,1,2)", "K and C of at least 1"),
        ("bioD(1,1,9,2,2)", r"at most T\^L = 4 strings"),
        ("bioD(1,9,1000,2,40)", r"at most 2\^62 values"),
        ("bioD(1,2,3)", "bioD.1,2,3. is not a folder"),
    ],
)
def test_strings_that_do_not_exist_are_refused(world, message):
    with pytest.raises(UserError, match=f"^world.folder: .*{message}"):
        load_pools(world)
