"""The decoder's cache: arrays with a row for each position of each text.

A module keeps an array in flax's collection `cache`. Its first dimension is B or a multiple of it,
in the order of the texts, so that beam search can repeat and select texts.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def update_cache(module: nn.Module, name: str, new_NxLxK, cache_positions_B) -> jax.Array:
    """Writes new rows into the cached array `name` of a module, from position
    `cache_positions_B[b]` of text b; returns the array (N, M, K), where N is a multiple of B."""
    cache: Any = module.variable("cache", name, lambda: jnp.zeros_like(new_NxLxK))
    starts_N = cache_positions_B.repeat(len(new_NxLxK) // len(cache_positions_B))
    write = jax.vmap(lambda old, new, start: jax.lax.dynamic_update_slice(old, new, (start, 0)))
    cache.value = write(cache.value, new_NxLxK, starts_N)
    return cache.value


def neighbours(
    module: nn.Module, x_BxLxD, before: int, after: int, lengths_B=None, cache_positions_B=None
) -> jax.Array:
    """Returns the inputs of L positions, of `before` positions in front of them and of `after`
    behind them, (B, before + L + after, D); beyond the text they are zero.

    In generation the earlier inputs come from the cache, which `module` keeps as `inputs`. It holds
    all positions, since texts of a batch end at different ones.

    Args:
      after: 0 in generation.
      lengths_B, cache_positions_B: as `transformer.Transformer` takes them.
    """
    length = x_BxLxD.shape[1]
    if lengths_B is not None:
        is_text_BxL = jnp.arange(length)[None] < lengths_B[:, None]
        x_BxLxD = jnp.where(is_text_BxL[:, :, None], x_BxLxD, 0.0)
    if cache_positions_B is not None:
        inputs_BxMxD = update_cache(module, "inputs", x_BxLxD, cache_positions_B)
        if length == 1:  # the next token of each text
            positions = cache_positions_B[:, None] + jnp.arange(-before, 1)[None]
            near = jnp.take_along_axis(inputs_BxMxD, positions.clip(0)[:, :, None], 1)
            return jnp.where((positions >= 0)[:, :, None], near, 0.0)
    return jnp.pad(x_BxLxD, ((0, 0), (before, after), (0, 0)))
