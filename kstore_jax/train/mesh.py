"""Devices -> a named mesh -> shardings."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")


def make_mesh(shape: tuple[int, int, int] | None = None) -> Mesh:
    """A mesh of all devices; all of them on the data axis unless `shape` says otherwise."""
    shape = shape or (jax.device_count(), 1, 1)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def everywhere(tree):
    """The arrays of a tree, each whole on every device."""
    return jax.device_put(tree, replicated(make_mesh()))


def batch_sharding(mesh: Mesh, rows: int) -> NamedSharding:
    """For arrays (steps, rows, ...): rows over the data axes where they divide evenly."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    rows_over = ("data", "fsdp") if rows % ways == 0 else None
    return NamedSharding(mesh, PartitionSpec(None, rows_over))
