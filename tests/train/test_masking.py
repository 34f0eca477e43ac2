"""Whole words are masked, in the shares of the paper, by a function of the key alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.corpus.encode import encode_biographies, full_vocabulary
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.model.forward import forward, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.train.masking import WordMasking, mask_words, max_predictions, word_starts
from kstore_jax.train.objectives import cross_entropy, masked_words
from tests.model import reference

END, MASK = 0, 50


@pytest.fixture(scope="module")
def words(table) -> WordMasking:
    """Those of GPT-2's vocabulary."""
    vocabulary = full_vocabulary(table.tokenizer)
    return WordMasking(*vocabulary.word_bounds, vocabulary.end_of_text, vocabulary.size)


def some_words() -> WordMasking:
    """Of 50 tokens the even ones begin a word, and the first five are words of their own."""
    tokens = np.arange(50)
    return WordMasking(
        starts_word=tokens % 2 == 0, joins_next=tokens >= 5, end_of_text=END, mask=MASK
    )


def keys(rows: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), rows)


@given(st.text("ab c.,'-1\u00e9", min_size=1, max_size=40))
def test_words_are_runs_of_letters_and_digits_and_all_else_stands_alone(words, text):
    ids = gpt2().encode([f" {text}"])[0]
    starts = np.asarray(word_starts(words, jnp.array([ids], jnp.int32)))[0]
    found, pieces = [], [gpt2().backend.id_to_token(i) for i in ids]
    for piece, begins in zip(pieces, starts, strict=True):
        found += [piece] if begins else []
        if not begins:
            found[-1] += piece
    assert "".join(found) == "".join(pieces)
    for one, other in itertools.pairwise(found):  # nothing is cut inside a word
        assert not (is_letter(one[-1]) and is_letter(other[0]))
    for piece, begins in zip(pieces, starts, strict=True):  # and nothing joined across its end
        assert begins or is_letter(piece[0])


def is_letter(character: str) -> bool:
    return character != "\u0120" and (character.isalnum() or not character.isascii())


@pytest.mark.parametrize("text", [" Massachusetts Institute", " October 2, 1996", " St. Paul, MN"])
def test_values_are_cut_into_their_words(words, text):
    ids = gpt2().encode([text])[0]
    starts = np.asarray(word_starts(words, jnp.array([ids], jnp.int32)))[0]
    found = "".join(
        ("|" if begins else "") + gpt2().decode([i]) for i, begins in zip(ids, starts, strict=True)
    )
    assert found == text.replace(" ", "| ").replace(",", "|,").replace(".", "|.")


def test_fifteen_percent_of_the_words_are_chosen_and_of_them_eighty_ten_ten(
    words, table, biographies
):
    rows = encode_biographies(table, biographies("multi2+permute", np.arange(2000)))
    length = 256
    texts = rows.tokens[: len(rows.tokens) // length * length].reshape(-1, length).astype(np.int32)
    given, chosen = jax.jit(functools.partial(mask_words, words))(keys(len(texts)), texts)
    starts = np.asarray(word_starts(words, texts))
    given, chosen = np.asarray(given), np.asarray(chosen)
    number = starts.cumsum(axis=1) + 10_000 * np.arange(len(texts))[:, None]
    assert (given == texts)[~chosen].all()
    for word_is in (chosen, given == words.mask):  # the same for each token of a word
        where = np.unique(number[word_is])
        assert word_is[np.isin(number, where)].all()
    count = starts.sum()
    within(chosen[starts].mean(), 0.15, count)
    of_chosen = chosen & starts
    within((given == words.mask)[of_chosen].mean(), 0.8, of_chosen.sum())
    within((given == texts)[of_chosen].mean(), 0.1, of_chosen.sum())
    random = given[chosen & (given != texts) & (given != words.mask)]
    assert random.min() < 2000
    assert random.max() > words.mask - 2000
    assert chosen.sum(1).max() <= max_predictions(length)


def within(share: float, expected: float, count: int) -> None:
    """Five standard deviations of a share of so many draws."""
    assert abs(share - expected) < 5 * (expected * (1 - expected) / count) ** 0.5


def test_the_end_of_text_is_never_masked():
    texts = np.where(np.random.default_rng(0).random((200, 64)) < 0.5, END, 6).astype(np.int32)
    given, chosen = mask_words(some_words(), keys(200), texts)
    assert chosen.any()
    assert not np.asarray(chosen)[texts == END].any()
    assert (np.asarray(given)[texts == END] == END).all()


def test_a_row_depends_on_its_own_key_alone():
    texts = np.random.default_rng(0).integers(0, 50, (6, 40)).astype(np.int32)
    whole = mask_words(some_words(), keys(6), texts)
    alone = mask_words(some_words(), keys(6)[2:3], texts[2:3])
    assert all(np.array_equal(a[2], b[0]) for a, b in zip(whole, alone, strict=True))
    other = mask_words(some_words(), keys(6, 1), texts)
    assert not np.array_equal(whole[1], other[1])


SHAPE = Shape(vocabulary=64, layers=1, heads=2, width=16, direction="bidirectional")


def test_the_loss_is_the_mean_over_all_masked_tokens():
    """As by the logits of every position."""
    params = reference.parameters(SHAPE)
    texts = np.random.default_rng(0).integers(0, 50, (16, 41)).astype(np.int32)
    batch = {"tokens": texts, "keys": keys(16)}
    totals, counts = masked_words(SHAPE, some_words())(params, batch)
    given, chosen = mask_words(some_words(), batch["keys"], texts[:, :-1])
    logits = unembed(SHAPE, params, forward(SHAPE, params, given)).reshape(-1, 64)
    every = cross_entropy(logits, jnp.asarray(texts[:, :-1].ravel()))
    assert int(counts) == int(chosen.sum())
    np.testing.assert_allclose(totals, every[np.asarray(chosen).ravel()].sum(), rtol=1e-5)
