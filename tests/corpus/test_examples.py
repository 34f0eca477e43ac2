"""Padded rows and their spans, against the same written slowly."""

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
        filling = longest - (end - start)
        # The token in front of token k of the row is token k of the line, which the end of text
        # begins; that is from where k is predicted.
        positions = [*range(start, end)] + [0] * filling
        targets = [*vocabulary.encode(row(rows, b)[start:end])] + [0] * filling
        assert examples.positions[b, s].tolist() == positions
        assert examples.targets[b, s].tolist() == targets
        assert examples.weights[b, s].tolist() == [1.0] * (end - start) + [0.0] * filling
    dtypes = [examples.tokens.dtype, examples.positions.dtype, examples.targets.dtype]
    assert dtypes == [np.int32] * 3
    assert examples.weights.dtype == np.float32


def test_answers_of_questions(language, table, vocabulary):
    who = draw_people(language.pools, 0, np.repeat(IDS, 6))
    rows = encode_questions(table, write_questions(language, who, np.tile(np.arange(6), len(IDS))))
    assert_spans_are_right(rows, rows.value_spans, vocabulary)


def test_values_and_names_of_biographies(table, biographies, vocabulary):
    rows = encode_biographies(table, biographies("multi2+permute", IDS))
    assert_spans_are_right(rows, rows.value_spans, vocabulary)
    assert_spans_are_right(rows, rows.name_spans, vocabulary)


def test_lines_begin_and_are_filled_up_with_the_end_of_text(table, biographies, vocabulary):
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


def test_a_hidden_span_is_predicted_from_its_own_places(language, table, vocabulary):
    who = draw_people(language.pools, 0, np.repeat(IDS, 6))
    rows = encode_questions(table, write_questions(language, who, np.tile(np.arange(6), len(IDS))))
    shown = span_examples(rows, rows.value_spans, vocabulary)
    hidden = span_examples(rows, rows.value_spans, vocabulary, MASK)
    assert np.array_equal(hidden.targets, shown.targets)
    assert np.array_equal(hidden.weights, shown.weights)
    assert np.array_equal(hidden.lengths, shown.lengths)
    for b in range(len(rows)):
        kept = hidden.weights[b, 0] > 0
        places = hidden.positions[b, 0][kept]
        assert np.flatnonzero(hidden.tokens[b] == MASK).tolist() == places.tolist()
        restored = hidden.tokens[b].copy()
        restored[places] = hidden.targets[b, 0][kept]
        assert np.array_equal(restored, shown.tokens[b])


def test_words_of_values_are_hidden_one_at_a_time(table, biographies, vocabulary):
    rows = encode_biographies(table, biographies("multi2+permute", IDS))
    shown = span_examples(rows, rows.value_spans, vocabulary)
    found = {}
    for which, part in word_examples(rows, rows.value_spans, vocabulary, MASK):
        for b, line, places, targets, weights in zip(
            which, part.tokens, part.positions, part.targets, part.weights, strict=True
        ):
            hidden = weights > 0
            assert np.flatnonzero(line == MASK).tolist() == sorted(places[hidden])
            restored = line.copy()
            restored[places[hidden]] = targets[hidden]
            assert np.array_equal(restored, shown.tokens[b])
            for s in range(6):
                if hidden[s].any():
                    word = vocabulary.decode(targets[s][hidden[s]])
                    found[b, s] = [*found.get((b, s), []), word]
    for b, s in np.ndindex(len(rows), 6):
        value = vocabulary.decode(shown.targets[b, s][shown.weights[b, s] > 0])
        assert "".join(found[b, s]) == value
        letters = [word for word in found[b, s] if word.strip(" ").isalnum()]
        assert letters == re.findall(r"(?<!') ?[A-Za-z0-9]+", value)
