"""Copies of parameters with fewer bits, rounded to nearest with a scale a channel (Part 3.3)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from kstore_jax.model.forward import Params

BITS = {"int8": 8, "int4": 4}
"""The formats by name."""


@functools.partial(jax.jit, static_argnums=1)
def quantise(params: Params, format: str) -> Params:
    """Returns a copy whose matrices have the values of integers times a scale, as float32; biases
    and the gains of norms are unchanged.

    A channel is an output of a kernel or a row of a table of embeddings. Its scale maps its largest
    weight to the largest integer. Source: the baseline of GPTQ (Frantar et al., 2022).

    Args:
      format: a key of `BITS`.
    """
    largest = 2 ** (BITS[format] - 1) - 1

    def rounded(path: Any, weights: jax.Array) -> jax.Array:
        if weights.ndim < 2:
            return weights
        is_kernel = getattr(path[-1], "key", "") == "kernel"
        axes = tuple(range(weights.ndim - 1)) if is_kernel else (weights.ndim - 1,)
        scale = jnp.abs(weights).max(axes, keepdims=True) / largest
        scale = jnp.where(scale > 0, scale, 1.0)
        return jnp.round(weights / scale) * scale

    return jax.tree_util.tree_map_with_path(rounded, params)
