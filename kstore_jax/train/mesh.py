"""Devices -> a named mesh -> where each array lies; and how several processes become one run."""

import math
import os

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kstore_jax import config
from kstore_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
_COORDINATES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Where a product ends: its rows lie over the tensor axis, those of the others' columns do.
_INTO_RESIDUAL = ("out", "down")


def join_processes() -> None:
    """Makes this process one of several that train together, where the environment says so: SLURM
    with several tasks, a TPU pod, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.
    `fit` works in several processes; the stages of the lab do not yet, so no command calls this.

    Raises:
      UserError: some of the three are set and some are not.
    """
    given = [name for name in _COORDINATES if os.environ.get(name)]
    if given and len(given) < len(_COORDINATES):
        missing = next(name for name in _COORDINATES if name not in given)
        raise UserError(f"{missing} is not set, though {given[0]} is")
    if given:
        address, count, which = (os.environ[name] for name in _COORDINATES)
        jax.distributed.initialize(address, int(count), int(which))
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 or "," in os.environ.get(
        "TPU_WORKER_HOSTNAMES", ""
    ):
        jax.distributed.initialize()


def make_mesh(wanted: config.Mesh | None = None) -> jax.sharding.Mesh:
    """A mesh of all devices of all processes.

    Raises:
      UserError: the axes do not make up the devices that are there.
    """
    wanted = wanted or config.Mesh()
    devices = jax.device_count()
    fixed = wanted.fsdp * wanted.tensor
    shape = (wanted.data or max(1, devices // fixed), wanted.fsdp, wanted.tensor)
    if math.prod(shape) != devices:
        sizes = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
        raise UserError(f"mesh: {sizes} are {math.prod(shape)} devices, but {devices} are there")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh, rows: int) -> NamedSharding:
    """For arrays (steps, rows, ...): rows over the data axes where they divide evenly."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    rows_over = ("data", "fsdp") if rows % ways == 0 else None
    return NamedSharding(mesh, PartitionSpec(None, rows_over))


def placed(mesh: jax.sharding.Mesh, tree):
    """The arrays of a tree on the mesh: matrices of the network over fsdp and tensor where they
    divide evenly, all else whole on every device.

    Works for parameters and for the state of an optimizer, which holds trees like them.
    """

    def place(path, array):
        names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        return _put(array, NamedSharding(mesh, _partition(mesh, names, array.shape)))

    return jax.tree_util.tree_map_with_path(place, tree)


def _put(array, sharding: NamedSharding) -> jax.Array:
    """Every process holds the whole array and gives its part of it."""
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return jax.device_put(array, sharding)
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _partition(mesh, names: list[str], shape: tuple[int, ...]) -> PartitionSpec:
    module, leaf = (["", *names])[-2:]
    if leaf in ("embedding", "unembedding") and len(shape) == 2:
        axes: tuple = ("tensor", "fsdp")
    elif leaf == "kernel" and len(shape) == 2:
        axes = ("tensor", "fsdp") if module in _INTO_RESIDUAL else ("fsdp", "tensor")
    else:
        return PartitionSpec()
    fits = (size % mesh.shape[axis] == 0 for axis, size in zip(axes, shape, strict=True))
    return PartitionSpec(*(axis if ok else None for axis, ok in zip(axes, fits, strict=True)))
