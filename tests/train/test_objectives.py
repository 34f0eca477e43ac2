"""Losses equal those of optax, and of a loop over tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kstore_jax.train import objectives
from kstore_jax.train.objectives import (
    answer_tokens,
    cross_entropy,
    next_token,
    num_tiles,
    summed_loss,
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


def loss_of_states(given, dtype, weights=None):
    """The summed loss of hidden states in a dtype, and its gradients."""
    hidden, table, targets = given

    def loss(hidden, table):
        params = {"embedding": table}
        return 0.1 * summed_loss(SHAPE, params, hidden.astype(dtype), targets, weights)

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, table)


def states(rows: int) -> tuple:
    draw = np.random.default_rng(0)
    hidden = jnp.asarray(draw.normal(0, 1, (rows, 16)), jnp.float32)
    table = jnp.asarray(draw.normal(0, 1, (SHAPE.vocabulary, 16)), jnp.float32)
    return hidden, table, draw.integers(0, SHAPE.vocabulary, rows).astype(np.int32)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_with_logits_in_bfloat16_stays_near_float32(weighted):
    given = states(60)
    weights = jnp.asarray(np.arange(60) % 3, jnp.float32) if weighted else None
    (loss, half), (expected, exact) = (
        loss_of_states(given, dtype, weights) for dtype in (jnp.bfloat16, jnp.float32)
    )
    np.testing.assert_allclose(loss, expected, rtol=2e-3)
    for a, b in zip(half, exact, strict=True):
        assert float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel())) < 0.02


def test_tiles_of_rows_change_the_loss_by_rounding_only(monkeypatch):
    given = states(60)
    loss, gradients = loss_of_states(given, jnp.bfloat16)
    monkeypatch.setattr(objectives, "_TILE_LOGITS", 20 * SHAPE.vocabulary)
    assert num_tiles(60, SHAPE.vocabulary) == 3
    tiled_loss, tiled_gradients = loss_of_states(given, jnp.bfloat16)
    np.testing.assert_allclose(loss, tiled_loss, rtol=1e-6)
    for a, b in zip(gradients, tiled_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.01, atol=1e-3)  # a rounding of bfloat16
    hidden, table, targets = given
    copies = [jnp.stack([x, 2 * x]) for x in (hidden, table)]
    both, _ = jax.vmap(lambda *x: loss_of_states((*x, targets), jnp.bfloat16))(*copies)
    np.testing.assert_allclose(both[0], tiled_loss, rtol=1e-6)


def test_rows_are_tiled_where_their_logits_are_many():
    assert num_tiles(96 * 512, 50_304) == 3
    assert num_tiles(96 * 512, 3_328) == 1
    assert num_tiles(100_003, 50_304) == 1  # a prime
