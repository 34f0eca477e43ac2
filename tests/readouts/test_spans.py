"""Exact match by one forward equals exact match by greedy decoding, token by token."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.stats import binom

from kstore_jax.corpus.encode import compact_vocabulary
from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.model.forward import forward, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts.decode import generate
from kstore_jax.readouts.spans import predict, span_hits, span_nats, span_shares, stack_batches
from kstore_jax.train.config import Training
from kstore_jax.train.fit import TrainTask, fit
from kstore_jax.train.objectives import answer_tokens
from kstore_jax.world.people import draw_people
from tests.model import reference
from tests.tasks.questions import question_examples

PEOPLE = 50


@pytest.fixture(scope="module")
def questions(language, table):
    """(shape of a network, the six questions about 50 people as examples, vocabulary)."""
    people = draw_people(language.pools, 3, np.arange(PEOPLE))
    vocabulary = compact_vocabulary(table, people)
    shape = Shape(vocabulary=vocabulary.size, layers=1, heads=2, width=32)
    return shape, question_examples(table, people, vocabulary), vocabulary


@pytest.fixture(scope="module")
def trained(questions, tmp_path_factory):
    """A model trained on the answers until it gives some of them."""
    shape, examples, _ = questions

    def make_batch(step, rows):
        order = np.random.default_rng(step).permutation(len(examples))
        batch = examples.take(order[rows.start : rows.stop])
        columns = {name: getattr(batch, name)[:, 0] for name in ("positions", "targets", "weights")}
        return {"tokens": batch.tokens, **columns}

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


def greedy_hits(shape, params, examples) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and first-token hits of greedy decoding: the answers are cut off and generated
    one token at a time."""
    draw = np.random.default_rng(0)
    starts = examples.positions[:, 0, 0]
    lengths = examples.weights[:, 0].sum(1).astype(int)
    text = draw.integers(0, shape.vocabulary, examples.tokens.shape).astype(np.int32)
    prompt = np.arange(text.shape[1]) <= starts[:, None]
    text[prompt] = examples.tokens[prompt]
    rows = np.arange(len(text))
    predict = jax.jit(lambda text: unembed(shape, params, forward(shape, params, text)).argmax(-1))
    for k in range(lengths.max()):
        position = np.minimum(starts + k, text.shape[1] - 2)
        text[rows, position + 1] = np.asarray(predict(text))[rows, position]
    exact = [
        np.array_equal(text[i, s + 1 : s + 1 + n], examples.tokens[i, s + 1 : s + 1 + n])
        for i, (s, n) in enumerate(zip(starts, lengths, strict=True))
    ]
    return np.array(exact), text[rows, starts + 1] == examples.tokens[rows, starts + 1]


def test_hits_of_a_trained_model_are_hits_of_greedy_decoding(questions, trained):
    shape, examples, _ = questions
    exact, first = span_hits(shape, trained, examples)
    assert 0.05 < exact.mean() < first.mean() < 0.95  # or the comparison would say little
    expected = greedy_hits(shape, trained, examples)
    assert np.array_equal(exact[:, 0], expected[0])
    assert np.array_equal(first[:, 0], expected[1])


