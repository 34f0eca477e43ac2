"""Dropout that draws eight random bits an element, where `jax.random.bernoulli` draws 64."""

import jax
import jax.numpy as jnp


def keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Which elements stay, bool of `shape`; each does with probability `share_kept(rate)`."""
    *leading, last = shape
    words = jax.random.bits(key, (*leading, -(-last // 4)), jnp.uint32)
    drawn = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*leading, -1)
    return drawn[..., :last] < jnp.uint8(_kept_of_256(rate))


def keep_prob(rate: float) -> float:
    """The share of elements that stay, what is left by a rate of dropout, in whole 256ths."""
    return _kept_of_256(rate) / 256


def _kept_of_256(rate: float) -> int:
    return min(max(round(256 * (1.0 - rate)), 1), 255)
