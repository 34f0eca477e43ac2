"""The forward returns and replaces what is inside the network; without taps it is as before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.model import transformer
from kstore_jax.model.base import ARCHITECTURES
from kstore_jax.model.forward import forward
from kstore_jax.model.taps import Patch, Taps
from tests import recipes
from tests.model import reference
from tests.model.test_transformer import SHAPES, TOKENS

BATCH, LENGTH = TOKENS.shape
OTHERS = TOKENS[:, ::-1].copy()
EVERYWHERE = np.ones((BATCH, LENGTH), bool)
STYLES = {
    name: dataclasses.replace(SHAPES[name], layers=2)
    for name in ("two layers", "bidirectional mistral", "gpt2", "llama")
}


def half(shape):
    """With bfloat16 activations, which take the other path through attention."""
    half_rotated = {"rotary_pct": 0.5} if shape.rotary_pct == 0.25 else {}
    return dataclasses.replace(shape, dtype="bfloat16", activation_dtype="bfloat16", **half_rotated)


def tapped(shape, params, tokens, patches=None, lengths=None):
    """Hidden states, and everything inside. Points without a patch have an empty one, so that one
    program is compiled for each shape."""
    points, blocks = tuple(range(shape.layers + 1)), tuple(range(shape.layers))
    empty = Patch(np.zeros((*tokens.shape, shape.width), np.float32), np.zeros(tokens.shape, bool))
    taps = Taps(points, blocks, dict.fromkeys(points, empty) | (patches or {}))
    return forward(shape, params, tokens, lengths, taps=taps)


def same(ours, theirs) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_residual_stream_and_attention_equal_plain_numpy(shape):
    params = reference.parameters(shape)
    hidden, found = tapped(shape, params, TOKENS)
    residual, patterns = reference.inside(np, reference.as_float64(params), TOKENS, shape)
    np.testing.assert_allclose(found.residual, residual, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.attention, patterns, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.attention.sum(-1), 1, atol=1e-6)
    assert np.array_equal(hidden, forward(shape, params, TOKENS))


def test_taps_see_the_whole_text_beside_states_at_positions():
    shape = STYLES["two layers"]
    params, positions = reference.parameters(shape), np.array([[3, 0]] * BATCH, np.int32)
    hidden, found = tapped(shape, params, TOKENS)
    at_two, beside = forward(
        shape, params, TOKENS, taps=Taps((0, 1, 2), (0, 1)), positions=positions
    )
    assert np.array_equal(at_two, np.take_along_axis(hidden, positions[:, :, None], axis=1))
    assert same(beside, found)


@pytest.mark.parametrize("name", ["bidirectional mistral", "gpt2"])
def test_with_bfloat16_activations_they_stay_near_float32(name):
    exact, shape = STYLES[name], half(STYLES[name])
    params = reference.parameters(exact)
    found = tapped(shape, params, TOKENS)[1]
    expected = tapped(dataclasses.replace(exact, rotary_pct=shape.rotary_pct), params, TOKENS)[1]
    assert found.residual.dtype == jnp.bfloat16
    assert found.attention.dtype == jnp.float32
    np.testing.assert_allclose(found.attention.sum(-1), 1, atol=1e-5)
    assert 0 < float(jnp.abs(found.attention - expected.attention).max()) < 0.05
    error = jnp.linalg.norm(found.residual.astype(jnp.float32) - expected.residual)
    assert error < 0.03 * jnp.linalg.norm(expected.residual)


def test_only_chosen_points_and_blocks_are_returned_in_their_order():
    shape = STYLES["llama"]
    params = reference.parameters(shape)
    _, whole = tapped(shape, params, TOKENS)
    _, some = forward(shape, params, TOKENS, taps=Taps((2, 0), (1,)))
    assert np.array_equal(some.residual, whole.residual[np.array([2, 0])])
    assert np.array_equal(some.attention, whole.attention[1:])
    _, none = forward(shape, params, TOKENS, taps=Taps())
    assert len(none.residual) == len(none.attention) == 0


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (Taps(residual=(3,)), r"^taps\.residual: expected 0 to 2, got 3"),
        (Taps(attention=(0, 2)), r"^taps\.attention: expected 0 to 1, got 2"),
        (
            Taps(patches={-1: Patch(TOKENS, EVERYWHERE)}),
            "patches: expected 0 to 2, got -1",
        ),
    ],
)
def test_a_point_that_the_network_lacks_is_refused(taps, message):
    shape = STYLES["llama"]
    with pytest.raises(UserError, match=message):
        forward(shape, reference.parameters(shape), TOKENS, taps=taps)


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("activations", ["float32", "bfloat16"])
def test_a_patch_with_what_is_there_changes_nothing(name, activations):
    shape = half(STYLES[name]) if activations == "bfloat16" else STYLES[name]
    params = reference.parameters(shape)
    before = tapped(shape, params, TOKENS)
    own = np.asarray(before[1].residual.astype(jnp.float32))
    patches = {point: Patch(values, EVERYWHERE) for point, values in enumerate(own)}
    assert same(tapped(shape, params, TOKENS, patches), before)


@pytest.mark.parametrize("activations", ["float32", "bfloat16"])
def test_an_empty_patch_and_none_are_the_same(activations):
    shape = half(STYLES["llama"]) if activations == "bfloat16" else STYLES["llama"]
    params = reference.parameters(shape)
    bare = forward(shape, params, TOKENS, taps=Taps((0, 1, 2), (0, 1)))
    assert same(bare, tapped(shape, params, TOKENS))


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("point", [0, 1, 2])
def test_a_patch_of_all_positions_reproduces_the_other_text_from_there_on(name, point):
    shape = STYLES[name]
    params = reference.parameters(shape)
    (_, own), (hidden, other) = (tapped(shape, params, tokens) for tokens in (TOKENS, OTHERS))
    patches = {point: Patch(np.asarray(other.residual[point]), EVERYWHERE)}
    patched_hidden, patched = tapped(shape, params, TOKENS, patches)
    assert np.array_equal(patched_hidden, hidden)
    assert np.array_equal(patched.residual[point:], other.residual[point:])
    assert np.array_equal(patched.attention[point:], other.attention[point:])
    assert np.array_equal(patched.residual[:point], own.residual[:point])
    assert not np.array_equal(own.residual[point], other.residual[point])


@pytest.mark.parametrize("name", STYLES)
def test_a_patch_of_some_positions_equals_plain_numpy(name):
    shape = STYLES[name]
    params, draw = reference.parameters(shape), np.random.default_rng(1)
    values = draw.normal(size=(3, BATCH, LENGTH, shape.width)).astype(np.float32)
    masks = draw.random((3, BATCH, LENGTH)) < 0.3
    replaced = {
        point: lambda x, point=point: np.where(masks[point][..., None], values[point], x)
        for point in range(3)
    }
    residual, patterns = reference.inside(np, reference.as_float64(params), TOKENS, shape, replaced)
    _, found = tapped(shape, params, TOKENS, dict(enumerate(map(Patch, values, masks))))
    np.testing.assert_allclose(found.residual, residual, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.attention, patterns, rtol=1e-5, atol=1e-6)


def test_padding_of_a_bidirectional_text_has_no_attention():
    shape = STYLES["bidirectional mistral"]
    params = reference.parameters(shape)
    lengths = np.array([LENGTH, 4, 6], np.int32)
    _, found = tapped(shape, params, TOKENS, lengths=lengths)
    _, alone = tapped(shape, params, np.repeat(TOKENS[1:2, :4], 3, axis=0))
    assert (found.attention[:, 1, :, :, 4:] == 0).all()
    np.testing.assert_allclose(found.attention[:, 1, :, :4, :4], alone.attention[:, 0], atol=1e-6)
    np.testing.assert_allclose(found.residual[:, 1, :4], alone.residual[:, 0], atol=1e-5)


def test_the_layers_of_an_architecture_are_read_and_patched_too():
    with recipes.plugin("An architecture", ARCHITECTURES) as canon:
        shape = dataclasses.replace(
            SHAPES["two layers"], layers=1, architecture=canon.CanonConfig()
        )
        params = reference.parameters(shape)
        hidden, other = tapped(shape, params, OTHERS)
        patches = {1: Patch(np.asarray(other.residual[1]), EVERYWHERE)}
        patched_hidden, patched = tapped(shape, params, TOKENS, patches)
    assert np.array_equal(patched_hidden, hidden)
    np.testing.assert_allclose(patched.attention.sum(-1), 1, atol=1e-6)


def program(shape, params, gradient: bool) -> str:
    """The program of the forward, or of its gradient, before any optimisation."""

    def hidden(params):
        return forward.__wrapped__(shape, params, TOKENS)

    def slope(params):
        return jax.grad(lambda p: hidden(p).astype(jnp.float32).sum())(params)

    return jax.jit(slope if gradient else hidden).lower(params).as_text()


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("activations", ["float32", "bfloat16"])
@pytest.mark.parametrize("gradient", [False, True])
def test_without_taps_the_program_is_that_of_a_network_that_has_none(
    monkeypatch, name, activations, gradient
):
    shape = half(STYLES[name]) if activations == "bfloat16" else STYLES[name]
    params = reference.parameters(shape)
    ours = program(shape, params, gradient)
    monkeypatch.setattr(transformer, "tap_residual", lambda _, x: x)
    monkeypatch.setattr(transformer, "tap_attention", lambda *_: None)
    assert ours == program(shape, params, gradient)


def test_gradients_reach_a_patch_and_pass_the_taps():
    """The slope of a sum of hidden states by a patched value is the change that a step makes."""
    shape = SHAPES["two layers"]
    params, last = reference.parameters(shape), LENGTH - 1
    mask = EVERYWHERE & (np.arange(LENGTH) == 4)
    values = np.random.default_rng(2).normal(size=(BATCH, LENGTH, shape.width)).astype(np.float32)

    def total(values):
        hidden, found = tapped(shape, params, TOKENS, {1: Patch(values, mask)})
        return hidden[:, last, 0].sum() + found.residual[2, :, last, 1].sum()

    slope, step = jax.grad(total)(values), np.zeros_like(values)
    assert (np.abs(slope).max((0, 2)) > 0).tolist() == (np.arange(LENGTH) == 4).tolist()
    step[1, 4, 3] = 1e-2
    change = float(total(values + step) - total(values - step)) / 2e-2
    assert abs(change - slope[1, 4, 3]) < 1e-2 * abs(slope[1, 4, 3]) + 1e-3
