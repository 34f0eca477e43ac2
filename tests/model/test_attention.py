"""Attention, and its gradients, are those of a plain causal softmax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kstore_jax.model.attention import attend


def plain(q, k, v):
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    seen = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))[None]
    return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1) @ v


def inputs(rows: int, length: int, width: int, scale: float = 1.0) -> tuple[jax.Array, ...]:
    draw = np.random.default_rng(rows + length + width)
    return tuple(
        jnp.asarray(draw.normal(0, scale, (rows, length, width)), jnp.float32) for _ in range(4)
    )


@functools.partial(jax.jit, static_argnums=(0, 2))
def with_gradients(attention, given, *how):
    """The output, and the gradients of its sum weighted by the last of `given`."""
    *qkv, weight = given
    out, pull = jax.vjp(lambda *x: attention(*x, *how), *qkv)
    return out, pull(weight)


@pytest.mark.parametrize(
    ("sizes", "scale"), [((1, 1, 1), 1), ((3, 7, 1), 1), ((6, 16, 8), 1), ((2, 5, 3), 6)]
)
def test_attend_is_a_causal_softmax(sizes, scale):
    given = inputs(*sizes, scale)
    out, ours = with_gradients(attend, given, "float32")
    expected, theirs = with_gradients(plain, given)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        # A gradient is a difference of products of three arrays of this scale.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * scale**3)


def test_the_gradients_of_attend_are_the_limits_of_differences():
    *qkv, _ = inputs(2, 5, 3)
    with jax.numpy_dtype_promotion("standard"):
        check_grads(lambda *x: attend(*x, "float32"), qkv, order=1, modes=["rev"])


def test_attend_in_bfloat16_stays_near_float32():
    given = inputs(4, 32, 16)
    out, ours = with_gradients(attend, given, "bfloat16")
    expected, theirs = with_gradients(plain, given)
    assert float(jnp.abs(out - expected).max()) < 0.05
    for a, b in zip((out, *ours), (expected, *theirs), strict=True):
        assert a.dtype == jnp.float32
        assert float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel())) < 0.02
