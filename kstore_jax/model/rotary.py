"""Rotary positions: queries and keys turn by angles that grow with their position.

The letters of dimensions are explained in `transformer.py`.
"""

import math

import jax
import jax.numpy as jnp

from kstore_jax.model.config import Network


def rotary_cos_sin(
    positions_BxL: jax.Array, rotary_dims: int, network: Network
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines (B, L, rotary_dims) of the GPT-NeoX rotary embedding, where dimension i
    turns with dimension i + rotary_dims / 2. B is 1 where all texts have the same positions."""
    exponents = -jnp.arange(0, rotary_dims, 2, dtype=jnp.float32) / max(rotary_dims, 1)
    frequencies = network.rotary_base**exponents
    if network.rotary_factor > 1:
        frequencies = _stretch(frequencies, network)
    angles = positions_BxL.astype(jnp.float32)[:, :, None] * frequencies[None, None]
    angles = jnp.concatenate([angles, angles], axis=2)
    return jnp.cos(angles), jnp.sin(angles)


def _stretch(frequencies: jax.Array, network: Network) -> jax.Array:
    """Llama 3's rotary frequencies (`llama3` of transformers): a wavelength that the original
    texts held `rotary_high_freq` times stays, one they held `rotary_low_freq` times or less is
    `rotary_factor` times as long, and those between are interpolated."""
    low, high = network.rotary_low_freq, network.rotary_high_freq
    turns = network.rotary_original_positions / (2 * math.pi / frequencies)
    unstretched = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - unstretched) * frequencies / network.rotary_factor + unstretched * frequencies


def apply_rotary(x_BHxLxK: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the first dimensions of each head by its position; the others stay as they are."""
    texts = cos_sin[0].shape[0]
    heads = len(x_BHxLxK) // texts if texts > 1 else 1
    cos, sin = (table.repeat(heads, 0) for table in cos_sin)
    return _rotate(x_BHxLxK, cos, sin)


def apply_rotary_heads_last(x_BxLxGxRxK: jax.Array, cos_sin: tuple[jax.Array, jax.Array]):
    """The same for heads after positions."""
    return _rotate(x_BxLxGxRxK, *(table[:, :, None, None] for table in cos_sin))


@jax.named_scope("rotary")
def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    rotary_dims = cos.shape[-1]
    if not rotary_dims:
        return x
    rotated, rest = x[..., :rotary_dims].astype(jnp.float32), x[..., rotary_dims:]
    first, second = jnp.split(rotated, 2, axis=-1)
    rotated = rotated * cos + jnp.concatenate([-second, first], axis=-1) * sin
    return jnp.concatenate([rotated.astype(x.dtype), rest], axis=-1)
