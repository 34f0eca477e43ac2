"""Padded texts and their spans, against the same in plain Python."""

import collections
import re

import numpy as np
import pytest

from kstore_jax.corpus.encode import (
    compact_vocabulary,
    encode_biographies,
    encode_questions,
    full_vocabulary,
)
from kstore_jax.corpus.examples import padded_tokens, span_examples, word_examples
from kstore_jax.world.people import draw_people
from kstore_jax.world.questions import write_questions

IDS = np.arange(40)


@pytest.fixture(params=["gpt2", "compact"])
def vocabulary(request, language, table):
    if request.param == "gpt2":
        return full_vocabulary(table.tokenizer)
    return compact_vocabulary(table, draw_people(language.pools, 0, IDS))


def row(rows, b: int) -> np.ndarray:
    return rows.tokens[rows.offsets[b] : rows.offsets[b + 1]]


def assert_spans_are_right(rows, spans, vocabulary):
    examples = span_examples(rows, spans, vocabulary)
    longest = (spans[..., 1] - spans[..., 0]).max()
    assert len(examples) == len(rows)
    assert examples.positions.shape == (*spans.shape[:2], longest)
    for b, s in np.ndindex(spans.shape[:2]):
        start, end = spans[b, s]
        padding = longest - (end - start)
        # Each padded row starts with the end of text: token k of the text is at position k + 1 and
        # is predicted from position k.
        positions = [*range(start, end)] + [0] * padding
        targets = [*vocabulary.encode(row(rows, b)[start:end])] + [0] * padding
        assert examples.positions[b, s].tolist() == positions
        assert examples.targets[b, s].tolist() == targets
        assert examples.weights[b, s].tolist() == [1.0] * (end - start) + [0.0] * padding
    dtypes = [examples.tokens.dtype, examples.positions.dtype, examples.targets.dtype]
    assert dtypes == [np.int32] * 3
    assert examples.weights.dtype == np.float32


def test_answers_of_questions(language, table, vocabulary):
    people = draw_people(language.pools, 0, np.repeat(IDS, 6))
    attributes = np.tile(np.arange(6), len(IDS))
    rows = encode_questions(table, write_questions(language, people, attributes))
    assert_spans_are_right(rows, rows.value_spans, vocabulary)


def test_values_and_names_of_biographies(table, biographies, vocabulary):
    rows = encode_biographies(table, biographies("multi2+permute", IDS))
    assert_spans_are_right(rows, rows.value_spans, vocabulary)
    assert_spans_are_right(rows, rows.name_spans, vocabulary)


def test_padded_rows_begin_and_end_with_the_end_of_text(table, biographies, vocabulary):
    rows = encode_biographies(table, biographies("single", IDS))
    tokens, lengths = padded_tokens(rows, vocabulary)
    assert lengths.tolist() == (1 + rows.lengths).tolist()
    assert tokens.shape[1] % 8 == 0
    assert 1 + rows.lengths.max() <= tokens.shape[1] < 1 + rows.lengths.max() + 8
    end = vocabulary.end_of_text
    for b, line in enumerate(tokens.tolist()):
        text = vocabulary.encode(row(rows, b)).tolist()
        assert line == [end, *text] + [end] * (len(line) - len(text) - 1)


MASK = 60_000


def test_a_masked_span_is_predicted_from_its_own_positions(language, table, vocabulary):
    people = draw_people(language.pools, 0, np.repeat(IDS, 6))
    attributes = np.tile(np.arange(6), len(IDS))
    rows = encode_questions(table, write_questions(language, people, attributes))
    unmasked = span_examples(rows, rows.value_spans, vocabulary)
    masked = span_examples(rows, rows.value_spans, vocabulary, MASK)
    assert np.array_equal(masked.targets, unmasked.targets)
    assert np.array_equal(masked.weights, unmasked.weights)
    assert np.array_equal(masked.lengths, unmasked.lengths)
    for b in range(len(rows)):
        inside = masked.weights[b, 0] > 0
        positions = masked.positions[b, 0][inside]
        assert np.flatnonzero(masked.tokens[b] == MASK).tolist() == positions.tolist()
        restored = masked.tokens[b].copy()
        restored[positions] = masked.targets[b, 0][inside]
        assert np.array_equal(restored, unmasked.tokens[b])


def test_words_of_values_are_masked_one_at_a_time(table, biographies, vocabulary):
    rows = encode_biographies(table, biographies("multi2+permute", IDS))
    unmasked = span_examples(rows, rows.value_spans, vocabulary)
    words = collections.defaultdict(list)
    for which, part in word_examples(rows, rows.value_spans, vocabulary, MASK):
        for b, line, positions, targets, weights in zip(
            which, part.tokens, part.positions, part.targets, part.weights, strict=True
        ):
            masked = weights > 0
            assert np.flatnonzero(line == MASK).tolist() == sorted(positions[masked])
            restored = line.copy()
            restored[positions[masked]] = targets[masked]
            assert np.array_equal(restored, unmasked.tokens[b])
            for s in np.flatnonzero(masked.any(axis=1)):
                words[b, s].append(vocabulary.decode(targets[s][masked[s]]))
    for b, s in np.ndindex(len(rows), 6):
        value = vocabulary.decode(unmasked.targets[b, s][unmasked.weights[b, s] > 0])
        assert "".join(words[b, s]) == value
        letters = [word for word in words[b, s] if word.strip(" ").isalnum()]
        assert letters == re.findall(r"(?<!') ?[A-Za-z0-9]+", value)
