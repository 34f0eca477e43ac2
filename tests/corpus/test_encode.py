"""Tokens are GPT-2's tokens of the text, and spans decode to values and names."""

import itertools
import shutil

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from kstore_jax.corpus.encode import (
    compact_vocabulary,
    encode_biographies,
    encode_questions,
    full_vocabulary,
    pad_texts,
    token_table,
)
from kstore_jax.corpus.tokenizer import Vocabulary, gpt2
from kstore_jax.world.biographies import FIG3_VARIANTS, OTHER_VARIANTS, Variant, write_biographies
from kstore_jax.world.language import load_language, pieces_to_text
from kstore_jax.world.people import draw_people, full_names
from kstore_jax.world.questions import write_questions
from kstore_jax.world.schema import BUNDLED_WORLD
from tests.world.bundled import ATTRIBUTES


def texts_of(language, written) -> list[str]:
    return [pieces_to_text(language, pieces) for pieces in written.texts.pieces]


def spans_as_text(rows, spans: np.ndarray) -> list[str]:
    """The text of spans (B, S, 2), row by row."""
    bounds = rows.offsets[:-1, None, None] + spans
    pieces = [rows.tokens[start:end].tolist() for start, end in bounds.reshape(-1, 2)]
    return gpt2().backend.decode_batch(pieces)


def assert_tokens_are_gpt2s(rows, texts: list[str]) -> None:
    expected = gpt2().backend.encode_batch(texts)
    assert len(rows) == len(texts)
    assert_array_equal(rows.lengths, [len(e.ids) for e in expected])
    assert_array_equal(rows.tokens, [token for e in expected for token in e.ids])


def test_known_ids():
    assert gpt2().backend.encode("Hello world").ids == [15496, 995]
    assert gpt2().backend.token_to_id("<|endoftext|>") == gpt2().end_of_text == 50256
    assert gpt2().size == 50257
    assert gpt2().dtype == np.uint16


