"""Exact match by one forward is what greedy decoding, token by token, gives."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.stats import binom

from kstore_jax.corpus.encode import compact_vocabulary, encode_questions
from kstore_jax.corpus.examples import SpanExamples, span_examples
from kstore_jax.corpus.shards import with_end_of_text
from kstore_jax.model.forward import forward, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts.spans import span_hits
from kstore_jax.tasks.extraction import majority_share
from kstore_jax.train.config import Training
from kstore_jax.train.fit import TrainTask, fit
from kstore_jax.train.objectives import answer_tokens
from kstore_jax.world.people import draw_people
from kstore_jax.world.questions import write_questions
from tests.model import reference

PEOPLE = 50


@pytest.fixture(scope="module")
def questions(language, table):
    """The six questions of 50 people, with their answers and the end of text; the shape."""
    who = draw_people(language.pools, 3, np.arange(PEOPLE))
    vocabulary = compact_vocabulary(table, who)
    asked = write_questions(
        language, who.take(np.repeat(np.arange(PEOPLE), 6)), np.tile(np.arange(6), PEOPLE)
    )
    rows = with_end_of_text(encode_questions(table, asked), table.tokenizer.end_of_text)
    spans = rows.value_spans + np.array([0, 1])
    shape = Shape(vocabulary=vocabulary.size, layers=1, heads=2, width=32)
    return shape, span_examples(rows, spans, vocabulary), vocabulary


@pytest.fixture(scope="module")
def trained(questions, tmp_path_factory):
    """A model that learnt the answers until it knows some of them."""
    shape, examples, _ = questions

    def make_batch(step, rows):
        which = np.random.default_rng(step).permutation(len(examples))[rows.start : rows.stop]
        return {
            "tokens": examples.tokens[which],
            **{
                name: getattr(examples, name)[which][:, 0]
                for name in ("positions", "targets", "weights")
            },
        }

    start = jax.tree.map(lambda x: 0.3 * x if x.ndim > 1 else x, reference.parameters(shape))
    task = TrainTask("qa", answer_tokens(shape), lambda _, t: t, {}, start, make_batch, 1)
    training = Training(
        steps=200,
        batch_size=64,
        learning_rate=2e-2,
        warmup_steps=5,
        steps_per_call=50,
        checkpoint_every=200,
    )
    return fit(task, training, tmp_path_factory.mktemp("qa"))


def decoded(shape, params, examples) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and first-token accuracy by greedy decoding: the answers are cut off, and written
    one token at a time after what is left."""
    draw = np.random.default_rng(0)
    starts = examples.positions[:, 0, 0]
    lengths = examples.weights[:, 0].sum(1).astype(int)
    text = draw.integers(0, shape.vocabulary, examples.tokens.shape).astype(np.int32)
    before = np.arange(text.shape[1]) <= starts[:, None]
    text[before] = examples.tokens[before]
    lines = np.arange(len(text))
    step = jax.jit(lambda text: unembed(shape, params, forward(shape, params, text)).argmax(-1))
    for k in range(lengths.max()):
        place = np.minimum(starts + k, text.shape[1] - 2)
        text[lines, place + 1] = np.asarray(step(text))[lines, place]
    whole = [
        np.array_equal(text[i, s + 1 : s + 1 + n], examples.tokens[i, s + 1 : s + 1 + n])
        for i, (s, n) in enumerate(zip(starts, lengths, strict=True))
    ]
    return np.array(whole), text[lines, starts + 1] == examples.tokens[lines, starts + 1]


def test_a_trained_model_is_scored_as_greedy_decoding_scores_it(questions, trained):
    shape, examples, _ = questions
    whole, first = span_hits(shape, trained, examples)
    assert 0.05 < whole.mean() < first.mean() < 0.95  # or the comparison would say little
    expected = decoded(shape, trained, examples)
    assert np.array_equal(whole[:, 0], expected[0])
    assert np.array_equal(first[:, 0], expected[1])


