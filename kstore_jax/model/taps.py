"""Taps: what `forward` returns from inside the network, and replaces there.

The residual stream has `layers + 1` points: point 0 is the embedding's output, point i + 1 follows
block i. Modules write into flax's collection `intermediates` and read the collection `patches`.
Without taps neither exists, and nothing is computed for them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from kstore_jax.errors import UserError

_KEPT = "intermediates"  # a collection that `init` leaves out


class Patch(NamedTuple):
    """Values that replace the residual stream at one point.

    Attributes:
      values: (B, L, D), read where `mask` is True.
      mask: (B, L) bool.
    """

    values: jax.Array
    mask: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["patches"],
    meta_fields=["residual", "attention"],
)
@dataclasses.dataclass(frozen=True)
class Taps:
    """What to return and what to replace. Points and blocks are static, patches are arrays.

    Attributes:
      residual: points where the residual stream is returned, with its patch.
      attention: blocks whose attention weights are returned.
      patches: point -> `Patch`.
    """

    residual: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()
    patches: Mapping[int, Patch] = dataclasses.field(default_factory=dict)


class Tapped(NamedTuple):
    """What `Taps` asked for, in its order.

    Attributes:
      residual: (points, B, L, D) of `shape.activation_dtype`, before the final norm.
      attention: (blocks, B, H, L, L) float32: the weights of each query, which sum to 1.
    """

    residual: jax.Array
    attention: jax.Array


def tap_residual(module: nn.Module, x_BxLxD: jax.Array) -> jax.Array:
    """Returns the residual stream at a module's point with its patch, and keeps it for `Tapped`."""
    if not module.is_mutable_collection(_KEPT):
        return x_BxLxD
    if x_BxLxD.dtype == jnp.bfloat16:  # XLA may carry float32 on, and return what it did not use
        exact = jax.lax.reduce_precision(x_BxLxD.astype(jnp.float32), 8, 7)
        x_BxLxD = exact.astype(jnp.bfloat16)
    if module.has_variable("patches", "patch"):
        patch: Any = module.get_variable("patches", "patch")
        x_BxLxD = jnp.where(patch.mask[:, :, None], patch.values.astype(x_BxLxD.dtype), x_BxLxD)
    _keep(module, "residual", x_BxLxD)
    return x_BxLxD


def tap_attention(module: nn.Module, weights: Callable[[], jax.Array]) -> None:
    """Keeps the attention weights `weights()` (B, H, L, L) of a block for `Tapped`; computes
    nothing without taps."""
    if module.is_mutable_collection(_KEPT):
        _keep(module, "attention", weights())


def _keep(module: nn.Module, name: str, value: jax.Array) -> None:
    first: Any = None
    module.sow(_KEPT, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: first)


def apply_tapped(
    network: Any, variables: Mapping[str, Any], taps: Taps, *inputs: Any, **options: Any
) -> tuple[jax.Array, Tapped]:
    """Applies a `Transformer`; returns its hidden states, and what the taps ask for.

    Raises:
      UserError: the network lacks a point or a block.
    """
    last = network.shape.layers
    for field, most in (("residual", last), ("patches", last), ("attention", last - 1)):
        if beyond := [number for number in getattr(taps, field) if not 0 <= number <= most]:
            raise UserError(f"taps.{field}: expected 0 to {most}, got {beyond[0]}")
    patches: dict = {}
    for point, patch in taps.patches.items():
        _at(patches, point)["patch"] = patch
    hidden, updates = network.apply(
        {**variables, "patches": patches}, *inputs, mutable=[_KEPT], **options
    )
    inside: Any = updates[_KEPT]
    residual = [_at(inside, point)["residual"] for point in taps.residual]
    attention = [_at(inside, block + 1)["attention"] for block in taps.attention]
    batch, length, _ = hidden.shape
    return hidden, Tapped(
        jnp.stack(residual) if residual else jnp.zeros((0, *hidden.shape)),
        jnp.stack(attention) if attention else jnp.zeros((0, batch, 0, length, length)),
    )


def _at(collection: dict, point: int) -> dict:
    """The variables of the module that a point belongs to."""
    return collection if point == 0 else collection.setdefault(f"block_{point - 1}", {})