def test_a_model_that_never_ends_a_text_has_first_tokens_right_and_no_exact_match(
    questions, trained
):
    shape, examples, vocabulary = questions
    table, end = trained["embedding"], vocabulary.end_of_text
    assert end == shape.vocabulary - 1  # argmax takes the first of equal logits
    endless = {**trained, "unembedding": table.at[end].set(table[0])}
    exact, first = span_hits(shape, endless, examples)
    assert not exact.any()
    assert np.array_equal(first, span_hits(shape, trained, examples)[1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hits_of_a_random_model_are_hits_of_greedy_decoding(questions, seed):
    """Targets are the model's own predictions in some rows, with one wrong token in the others."""
    shape, examples, _ = questions
    params = reference.parameters(shape, seed)
    draw = np.random.default_rng(seed)
    tokens = examples.tokens.copy()
    predict = jax.jit(lambda text: unembed(shape, params, forward(shape, params, text)).argmax(-1))
    inside = examples.weights[:, 0] > 0
    for k in range(inside.shape[1]):
        rows = np.flatnonzero(inside[:, k])
        position = examples.positions[rows, 0, k]
        tokens[rows, position + 1] = np.asarray(predict(tokens))[rows, position]
    wrong = draw.random(len(tokens)) < 0.5
    counts = inside.sum(1)
    for row in np.flatnonzero(wrong):
        position = examples.positions[row, 0, draw.integers(counts[row])] + 1
        tokens[row, position] = (tokens[row, position] + 1) % shape.vocabulary
    rows = np.arange(len(tokens))[:, None, None]
    targets = np.where(examples.weights > 0, tokens[rows, examples.positions + 1], 0)
    own = dataclasses.replace(examples, tokens=tokens, targets=targets.astype(np.int32))
    exact, first = span_hits(shape, params, own)
    expected = greedy_hits(shape, params, own)
    assert np.array_equal(exact[:, 0], expected[0])
    assert np.array_equal(first[:, 0], expected[1])
    assert np.array_equal(exact[:, 0], ~wrong)


@pytest.mark.parametrize("batch", [7, 100, 300])
def test_hits_do_not_depend_on_the_batch_size(questions, trained, batch):
    shape, examples, _ = questions
    expected = span_hits(shape, trained, examples)
    hits = span_hits(shape, trained, examples, batch)
    assert all(map(np.array_equal, hits, expected))
    assert hits[0].shape == (6 * PEOPLE, 1)


def test_each_span_of_a_text_is_scored_by_itself():
    shape = Shape(vocabulary=16, layers=1, heads=2, width=16)
    params = reference.parameters(shape)
    tokens = np.random.default_rng(0).integers(0, 16, (40, 8)).astype(np.int32)
    predicted = np.asarray(unembed(shape, params, forward(shape, params, tokens)).argmax(-1))
    positions = np.broadcast_to(np.array([[0, 1], [4, 0]], np.int32), (40, 2, 2))
    weights = np.broadcast_to(np.array([[1, 1], [1, 0]], np.float32), (40, 2, 2))
    rows = np.arange(40)[:, None, None]
    targets = predicted[rows, positions].astype(np.int32)
    wrong = np.random.default_rng(1).random(targets.shape) < 0.3
    targets[wrong] = (targets[wrong] + 1) % 16
    exact, first = span_hits(
        shape, params, SpanExamples(tokens, positions, targets, weights, np.full(40, 8, np.int32))
    )
    assert np.array_equal(first, ~wrong[:, :, 0])
    assert np.array_equal(exact[:, 0], ~wrong[:, 0].any(1))
    assert np.array_equal(exact[:, 1], ~wrong[:, 1, 0])


def test_answers_about_people_never_trained_on_are_guesses(questions, trained, table):
    """New people have names made of parts of the trained people's names, and values drawn from
    theirs: a guess is right as often as the guessed value comes up."""
    shape, trained_examples, vocabulary = questions
    draw, count = np.random.default_rng(0), 400
    people = draw_people(table.language.pools, 3, np.arange(PEOPLE))
    columns = {
        field: np.stack([draw.choice(column, count) for column in getattr(people, field).T], axis=1)
        for field in ("names", "values")
    }
    new_people = dataclasses.replace(people.take(draw.integers(0, PEOPLE, count)), **columns)
    examples = question_examples(table, new_people, vocabulary)
    exact = span_hits(shape, trained, examples)[0].reshape(count, 6)
    assert span_hits(shape, trained, trained_examples)[0].mean() > 0.3
    for a in range(6):
        most_frequent = np.bincount(people.values[:, a]).max() / PEOPLE
        assert exact[:, a].sum() <= binom.isf(1e-6, count, most_frequent)


def test_shares_of_batches_on_the_device_are_means_of_hits(questions, trained):
    shape, examples, _ = questions
    expected = [hits.mean() for hits in span_hits(shape, trained, examples)]
    for batch in (7, 300, 1000):
        shares = span_shares(shape, trained, stack_batches(examples, batch))
        assert [float(share) for share in shares] == pytest.approx(expected)


@pytest.mark.parametrize("measure", [predict, span_nats, generate])
def test_the_device_does_not_wait_for_the_host_between_batches(questions, monkeypatch, measure):
    shape, examples, vocabulary = questions
    fetched = []
    fetch = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or fetch(tree))
    options = (0, vocabulary.size, 1) if measure is generate else ()
    found = measure(shape, reference.parameters(shape), examples, *options, batch=128)
    assert len(found) == len(examples) == 300
    assert [len(tree) for tree in fetched] == [3]
