"""Losses equal those of optax, and of a loop over tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kstore_jax.train.objectives import (
    answer_tokens,
    at_positions,
    cross_entropy,
    next_token,
    total_loss,
)
from tests.model import reference
from tests.train.training import SHAPE

TOKENS = np.random.default_rng(0).integers(0, SHAPE.vocabulary, (3, 9)).astype(np.int32)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_cross_entropy_and_its_gradient_are_those_of_optax(scale):
    draw = np.random.default_rng(0)
    logits = jnp.asarray(draw.normal(0, scale, (7, 11)), jnp.float32)
    targets = draw.integers(0, 11, 7).astype(np.int32)
    weight = jnp.asarray(draw.normal(size=7), jnp.float32)

    @jax.jit
    def value_and_gradient(logits):
        value, pull = jax.vjp(lambda x: cross_entropy(x, targets), logits)
        return value, pull(weight)[0]

    @jax.jit
    def of_optax(logits):
        loss = optax.softmax_cross_entropy_with_integer_labels
        value, pull = jax.vjp(lambda x: loss(x, targets), logits)
        return value, pull(weight)[0]

    value, gradient = value_and_gradient(logits)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = of_optax(logits)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-6)


def log_probabilities(params, tokens):
    """(B, L, V) in float64: of what comes after each token."""
    exact = reference.as_float64(params)
    hidden = reference.hidden(np, exact, tokens, SHAPE.layers, SHAPE.heads)
    logits = hidden @ exact["embedding"].T
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_next_token_is_the_mean_over_every_token_but_the_first():
    params = reference.parameters(SHAPE)
    loss = total_loss(*next_token(SHAPE)(params, {"tokens": TOKENS}))
    log_probs = log_probabilities(params, TOKENS)
    by_hand = [-log_probs[b, i, TOKENS[b, i + 1]] for b in range(3) for i in range(8)]
    np.testing.assert_allclose(loss, np.mean(by_hand), rtol=1e-5)


def test_answers_is_the_mean_over_the_tokens_with_a_weight():
    params = reference.parameters(SHAPE)
    positions = np.array([[4, 5, 0], [2, 0, 0], [6, 7, 8]], np.int32)
    targets = np.array([[1, 30, 9], [4, 9, 9], [0, 31, 2]], np.int32)
    weights = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]], np.float32)
    batch = {"tokens": TOKENS, "positions": positions, "targets": targets, "weights": weights}
    log_probs = log_probabilities(params, TOKENS)
    by_hand = [-log_probs[b, positions[b, k], targets[b, k]] for b, k in np.argwhere(weights)]
    assert len(by_hand) == 6
    loss = total_loss(*answer_tokens(SHAPE)(params, batch))
    np.testing.assert_allclose(loss, np.mean(by_hand), rtol=1e-5)


def test_at_positions_reads_each_row_at_its_own_places():
    hidden = jnp.arange(2 * 5 * 3, dtype=jnp.float32).reshape(2, 5, 3)
    positions = np.array([[4, 0, 4], [1, 2, 3]], np.int32)
    expected = np.stack([np.asarray(hidden[b])[positions[b]] for b in range(2)])
    assert np.array_equal(at_positions(hidden, positions), expected)
