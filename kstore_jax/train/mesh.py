"""The named mesh of devices, and the sharding of arrays over it."""

import math

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kstore_jax.errors import UserError
from kstore_jax.model.base import ARCHITECTURES
from kstore_jax.train.config import Mesh

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: Mesh | None = None) -> jax.sharding.Mesh:
    """A mesh of all devices of all processes.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    config = config or Mesh()
    devices = jax.device_count()
    fixed = config.fsdp * config.tensor
    shape = (config.data or max(1, devices // fixed), config.fsdp, config.tensor)
    if math.prod(shape) != devices:
        sizes = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
        raise UserError(f"mesh: {sizes} are {math.prod(shape)} devices; expected {devices}")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh, rows: int) -> NamedSharding:
    """The sharding of arrays (steps, rows, ...): rows over the data axes where they divide evenly.
    On the mesh of several models (`batched.py`): of arrays (steps, models, rows, ...)."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    rows_over = ("data", "fsdp") if rows % ways == 0 else None
    models = [axis for axis in mesh.axis_names if axis not in AXES]
    return NamedSharding(mesh, PartitionSpec(None, *models, rows_over))


def shard_tree(mesh: jax.sharding.Mesh, tree):
    """Places the arrays of a tree on the mesh: matrices of the network are sharded as architectures
    say (`Architecture.sharding`) where they divide evenly, all else is replicated.

    Works for parameters and for optimizer state, which holds trees like them.
    """

    def place(path, array):
        return _put(array, NamedSharding(mesh, _partition(mesh, path, array.shape)))

    return jax.tree_util.tree_map_with_path(place, tree)


def device_bytes(mesh: jax.sharding.AbstractMesh, tree) -> int:
    """Bytes of a tree of arrays, or of their shapes, on each device as `shard_tree` places them."""
    sizes = 0
    for path, array in jax.tree_util.tree_leaves_with_path(tree):
        axes = [axis for axis in _partition(mesh, path, array.shape) if axis]
        parts = math.prod(mesh.shape[axis] for axis in axes)
        sizes += array.size // parts * array.dtype.itemsize
    return sizes


def _put(array, sharding: NamedSharding) -> jax.Array:
    """Places an array that every process holds whole."""
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return jax.device_put(array, sharding)
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _partition(mesh, path: tuple, shape: tuple[int, ...]) -> PartitionSpec:
    names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    rules: dict[str, tuple[str | None, ...]] = {"kernel": ("fsdp", "tensor")}
    for architecture in ARCHITECTURES.entries().values():
        rules.update(architecture.sharding)
    axes = rules.get("/".join(names[-2:]), rules.get(names[-1]) if names else None)
    if axes is None or len(axes) != len(shape):
        return PartitionSpec()
    sizes = zip(axes, shape, strict=True)
    return PartitionSpec(
        *(axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in sizes)
    )
