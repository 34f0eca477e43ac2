"""Every product, and its gradient, is the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kstore_jax.model.matmul import dense, dot, in_float32, transpose_copy

F32, BF16 = jnp.dtype("float32"), jnp.dtype("bfloat16")


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 3), (8, 6), (2, 3, 5), (2, 4, 4)])
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_transposed_swaps_the_last_two_dimensions(shape, dtype):
    x = normal(*shape).astype(dtype)
    swapped = jax.jit(transpose_copy)(x)
    assert swapped.dtype == dtype
    assert np.array_equal(swapped, np.asarray(x).swapaxes(-1, -2))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 3, 5)])
def test_the_gradient_of_transposed_is_the_transpose_of_the_gradient(shape):
    x, weight = normal(*shape), normal(*shape, seed=1)
    gradient = jax.grad(lambda x: (transpose_copy(x) * weight.swapaxes(-1, -2)).sum())(x)
    assert np.array_equal(gradient, weight)


@pytest.mark.parametrize(
    ("a", "b", "contract"),
    [
        ((5, 3), (3, 7), -2),
        ((5, 3), (7, 3), -1),
        ((2, 5, 3), (2, 3, 1), -2),
        ((2, 3, 1, 4), (2, 3, 5, 4), -1),
    ],
)
def test_dot_contracts_the_dimension_asked_for(a, b, contract):
    a, b = normal(*a), normal(*b, seed=1)
    expected = np.asarray(a) @ (np.asarray(b) if contract == -2 else np.asarray(b).swapaxes(-1, -2))
    np.testing.assert_allclose(dot(a, b, contract, F32), expected, rtol=1e-5, atol=1e-5)


def test_dot_rounds_its_inputs_to_bfloat16_and_its_sums_to_float32():
    a, b = normal(9, 33), normal(33, 5, seed=1)
    product = dot(a, b, -2, BF16)
    rounded = (np.asarray(x.astype(BF16), np.float64) for x in (a, b))
    assert product.dtype == F32
    np.testing.assert_allclose(product, np.matmul(*rounded), rtol=1e-5, atol=1e-5)


SIZES = [((5,), 3, 7), ((2, 3), 1, 4), ((1, 1), 6, 1), ((2, 3, 5), 4, 8), ((3, 2), 9, 11)]


@pytest.mark.parametrize(("leading", "inputs", "outputs"), SIZES)
@pytest.mark.parametrize("biased", [True, False])
def test_dense_is_the_product_plus_the_bias(leading, inputs, outputs, biased):
    x, kernel = normal(*leading, inputs), normal(inputs, outputs, seed=1)
    bias = normal(outputs, seed=2) if biased else None
    expected = np.asarray(x) @ np.asarray(kernel) + (np.asarray(bias) if biased else 0)
    np.testing.assert_allclose(dense(x, kernel, bias, F32), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("leading", "inputs", "outputs"), SIZES)
def test_the_gradients_of_dense_are_those_of_the_plain_product(leading, inputs, outputs):
    x, kernel, bias = (
        normal(*leading, inputs), normal(inputs, outputs, seed=1), normal(outputs, seed=2)
    )  # fmt: skip
    dy = normal(*leading, outputs, seed=3)
    ours = jax.jit(lambda *g: jax.vjp(lambda *g: dense(*g, F32), *g)[1](dy))(x, kernel, bias)
    flat_x, flat_dy = np.asarray(x).reshape(-1, inputs), np.asarray(dy).reshape(-1, outputs)
    plain = np.asarray(dy) @ np.asarray(kernel).T, flat_x.T @ flat_dy, flat_dy.sum(0)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_gradients_of_dense_are_the_limits_of_differences():
    given = normal(2, 3, 5), normal(5, 3, seed=1), normal(3, seed=2)
    with jax.numpy_dtype_promotion("standard"):
        check_grads(lambda *g: dense(*g, F32), given, order=1, modes=["rev"])


def test_the_gradients_of_dense_are_float32_when_it_computes_in_bfloat16():
    given = normal(6, 16), normal(16, 5, seed=1), normal(5, seed=2)
    dy = normal(6, 5, seed=3)
    gradients = jax.jit(lambda *g: jax.vjp(lambda *g: dense(*g, BF16), *g)[1](dy))(*given)
    assert {g.dtype for g in gradients} == {F32}
    x, kernel, _, dy = map(np.asarray, (*given, dy))
    for ours, exact in zip(gradients, (dy @ kernel.T, x.T @ dy, dy.sum(0)), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0.02, atol=0.02 * np.abs(exact).max())


@pytest.mark.parametrize("biased", [True, False])
def test_what_is_bfloat16_stays_so_and_gradients_of_weights_are_float32(biased):
    x, kernel = normal(2, 40, 16), normal(16, 5, seed=1)
    bias, dy = normal(5, seed=2) if biased else None, normal(2, 40, 5, seed=3)
    half_x, half_dy = x.astype(BF16), dy.astype(BF16)
    y, pull = jax.vjp(lambda *g: dense(*g, BF16), half_x, kernel, bias)
    gradients = pull(half_dy)
    assert y.dtype == gradients[0].dtype == BF16
    assert {g.dtype for g in gradients[1:] if g is not None} == {F32}
    exact, pull = jax.vjp(lambda *g: dense(*g, F32), x, kernel, bias)
    for ours, theirs in zip((y, *gradients), (exact, *pull(dy)), strict=True):
        if theirs is not None:
            near = 0.02 * float(jnp.abs(theirs).max())
            np.testing.assert_allclose(ours.astype(F32), theirs, rtol=0.02, atol=near)
    # 2,048 terms of 1: in bfloat16 their sum would stay at 256
    ones = jnp.ones((2048, 1), BF16)
    gradients = jax.vjp(lambda *g: dense(*g, BF16), ones, jnp.ones((1, 1)), jnp.ones(1))[1](ones)
    assert [float(g.ravel()[0]) for g in gradients] == [1, 2048, 2048]


def test_a_function_in_float32_rounds_once_and_keeps_its_input_alone():
    def cubed(x):
        assert x.dtype == F32
        return x * x * x

    x = normal(100)
    assert np.array_equal(in_float32(cubed, x), cubed(x))
    half = x.astype(BF16)
    exact = cubed(half.astype(F32))
    assert np.array_equal(in_float32(cubed, half), exact.astype(BF16))

    def residuals(x):
        return jax.tree.leaves(jax.vjp(lambda x: in_float32(cubed, x), x)[1])

    assert [(leaf.shape, leaf.dtype) for leaf in jax.eval_shape(residuals, half)] == [
        ((100,), BF16)
    ]
