"""The default network is the one that the recorded results were made with: the same parameters, bit
for bit the same logits, and gradients that differ by rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kstore_jax.model.forward import forward, init, unembed
from kstore_jax.model.matmul import dense, transpose_copy
from kstore_jax.model.transformer import Shape
from tests.model import recorded

SIZES = {"vocabulary": 128, "layers": 2, "heads": 4, "width": 32}
TOKENS = np.random.default_rng(0).integers(0, 128, (3, 17)).astype(np.int32)


def assert_same_bits(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_names_initial_values_and_logits_are_the_same_bits_and_gradients_the_same(dtype, rounding):
    shape, before = Shape(**SIZES, dtype=dtype), recorded.Shape(**SIZES, dtype=dtype)
    network = recorded.Transformer(before)
    params = init(shape, jax.random.key(3))
    assert_same_bits(
        params, network.init(jax.random.key(3), jnp.zeros((1, 2), jnp.int32))["params"]
    )
    params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)

    def ours(params):
        return unembed(shape, params, forward(shape, params, TOKENS))

    def theirs(params):
        hidden = network.apply({"params": params}, TOKENS)
        return dense(hidden, transpose_copy(params["embedding"]), None, jnp.dtype(dtype))

    def with_gradient(logits):
        def run(params):
            out, pull = jax.vjp(logits, params)
            return out, pull(jnp.sin(out))

        return jax.jit(run)(params)

    (logits, gradient), (recorded_logits, recorded_gradient) = map(with_gradient, (ours, theirs))
    assert_same_bits(logits, recorded_logits)
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, gradient, recorded_gradient))
    assert difference < rounding * optax.tree.norm(recorded_gradient)
