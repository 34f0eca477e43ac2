"""Several processes of one run: all compute the same, the first one writes.

A single process is the first of one, and nothing here costs it anything.
"""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kstore_jax.errors import UserError

_COORDINATES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def initialize() -> None:
    """Joins this process to a multi-process run, before any other use of JAX.

    The coordinator comes from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or
    from SLURM or the TPU runtime.

    Raises:
      UserError: there is no coordinator, only some of the three variables are set, or the other
        processes do not join.
    """
    given = [name for name in _COORDINATES if os.environ.get(name)]
    if given and len(given) < len(_COORDINATES):
        missing = next(name for name in _COORDINATES if name not in given)
        raise UserError(f"{missing} is not set, though {given[0]} is")
    jax.config.update("jax_enable_preemption_service", False)  # would take SIGTERM from `stopping`
    address, count, which = (os.environ.get(name) or None for name in _COORDINATES)
    try:
        jax.distributed.initialize(
            address, int(count) if count else None, int(which) if which else None
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"distributed: expected SLURM, a TPU, or {', '.join(_COORDINATES)} for the "
            f"coordinator ({str(error).splitlines()[0]})"
        ) from error


def is_first() -> bool:
    """Whether this process writes files."""
    return jax.process_index() == 0


def broadcast_from_first(value):
    """Returns the first process's `value`, plain JSON, in every process.

    Where files decide the next step the first process reads them: another machine may see them
    late.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode() if is_first() else b"", np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(length, np.int32)
    padded[: len(text)] = text
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)))


def any_process(true: bool) -> bool:
    """Whether `true` holds in any process; all processes wait for each other."""
    if jax.process_count() == 1:
        return true
    return bool(multihost_utils.process_allgather(np.int32(true)).any())


def max_over_processes(mesh: Mesh, number: int) -> int | jax.Array:
    """The largest `number` of all processes; of several processes an array on the devices, which is
    not waited for."""
    if jax.process_count() == 1:
        return number
    one_a_device = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    mine = np.full(len(mesh.local_devices), number, np.int32)
    return _max(jax.make_array_from_process_local_data(one_a_device, mine))


_max = jax.jit(jnp.max)


def gather_to_host(mesh: Mesh, tree):
    """Gathers every array of a tree whole onto one device of this process, for work that each
    process does by itself."""
    if jax.process_count() == 1:
        return tree
    whole = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)
    return jax.tree.map(lambda array: array.addressable_data(0), whole)