def test_an_answer_without_its_end_is_no_match(questions, trained):
    """A model that never ends a text answers nothing exactly, and begins as many answers right."""
    shape, examples, vocabulary = questions
    table, end = trained["embedding"], vocabulary.end_of_text
    assert end == shape.vocabulary - 1  # so that of two equal logits it has the later one
    mute = {**trained, "unembedding": table.at[end].set(table[0])}
    whole, first = span_hits(shape, mute, examples)
    assert not whole.any()
    assert np.array_equal(first, span_hits(shape, trained, examples)[1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_random_model_is_scored_as_greedy_decoding_scores_it(questions, seed):
    """Targets are what the model itself says on some rows, spoilt at one place on others."""
    shape, examples, _ = questions
    params = reference.parameters(shape, seed)
    draw = np.random.default_rng(seed)
    tokens = examples.tokens.copy()
    predict = jax.jit(lambda text: unembed(shape, params, forward(shape, params, text)).argmax(-1))
    inside = examples.weights[:, 0] > 0
    for k in range(inside.shape[1]):
        rows = np.flatnonzero(inside[:, k])
        place = examples.positions[rows, 0, k]
        tokens[rows, place + 1] = np.asarray(predict(tokens))[rows, place]
    spoilt = draw.random(len(tokens)) < 0.5
    last = inside.sum(1)
    for row in np.flatnonzero(spoilt):
        place = examples.positions[row, 0, draw.integers(last[row])] + 1
        tokens[row, place] = (tokens[row, place] + 1) % shape.vocabulary
    lines = np.arange(len(tokens))[:, None, None]
    targets = np.where(examples.weights > 0, tokens[lines, examples.positions + 1], 0)
    own = dataclasses.replace(examples, tokens=tokens, targets=targets.astype(np.int32))
    whole, first = span_hits(shape, params, own)
    expected = decoded(shape, params, own)
    assert np.array_equal(whole[:, 0], expected[0])
    assert np.array_equal(first[:, 0], expected[1])
    assert np.array_equal(whole[:, 0], ~spoilt)


@pytest.mark.parametrize("batch", [7, 100, 300])
def test_the_size_of_a_batch_does_not_matter(questions, trained, batch):
    shape, examples, _ = questions
    expected = span_hits(shape, trained, examples)
    found = span_hits(shape, trained, examples, batch)
    assert all(map(np.array_equal, found, expected))
    assert found[0].shape == (6 * PEOPLE, 1)


def test_each_span_of_a_text_is_scored_by_itself():
    shape = Shape(vocabulary=16, layers=1, heads=2, width=16)
    params = reference.parameters(shape)
    tokens = np.random.default_rng(0).integers(0, 16, (40, 8)).astype(np.int32)
    said = np.asarray(unembed(shape, params, forward(shape, params, tokens)).argmax(-1))
    positions = np.broadcast_to(np.array([[0, 1], [4, 0]], np.int32), (40, 2, 2))
    weights = np.broadcast_to(np.array([[1, 1], [1, 0]], np.float32), (40, 2, 2))
    lines = np.arange(40)[:, None, None]
    targets = said[lines, positions].astype(np.int32)
    wrong = np.random.default_rng(1).random(targets.shape) < 0.3
    targets[wrong] = (targets[wrong] + 1) % 16
    whole, first = span_hits(
        shape, params, SpanExamples(tokens, positions, targets, weights, np.full(40, 8, np.int32))
    )
    assert np.array_equal(first, ~wrong[:, :, 0])
    assert np.array_equal(whole[:, 0], ~wrong[:, 0].any(1))
    assert np.array_equal(whole[:, 1], ~wrong[:, 1, 0])


def test_a_model_that_never_saw_a_person_answers_no_more_than_a_guess(questions, trained, table):
    """New names made of the parts of those it learnt answers about, with values drawn from
    theirs: a guess is right as often as the value guessed comes up."""
    shape, seen, vocabulary = questions
    language, draw = table.language, np.random.default_rng(0)
    known = draw_people(language.pools, 3, np.arange(PEOPLE))
    count = 400
    new = {
        field: np.stack([draw.choice(column, count) for column in getattr(known, field).T], axis=1)
        for field in ("names", "values")
    }
    others = dataclasses.replace(known.take(draw.integers(0, PEOPLE, count)), **new)
    asked = np.repeat(np.arange(count), 6), np.tile(np.arange(6), count)
    rows = encode_questions(table, write_questions(language, others.take(asked[0]), asked[1]))
    rows = with_end_of_text(rows, table.tokenizer.end_of_text)
    examples = span_examples(rows, rows.value_spans + np.array([0, 1]), vocabulary)
    right = span_hits(shape, trained, examples)[0].reshape(count, 6)
    assert span_hits(shape, trained, seen)[0].mean() > 0.3
    for a in range(6):
        likeliest = np.bincount(known.values[:, a]).max() / PEOPLE
        assert right[:, a].sum() <= binom.isf(1e-6, count, likeliest)


def test_the_majority_baseline_is_the_share_of_the_most_frequent_value():
    assert majority_share(np.array([3, 1, 3, 2]), np.array([3, 3, 1, 5])) == 0.5
    assert majority_share(np.array([7, 7, 1]), np.array([1, 1, 1])) == 0.0
    draw = np.random.default_rng(0)
    seen, asked = draw.integers(0, 4, 1001), draw.integers(0, 4, 500)
    best = max(range(4), key=lambda value: sum(x == value for x in seen))
    assert majority_share(seen, asked) == sum(x == best for x in asked) / 500
