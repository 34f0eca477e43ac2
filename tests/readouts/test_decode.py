"""Decoding by cached keys and values is decoding; a beam finds what a search of all texts does."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.model.config import STYLES, style_fields
from kstore_jax.model.forward import forward, forward_cached, init_cache, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts.decode import beam_search, exact_match, generate
from kstore_jax.readouts.spans import span_hits
from tests.model import reference

END, KNOWN, VOCABULARY = 0, 14, 16
WIDE = {"layers": 2, "heads": 4, "width": 32, "vocabulary": VOCABULARY, "max_positions": 32}
STYLED = {name: Shape(**{**style_fields(name, WIDE["heads"]), **WIDE}) for name in STYLES}
PLAIN = STYLED["gpt2-rotary"]


def sharp(shape: Shape):
    """Parameters that are sure of what they say."""
    params = reference.parameters(shape)
    return jax.tree.map(lambda x: 3.0 * x if x.ndim > 1 else x, params)


def prompts(rows: int, longest: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, KNOWN, (rows, longest)).astype(np.int32)
    return tokens, draw.integers(1, longest + 1, rows).astype(np.int32)


@pytest.mark.parametrize("style", STYLED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cached_hidden_states_are_those_of_the_whole_text(style, dtype):
    shape = dataclasses.replace(STYLED[style], dtype=dtype)
    params = reference.parameters(shape)
    tokens, lengths = prompts(5, 6)
    more = np.random.default_rng(1).integers(0, KNOWN, (5, 4)).astype(np.int32)
    cache = init_cache(shape, 5, 10)
    _, cache = forward_cached(shape, params, tokens, np.zeros(5, np.int32), cache)
    for i in range(4):
        one, cache = forward_cached(shape, params, more[:, i : i + 1], lengths + np.int32(i), cache)
        for b, length in enumerate(lengths):
            text = [*tokens[b, :length], *more[b, : i + 1]]
            line = np.array([[*text, *[END] * (12 - len(text))]], np.int32)
            alone = forward(shape, params, line)[0, len(text) - 1]
            tolerance = 1e-5 if dtype == "float32" else 0.1
            np.testing.assert_allclose(one[b, 0], alone, atol=tolerance)


def likelihoods(params, texts, known: int = KNOWN) -> np.ndarray:
    """Of the next token after each token of each text, (texts, 12, known), by `forward`."""
    lines = np.array([[*text, *[END] * (12 - len(text))] for text in texts], np.int32)
    logits = unembed(PLAIN, params, forward(PLAIN, params, lines))
    return np.asarray(jax.nn.log_softmax(logits[:, :, :known]))


def test_a_beam_of_one_is_greedy_decoding_step_by_step():
    params = sharp(PLAIN)
    tokens, lengths = prompts(40, 7)
    found, scores = beam_search(PLAIN, params, tokens, lengths, END, KNOWN, 5, 1)
    texts = [tokens[b, :length].tolist() for b, length in enumerate(lengths)]
    ended, expected = [False] * 40, [0.0] * 40
    for _ in range(5):
        scored = likelihoods(params, texts)
        for b, text in enumerate(texts):
            if not ended[b]:
                expected[b] += scored[b, len(text) - 1].max()
                text.append(int(scored[b, len(text) - 1].argmax()))
                ended[b] = text[-1] == END
    assert 0 < sum(ended) < 40
    for b, text in enumerate(texts):
        said_b = text[lengths[b] :]
        assert found[b].tolist() == said_b + [END] * (5 - len(said_b))
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_beam_as_wide_as_everything_finds_the_likeliest_of_all(seed):
    params, known, steps = sharp(PLAIN), 4, 3
    tokens, lengths = prompts(6, 5, seed)
    tokens %= known
    found, scores = beam_search(PLAIN, params, tokens, lengths, END, known, steps, 64)
    texts = [
        text
        for count in range(1, steps + 1)
        for text in itertools.product(range(known), repeat=count)
        if END not in text[:-1] and (text[-1] == END or count == steps)
    ]
    for b in range(6):
        prompt = tokens[b, : lengths[b]].tolist()
        scored = likelihoods(params, [[*prompt, *text] for text in texts], known)
        rated = [
            sum(scored[row, len(prompt) + i - 1, token] for i, token in enumerate(text))
            for row, text in enumerate(texts)
        ]
        best = texts[int(np.argmax(rated))]
        assert float(scores[b]) == pytest.approx(max(rated), abs=1e-4)
        assert found[b].tolist() == [*best, *[END] * (steps - len(best))]


def test_a_wider_beam_finds_nothing_less_likely_and_something_more():
    params = sharp(PLAIN)
    tokens, lengths = prompts(64, 6)
    one, four = (
        np.asarray(beam_search(PLAIN, params, tokens, lengths, END, KNOWN, 6, width)[1])
        for width in (1, 4)
    )
    assert (four >= one - 1e-4).mean() > 0.9
    assert (four > one + 1e-3).any()


def spans(rows: int, seed: int = 0) -> SpanExamples:
    """Texts of different lengths, the last tokens of which and the end are to be said."""
    draw = np.random.default_rng(seed)
    starts, counts = draw.integers(1, 6, rows), draw.integers(1, 4, rows)
    tokens = draw.integers(1, KNOWN, (rows, 12)).astype(np.int32)
    tokens[np.arange(12) >= (starts + counts)[:, None]] = END
    steps = np.arange(5)
    inside = steps <= counts[:, None]
    positions = np.where(inside, starts[:, None] - 1 + steps, 0)
    targets = np.where(inside, np.take_along_axis(tokens, positions + 1, 1), 0)
    columns = (positions, targets.astype(np.int32), inside.astype(np.float32))
    return SpanExamples(tokens, *(x[:, None] for x in columns), (starts + counts).astype(np.int32))


@pytest.mark.parametrize("batch", [64, 1000])
def test_exact_match_of_greedy_decoding_is_that_of_one_forward(batch):
    """On 1000 questions, of which the model answers some."""
    params, asked = sharp(PLAIN), spans(1000)
    greedy = generate(PLAIN, params, asked, END, VOCABULARY, 1, batch)
    told = np.random.default_rng(1).random(1000) < 0.5
    for i in np.flatnonzero(told):  # what the model says becomes the answer
        text = greedy[i, : max(1, int((greedy[i] != END).sum()) + 1)]
        start = asked.positions[i, 0, 0] + 1
        asked.tokens[i, start:] = END
        asked.tokens[i, start : start + len(text)] = text[: 12 - start]
        asked.targets[i, 0], asked.weights[i, 0] = 0, 0
        asked.targets[i, 0, : len(text)], asked.weights[i, 0, : len(text)] = text, 1
        asked.positions[i, 0, : len(text)] = start - 1 + np.arange(len(text))
    by_forward = span_hits(PLAIN, params, asked)[0]
    assert np.array_equal(exact_match(greedy, asked), by_forward)
    assert 0.3 < by_forward.mean() < 0.9


def test_what_is_beyond_a_prompt_and_beside_it_does_not_matter():
    params = sharp(PLAIN)
    tokens, lengths = prompts(3, 7)
    whole, _ = beam_search(PLAIN, params, tokens, lengths, END, KNOWN, 4, 3)
    other = np.where(np.arange(7) < lengths[:, None], tokens, 5).astype(np.int32)
    assert np.array_equal(beam_search(PLAIN, params, other, lengths, END, KNOWN, 4, 3)[0], whole)
    for b in range(3):
        alone = tokens[b : b + 1, : lengths[b]], lengths[b : b + 1]
        assert np.array_equal(beam_search(PLAIN, params, *alone, END, KNOWN, 4, 3)[0][0], whole[b])


def test_tokens_that_stand_for_nothing_are_never_said():
    params = sharp(PLAIN)
    params["embedding"] = params["embedding"].at[KNOWN:].multiply(50.0)
    tokens, lengths = prompts(20, 5)
    found, scores = beam_search(PLAIN, params, tokens, lengths, END, KNOWN, 4, 2)
    assert int(jnp.max(found)) < KNOWN
    assert bool(jnp.isfinite(scores).all())
