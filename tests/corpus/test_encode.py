"""Tokens are GPT-2's tokens of the text, and every span is exactly its value or name."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from kstore_jax.corpus.encode import (
    compact_vocabulary,
    encode_entries,
    encode_questions,
    full_vocabulary,
    padded,
)
from kstore_jax.corpus.tokenizer import END_OF_TEXT, Vocabulary, gpt2
from kstore_jax.world.biographies import VARIANT_EXAMPLES
from kstore_jax.world.language import load_language, text
from kstore_jax.world.people import ATTRIBUTES, people
from kstore_jax.world.questions import ask


def full_names(pools, who) -> list[str]:
    columns = (pools.first_names, pools.middle_names, pools.last_names)
    return [" ".join(c[i] for c, i in zip(columns, row, strict=True)) for row in who.names]


def spans_as_text(rows, spans: np.ndarray) -> list[str]:
    """The text of spans (B, S, 2), row by row, those of no tokens left out."""
    starts = rows.offsets[:-1, None] + spans[..., 0]
    ends = rows.offsets[:-1, None] + spans[..., 1]
    pairs = zip(starts[spans[..., 0] >= 0], ends[spans[..., 0] >= 0], strict=True)
    return gpt2().decode_batch([rows.tokens[start:end].tolist() for start, end in pairs])


def assert_tokens_are_gpt2s(rows, texts: list[str]) -> None:
    expected = gpt2().encode_batch(texts)
    assert len(rows) == len(texts)
    assert_array_equal(rows.lengths, [len(e.ids) for e in expected])
    assert_array_equal(rows.tokens, [token for e in expected for token in e.ids])


def test_known_ids():
    assert gpt2().encode("Hello world").ids == [15496, 995]
    assert gpt2().token_to_id("<|endoftext|>") == END_OF_TEXT == 50256
    assert gpt2().get_vocab_size() == 50257


# 16 variants x 3 seeds x 420 entries: over 20 000 biographies. No seed is simpler than another.
@pytest.mark.parametrize("variant", VARIANT_EXAMPLES)
@settings(max_examples=3, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 2**64), first=st.integers(0, 100_000_000))
def test_biographies_are_gpt2s_tokens_of_their_text(biographies, variant, seed, first):
    language = load_language()  # as an argument it would be printed whole with a failure
    ids = first + np.arange(210 if "2" in variant else 84 if "5" in variant else 420)
    entries = biographies(variant, ids, seed)
    rows = encode_entries(language, entries)
    assert_tokens_are_gpt2s(rows, [text(language, pieces) for pieces in entries.pieces])

    who = people(language.pools, seed, entries.people)
    values = [
        f" {language.pools.values[attribute][value]}"
        for person in who.values
        for attribute, value in zip(ATTRIBUTES, person, strict=True)
    ]
    assert_array_equal(spans_as_text(rows, rows.value_spans), values)

    named = rows.name_spans[..., 0] >= 0
    assert np.array_equal(named, rows.name_spans[..., 1] >= 0)
    assert (named.sum(axis=1) == (6 if variant.endswith("fullname") else 1)).all()
    assert named[:, 0].all()
    names = np.repeat([f" {name}" for name in full_names(language.pools, who)], named.sum(axis=1))
    assert_array_equal(spans_as_text(rows, rows.name_spans), names)


@pytest.mark.parametrize("wording", range(5))
def test_questions_are_gpt2s_tokens_of_their_text(language, wording):
    who = people(language.pools, 5, np.repeat(np.arange(200), 6))
    attributes = np.tile(np.arange(6), 200)
    asked = ask(language, who, attributes, wording)
    rows = encode_questions(language, asked)
    assert_tokens_are_gpt2s(rows, [text(language, pieces) for pieces in asked.pieces])
    held = zip(attributes, who.values[np.arange(1200), attributes], strict=True)
    answers = [f" {language.pools.values[ATTRIBUTES[a]][value]}" for a, value in held]
    assert_array_equal(spans_as_text(rows, rows.value_spans), answers)
    assert np.array_equal(rows.value_spans[:, 0, 1], rows.lengths)
    names = [name.strip() for name in spans_as_text(rows, rows.name_spans)]
    assert_array_equal(names, full_names(language.pools, who))


def test_rows_picks_rows_in_the_order_asked_for(language, biographies):
    rows = encode_entries(language, biographies("multi2", np.arange(20)))
    which = np.array([7, 0, 39, 7])
    picked = rows.rows(which)
    for place, row in enumerate(which):
        expected = rows.tokens[rows.offsets[row] : rows.offsets[row + 1]]
        assert np.array_equal(
            picked.tokens[picked.offsets[place] : picked.offsets[place + 1]], expected
        )
    assert np.array_equal(picked.value_spans, rows.value_spans[which])
    assert np.array_equal(picked.name_spans, rows.name_spans[which])


def test_padded_rows_begin_with_one_padding_token(language, biographies):
    rows = encode_entries(language, biographies("single", np.arange(20)))
    length = int(rows.lengths.max()) + 3
    table = padded(rows, length, 7)
    for b, line in enumerate(table):
        row = rows.tokens[rows.offsets[b] : rows.offsets[b + 1]].tolist()
        assert line.tolist() == [7, *row] + [7] * (length - len(row) - 1)


@given(ids=st.sets(st.integers(0, 50256), min_size=1, max_size=50), data=st.data())
def test_a_vocabulary_and_its_ids_are_one_to_one(ids, data):
    vocabulary = Vocabulary(np.array(sorted(ids)))
    drawn = np.array(data.draw(st.lists(st.sampled_from(sorted(ids)), max_size=20)), np.int64)
    tokens = vocabulary.encode(drawn)
    assert tokens.dtype == np.int32
    assert ((tokens >= 0) & (tokens < vocabulary.size)).all()
    assert np.array_equal(vocabulary.ids[tokens], drawn)
    assert vocabulary.decode(tokens) == gpt2().decode(drawn.tolist(), skip_special_tokens=False)


def test_an_id_left_out_of_a_vocabulary_is_an_error():
    vocabulary = Vocabulary(np.array([5, 7, END_OF_TEXT]))
    assert vocabulary.end_of_text == 2
    with pytest.raises(ValueError, match=r"\[6, 8\]"):
        vocabulary.encode(np.array([[5, 6], [8, 6]]))


def test_the_full_vocabulary_is_gpt2s_own():
    assert np.array_equal(full_vocabulary().encode(np.arange(50257)), np.arange(50257))
    assert full_vocabulary().end_of_text == END_OF_TEXT


def test_the_compact_vocabulary_covers_all_texts_about_its_people(language, biographies):
    ids = np.arange(300)
    who = people(language.pools, 0, ids)
    vocabulary = compact_vocabulary(language, who)
    assert (np.diff(vocabulary.ids) > 0).all()
    assert vocabulary.ids[vocabulary.end_of_text] == END_OF_TEXT
    written = [encode_entries(language, biographies(v, ids)) for v in VARIANT_EXAMPLES]
    asked = [
        encode_questions(language, ask(language, who, np.full(300, a), wording))
        for a in range(6)
        for wording in range(5)
    ]
    for rows in (*written, *asked):
        vocabulary.encode(rows.tokens)
    some = written[0].tokens[:500]
    assert vocabulary.decode(vocabulary.encode(some)) == gpt2().decode(some.tolist())
    assert vocabulary.size < 5000


def test_the_compact_vocabulary_holds_nothing_that_only_others_need(language):
    few, many = (
        compact_vocabulary(language, people(language.pools, 0, np.arange(n))) for n in (3, 300)
    )
    assert set(few.ids) < set(many.ids)
