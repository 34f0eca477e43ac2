"""Dropout masks from eight random bits per element, where `jax.random.bernoulli` draws 64."""

import jax
import jax.numpy as jnp


@jax.named_scope("keep_mask")
def keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Returns a bool mask of `shape`: True, with probability `keep_prob(rate)`, for kept elements.

    The mask depends on `key` alone.
    """
    *leading, last = shape
    words = jax.random.bits(key, (*leading, -(-last // 4)), jnp.uint32)
    random_bytes = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*leading, -1)
    return random_bytes[..., :last] < jnp.uint8(_keep_of_256(rate))


def keep_prob(rate: float) -> float:
    """Returns the probability of keeping an element: 1 - `rate` rounded to a 256th, in (0, 1)."""
    return _keep_of_256(rate) / 256


def _keep_of_256(rate: float) -> int:
    return min(max(round(256 * (1.0 - rate)), 1), 255)