# 25 variants x 3 seeds x 420 biographies. No seed is simpler than another: no shrinking.
@pytest.mark.parametrize("variant", FIG3_VARIANTS + OTHER_VARIANTS)
@settings(max_examples=3, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 2**64), first=st.integers(0, 100_000_000))
def test_biographies_are_gpt2s_tokens_of_their_text(biographies, variant, seed, first):
    language = load_language()  # as an argument a failure would print it in full
    parsed = Variant.parse(variant)
    ids = first + np.arange(420 // parsed.biographies_per_person)
    written = biographies(variant, ids, seed)
    rows = encode_biographies(token_table(language, gpt2()), written)
    assert_tokens_are_gpt2s(rows, texts_of(language, written))

    people = draw_people(language.pools, seed, written.people)
    values = [
        f" {language.pools.values[attribute][value]}"
        for person in people.values
        for attribute, value in zip(ATTRIBUTES, person, strict=True)
    ]
    assert_array_equal(spans_as_text(rows, rows.value_spans), values)
    assert rows.name_spans.shape == (len(rows), 6 if parsed.fullname else 1, 2)
    names = [f" {name}" for name in full_names(language.pools, people)]
    expected = np.repeat(names, 1 + 5 * parsed.fullname)
    assert_array_equal(spans_as_text(rows, rows.name_spans), expected)


def test_a_name_inside_a_city_or_a_company_has_no_span(tmp_path):
    folder = tmp_path / "world" / "pools"
    shutil.copytree(BUNDLED_WORLD, folder.parent)
    for pool in ("first_names", "middle_names", "last_names"):
        (folder / f"{pool}.txt").write_text("Ana\nSanta\nTesla\n")
    (folder / "birth_cities.txt").write_text("Santa Ana, CA\nAna, CA\n")
    (folder / "companies.txt").write_text("Tesla; Santa Ana, CA\nTesla Ana; Ana, CA\n")
    language = load_language(str(folder.parent))
    people = draw_people(language.pools, 1, np.repeat(np.arange(27), 20))
    variant, numbers = Variant.parse("multi20+permute"), np.tile(np.arange(20), 27)
    written = write_biographies(language, 1, variant, people, numbers)
    rows = encode_biographies(token_table(language, gpt2()), written)
    assert_tokens_are_gpt2s(rows, texts_of(language, written))
    for a, attribute in enumerate(ATTRIBUTES):
        values = spans_as_text(rows, rows.value_spans[:, [a]])
        assert values == [f" {language.pools.values[attribute][v]}" for v in people.values[:, a]]
    names = [f" {name}" for name in full_names(language.pools, people)]
    assert spans_as_text(rows, rows.name_spans) == names


@pytest.mark.parametrize("wording", range(5))
def test_questions_are_gpt2s_tokens_of_their_text(language, table, wording):
    people = draw_people(language.pools, 5, np.repeat(np.arange(200), 6))
    attributes = np.tile(np.arange(6), 200)
    written = write_questions(language, people, attributes, wording)
    rows = encode_questions(table, written)
    assert_tokens_are_gpt2s(rows, texts_of(language, written))
    facts = zip(attributes, people.values[np.arange(1200), attributes], strict=True)
    answers = [f" {language.pools.values[ATTRIBUTES[a]][value]}" for a, value in facts]
    assert_array_equal(spans_as_text(rows, rows.value_spans), answers)
    assert np.array_equal(rows.value_spans[:, 0, 1], rows.lengths)
    names = [name.strip() for name in spans_as_text(rows, rows.name_spans)]
    assert_array_equal(names, full_names(language.pools, people))


def test_take_returns_rows_in_the_given_order(table, biographies):
    rows = encode_biographies(table, biographies("multi2", np.arange(20)))
    which = np.array([7, 0, 39, 7])
    picked = rows.take(which)
    for i, row in enumerate(which):
        expected = rows.tokens[rows.offsets[row] : rows.offsets[row + 1]]
        actual = picked.tokens[picked.offsets[i] : picked.offsets[i + 1]]
        assert np.array_equal(actual, expected)
    assert np.array_equal(picked.value_spans, rows.value_spans[which])
    assert np.array_equal(picked.name_spans, rows.name_spans[which])


def test_pad_texts_puts_one_padding_token_in_front(table, biographies):
    rows = encode_biographies(table, biographies("single", np.arange(20)))
    length = int(rows.lengths.max()) + 3
    for b, line in enumerate(pad_texts(rows, length, 7)):
        row = rows.tokens[rows.offsets[b] : rows.offsets[b + 1]].tolist()
        assert line.tolist() == [7, *row] + [7] * (length - len(row) - 1)


@given(ids=st.sets(st.integers(0, 50256), min_size=1, max_size=50), data=st.data())
def test_a_vocabulary_maps_its_ids_one_to_one(ids, data):
    vocabulary = Vocabulary(gpt2(), np.array(sorted(ids)))
    drawn = np.array(data.draw(st.lists(st.sampled_from(sorted(ids)), max_size=20)), np.int64)
    tokens = vocabulary.encode(drawn)
    assert tokens.dtype == np.int32
    assert ((tokens >= 0) & (tokens < vocabulary.size)).all()
    assert np.array_equal(vocabulary.ids[tokens], drawn)
    assert vocabulary.decode(tokens) == gpt2().decode(drawn.tolist())


def test_an_id_outside_a_vocabulary_is_an_error():
    vocabulary = Vocabulary(gpt2(), np.array([5, 7, 50256]))
    assert vocabulary.end_of_text == 2
    with pytest.raises(ValueError, match=r"\[6, 8\]"):
        vocabulary.encode(np.array([[5, 6], [8, 6]]))


def test_the_full_vocabulary_is_gpt2s():
    assert np.array_equal(full_vocabulary(gpt2()).encode(np.arange(50257)), np.arange(50257))
    assert full_vocabulary(gpt2()).end_of_text == 50256


def test_the_compact_vocabulary_covers_all_texts_about_its_people(language, table, biographies):
    ids = np.arange(300)
    people = draw_people(language.pools, 0, ids)
    vocabulary = compact_vocabulary(table, people)
    with_reverse = compact_vocabulary(table, people, reverse=True)
    assert (np.diff(vocabulary.ids) > 0).all()
    assert vocabulary.ids[vocabulary.end_of_text] == 50256
    for a, wording in itertools.product(range(6), range(5)):
        written = write_questions(language, people, np.full(300, a), wording)
        vocabulary.encode(encode_questions(table, written).tokens)
    for variant in FIG3_VARIANTS + OTHER_VARIANTS:
        rows = encode_biographies(table, biographies(variant, ids))
        reverse = Variant.parse(variant).name_at
        (with_reverse if reverse else vocabulary).encode(rows.tokens)
    some = rows.tokens[:500]
    decoded = with_reverse.decode(with_reverse.encode(some))
    assert decoded == gpt2().decode(some.tolist())
    assert vocabulary.size < with_reverse.size < 5000


def test_the_compact_vocabulary_leaves_out_ids_of_other_people(language, table):
    few, many = (
        compact_vocabulary(table, draw_people(language.pools, 0, np.arange(n))) for n in (3, 300)
    )
    assert set(few.ids) < set(many.ids)
