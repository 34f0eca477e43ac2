"""The network computes what GPT-2 with rotary positions computes, and never looks ahead."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kstore_jax.model.forward import forward, init, unembed
from kstore_jax.model.transformer import Shape, gelu
from tests.model import reference

SHAPE = Shape(vocabulary=37, layers=2, heads=2, width=32)
TOKENS = np.random.default_rng(0).integers(0, 37, (3, 11)).astype(np.int32)


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        dataclasses.replace(SHAPE, layers=1, heads=4, rotary=0.0),
        dataclasses.replace(SHAPE, layers=1, heads=1, rotary=1.0),
    ],
    ids=["two layers", "four heads, no rotary", "one head, all rotary"],
)
def test_forward_equals_plain_numpy(shape):
    params = reference.parameters(shape)
    hidden = forward(shape, params, TOKENS)
    exact = reference.as_float64(params)
    expected = reference.hidden(np, exact, TOKENS, shape.layers, shape.heads, shape.rotary)
    assert hidden.dtype == jnp.float32
    np.testing.assert_allclose(hidden, expected, rtol=1e-5, atol=1e-5)
    logits = unembed(shape, params, hidden)
    np.testing.assert_allclose(logits, expected @ exact["embedding"].T, rtol=1e-5, atol=1e-5)


def loss_of_ours(shape, params):
    logits = unembed(shape, params, forward(shape, params, TOKENS))
    return (jax.nn.log_softmax(logits)[..., 0] * jnp.sin(jnp.arange(11.0))[None]).sum()


def loss_of_reference(params):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        hidden = reference.hidden(jnp, params, TOKENS, SHAPE.layers, SHAPE.heads)
        logits = hidden @ params["embedding"].T
        return (jax.nn.log_softmax(logits)[..., 0] * jnp.sin(jnp.arange(11.0))).sum()


def relative_errors(ours, exact) -> list[float]:
    pairs = zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (ours, exact)), strict=True)
    return [norm(a - b) / norm(b) for a, b in pairs]


def norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.ravel()))


@pytest.fixture(scope="module")
def plain_gradient():
    return jax.jit(jax.grad(loss_of_reference))(reference.parameters(SHAPE))


def test_gradients_equal_those_of_plain_operations(plain_gradient):
    params = reference.parameters(SHAPE)
    ours = jax.jit(jax.grad(lambda p: loss_of_ours(SHAPE, p)))(params)
    errors = relative_errors(ours, plain_gradient)
    assert max(errors) < 1e-5


def test_bfloat16_products_stay_near_float32(plain_gradient):
    params, half = reference.parameters(SHAPE), dataclasses.replace(SHAPE, dtype="bfloat16")
    rough, exact = forward(half, params, TOKENS), forward(SHAPE, params, TOKENS)
    assert rough.dtype == jnp.float32
    # Eight bits of mantissa: 0.4 % a rounding, and some ten roundings in a row.
    assert 1e-4 < relative_errors(rough, exact)[0] < 0.04
    gradients = jax.jit(jax.grad(lambda p: loss_of_ours(half, p)))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    errors = relative_errors(gradients, plain_gradient)
    assert max(errors) < 0.15


def test_no_output_depends_on_a_later_input_and_each_on_all_earlier_ones():
    length = 6
    shape = dataclasses.replace(SHAPE, vocabulary=length)
    params, tokens = reference.parameters(shape), jnp.arange(length, dtype=jnp.int32)[None]

    def outputs(embedding):
        return forward(shape, {**params, "embedding": embedding}, tokens)[0]

    jacobian = jax.jit(jax.jacrev(outputs))(params["embedding"])  # (L, D, L, D): token s is row s
    reached = np.abs(jacobian).max((1, 3))
    earlier = np.tril(np.ones((length, length), bool))
    assert (reached[~earlier] == 0).all()
    assert (reached[earlier] > 1e-4).all()


def test_positions_matter():
    params = reference.parameters(SHAPE)
    swapped = TOKENS[:, [1, 0, *range(2, 11)]]
    last = [forward(SHAPE, params, tokens)[:, -1] for tokens in (TOKENS, swapped)]
    assert norm(np.asarray(last[0] - last[1])) > 1e-3


def test_initial_parameters():
    params = init(SHAPE, jax.random.key(0))
    leaves = dict(jax.tree_util.tree_leaves_with_path(params))
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves.items()
    }
    expected = {
        "embedding": 0.02, "block_1/query/kernel": 0.02, "block_0/up/kernel": 0.02,
        "block_0/out/kernel": 0.01, "block_1/down/kernel": 0.01,
    }  # fmt: skip
    for name, deviation in expected.items():
        # A sample's deviation has itself one of sigma / sqrt(2 n); five of these, n >= 1024.
        assert abs(float(names[name].std()) / deviation - 1) < 5 / (2 * 1024) ** 0.5
    assert all((x == 0).all() for name, x in names.items() if name.endswith("bias"))
    assert all((x == 1).all() for name, x in names.items() if name.endswith("scale"))


def test_gelu_is_the_tanh_form():
    x = jnp.linspace(-6, 6, 241)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("x", [-1e4, -50.0, 0.0, 50.0, 1e4])
def test_gelu_and_its_gradient_are_finite_far_out(x):
    value, slope = jax.value_and_grad(gelu)(jnp.float32(x))
    assert float(value) == (x if x > 0 else 0)
    assert float(slope) == (1 if x > 0 else 0 if x < 0 else 0.5)
