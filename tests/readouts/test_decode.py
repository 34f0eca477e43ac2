"""Decoding with a cache equals decoding without one; a wide beam equals a full search."""

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

END, VOCABULARY, ROWS = 0, 14, 16
"""The last rows of the embedding stand for no token."""
WIDE = {"layers": 2, "heads": 4, "width": 32, "vocabulary": ROWS, "max_positions": 32}
STYLED = {name: Shape(**{**style_fields(name, WIDE["heads"]), **WIDE}) for name in STYLES}
STYLED |= {  # fields of model families that no style has
    "pythia": dataclasses.replace(
        STYLED["gpt2-rotary"], parallel_residual=True, activation="gelu_exact"
    ),
    "qwen": dataclasses.replace(
        STYLED["mistral"],
        **{"head_width": 12, "qk_norm": True, "qkv_bias": True, "sliding_window": 16},
        **{"rotary_factor": 4.0, "rotary_original_positions": 16},
    ),
}
PLAIN = STYLED["gpt2-rotary"]


def confident_parameters(shape: Shape):
    """Parameters with large weights, so that few tokens are likely."""
    params = reference.parameters(shape)
    return jax.tree.map(lambda x: 3.0 * x if x.ndim > 1 else x, params)


def prompts(rows: int, longest: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (rows, longest) and lengths (rows,)."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, VOCABULARY, (rows, longest)).astype(np.int32)
    return tokens, draw.integers(1, longest + 1, rows).astype(np.int32)


@pytest.mark.parametrize("style", STYLED)
@pytest.mark.parametrize(
    ("dtype", "activation_dtype"),
    [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")],
)
def test_hidden_states_with_a_cache_equal_a_forward_of_the_whole_text(
    style, dtype, activation_dtype
):
    shape = dataclasses.replace(STYLED[style], dtype=dtype, activation_dtype=activation_dtype)
    params = reference.parameters(shape)
    tokens, lengths = prompts(5, 6)
    continuation = np.random.default_rng(1).integers(0, VOCABULARY, (5, 4)).astype(np.int32)
    cache = init_cache(shape, 5, 10)
    _, cache = forward_cached(shape, params, tokens, np.zeros(5, np.int32), cache)
    for i in range(4):
        token, positions = continuation[:, i : i + 1], lengths + np.int32(i)
        hidden, cache = forward_cached(shape, params, token, positions, cache)
        for b, length in enumerate(lengths):
            text = [*tokens[b, :length], *continuation[b, : i + 1]]
            row = np.array([[*text, *[END] * (12 - len(text))]], np.int32)
            expected = forward(shape, params, row)[0, len(text) - 1]
            tolerance = 1e-5 if dtype == "float32" else 0.1
            hidden_b, expected = (x.astype(jnp.float32) for x in (hidden[b, 0], expected))
            np.testing.assert_allclose(hidden_b, expected, atol=tolerance)


def log_likelihoods(params, texts, vocab_size: int = VOCABULARY) -> np.ndarray:
    """Of the next token after each token of each text, (texts, 12, vocab_size), by `forward`."""
    rows = np.array([[*text, *[END] * (12 - len(text))] for text in texts], np.int32)
    logits = unembed(PLAIN, params, forward(PLAIN, params, rows))
    return np.asarray(jax.nn.log_softmax(logits[:, :, :vocab_size]))


def test_a_beam_of_one_is_greedy_decoding_step_by_step():
    params = confident_parameters(PLAIN)
    tokens, lengths = prompts(40, 7)
    generated, scores = beam_search(PLAIN, params, tokens, lengths, END, VOCABULARY, 5, 1)
    texts = [tokens[b, :length].tolist() for b, length in enumerate(lengths)]
    ended, expected = [False] * 40, [0.0] * 40
    for _ in range(5):
        scored = log_likelihoods(params, texts)
        for b, text in enumerate(texts):
            if not ended[b]:
                expected[b] += scored[b, len(text) - 1].max()
                text.append(int(scored[b, len(text) - 1].argmax()))
                ended[b] = text[-1] == END
    assert 0 < sum(ended) < 40
    for b, text in enumerate(texts):
        answer = text[lengths[b] :]
        assert generated[b].tolist() == answer + [END] * (5 - len(answer))
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_beam_as_wide_as_the_search_space_finds_the_most_likely_text(seed):
    params, vocab_size, steps = confident_parameters(PLAIN), 4, 3
    tokens, lengths = prompts(6, 5, seed)
    tokens %= vocab_size
    generated, scores = beam_search(PLAIN, params, tokens, lengths, END, vocab_size, steps, 64)
    texts = [
        text
        for count in range(1, steps + 1)
        for text in itertools.product(range(vocab_size), repeat=count)
        if END not in text[:-1] and (text[-1] == END or count == steps)
    ]
    for b in range(6):
        prompt = tokens[b, : lengths[b]].tolist()
        scored = log_likelihoods(params, [[*prompt, *text] for text in texts], vocab_size)
        sums = [
            sum(scored[row, len(prompt) + i - 1, token] for i, token in enumerate(text))
            for row, text in enumerate(texts)
        ]
        best = texts[int(np.argmax(sums))]
        assert float(scores[b]) == pytest.approx(max(sums), abs=1e-4)
        assert generated[b].tolist() == [*best, *[END] * (steps - len(best))]


def test_a_wider_beam_rarely_finds_less_likely_texts_and_finds_some_more_likely_ones():
    params = confident_parameters(PLAIN)
    tokens, lengths = prompts(64, 6)
    one, four = (
        np.asarray(beam_search(PLAIN, params, tokens, lengths, END, VOCABULARY, 6, width)[1])
        for width in (1, 4)
    )
    assert (four >= one - 1e-4).mean() > 0.9
    assert (four > one + 1e-3).any()


def answer_examples(rows: int, seed: int = 0) -> SpanExamples:
    """Texts of different lengths; their last tokens and the end of text are the span."""
    draw = np.random.default_rng(seed)
    starts, counts = draw.integers(1, 6, rows), draw.integers(1, 4, rows)
    tokens = draw.integers(1, VOCABULARY, (rows, 12)).astype(np.int32)
    tokens[np.arange(12) >= (starts + counts)[:, None]] = END
    steps = np.arange(5)
    inside = steps <= counts[:, None]
    positions = np.where(inside, starts[:, None] - 1 + steps, 0)
    targets = np.where(inside, np.take_along_axis(tokens, positions + 1, 1), 0)
    return SpanExamples(
        tokens=tokens,
        positions=positions[:, None],
        targets=targets[:, None].astype(np.int32),
        weights=inside[:, None].astype(np.float32),
        lengths=(starts + counts).astype(np.int32),
    )


@pytest.mark.parametrize("batch", [64, 1000])
def test_exact_match_of_greedy_decoding_equals_exact_match_by_one_forward(batch):
    """In about half of 1000 examples the model's own text becomes the answer."""
    params, examples = confident_parameters(PLAIN), answer_examples(1000)
    greedy = generate(PLAIN, params, examples, END, ROWS, 1, batch)
    replaced = np.random.default_rng(1).random(1000) < 0.5
    for i in np.flatnonzero(replaced):
        text = greedy[i, : max(1, int((greedy[i] != END).sum()) + 1)]
        start, count = examples.positions[i, 0, 0] + 1, len(text)
        examples.tokens[i, start:] = END
        examples.tokens[i, start : start + count] = text[: 12 - start]
        examples.targets[i, 0], examples.weights[i, 0] = 0, 0
        examples.targets[i, 0, :count], examples.weights[i, 0, :count] = text, 1
        examples.positions[i, 0, :count] = start - 1 + np.arange(count)
    exact, _ = span_hits(PLAIN, params, examples)
    assert np.array_equal(exact_match(greedy, examples), exact)
    assert 0.3 < exact.mean() < 0.9


def test_padding_and_other_prompts_of_a_batch_do_not_matter():
    params = confident_parameters(PLAIN)
    tokens, lengths = prompts(3, 7)

    def search(tokens, lengths):
        return beam_search(PLAIN, params, tokens, lengths, END, VOCABULARY, 4, 3)[0]

    generated = search(tokens, lengths)
    padded = np.where(np.arange(7) < lengths[:, None], tokens, 5).astype(np.int32)
    assert np.array_equal(search(padded, lengths), generated)
    for b in range(3):
        alone = search(tokens[b : b + 1, : lengths[b]], lengths[b : b + 1])
        assert np.array_equal(alone[0], generated[b])


def test_rows_beyond_the_vocabulary_are_never_generated():
    params = confident_parameters(PLAIN)
    params["embedding"] = params["embedding"].at[VOCABULARY:].multiply(50.0)
    tokens, lengths = prompts(20, 5)
    generated, scores = beam_search(PLAIN, params, tokens, lengths, END, VOCABULARY, 4, 2)
    assert int(jnp.max(generated)) < VOCABULARY
    assert bool(jnp.isfinite(scores).all())
