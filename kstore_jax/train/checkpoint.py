"""Orbax, behind one small file. Checkpoints are named by the updates completed, and hold a digest
of each of their trees: Orbax itself takes damaged arrays for what was saved."""

import contextlib
import logging
import math
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.train.distributed import any_process, is_first

for _name in ("absl", "asyncio"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # what fails is raised, too
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # likewise
_KEPT = 2
_DIGESTS = "digests"
_OF_THE_SYSTEM = re.compile("os.error", re.IGNORECASE)  # what TensorStore raises is a ValueError
_policies = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints of one stage: the newest two, and those of multiples of `keep_every` steps,
    each whole or not there."""

    def __init__(self, folder: pathlib.Path, keep_every: int = 0):
        kept = [_policies.LatestN(_KEPT)]
        kept += [_policies.EveryNSteps(keep_every)] if keep_every else []
        self._folder = folder
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=_policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )
        self._saving: ocp.AsyncResponse[bool] | None = None

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints that are there, ascending."""
        return [saved.step for saved in self._checkpointer.checkpoints]

    def save(self, step: int, **trees) -> None:
        """Starts writing `trees`; they may be donated as soon as this returns. A step that is there
        is left as it is.

        Until it is written there are two copies of `trees` on the devices.
        """
        if step in self.steps:
            return
        copies = jax.tree.map(jnp.copy, trees)
        digests = {_DIGESTS: {name: digest(tree) for name, tree in trees.items()}}
        with self._writing():
            self._wait()
            self._saving = self._checkpointer.save_checkpointables_async(
                step, copies, custom_metadata=digests
            )

    def _wait(self) -> None:
        """Until what is being saved is written; it holds a thread and files until it is asked."""
        saving, self._saving = self._saving, None
        if saving:
            saving.result()

    def load(self, step: int, **like) -> dict:
        """The trees saved at `step`, with the structure, types and shardings of `like`, which is
        itself what is there at step 0. All processes of a run call it together.

        Raises:
          DamagedFileError: a process cannot read them, or they are not like these, or not what was
            saved.
        """
        if not step:
            return like
        cause, trees, digests = None, {}, {}
        try:
            trees, digests = self._read(step, like)
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # Orbax has no error of its own for a damaged file
            cause = error
        damaged = any_process(cause is not None)
        if damaged or any(digest(trees[name]) != told for name, told in digests.items()):
            raise DamagedFileError(
                f"{self._folder / str(step)}: damaged; remove {self._folder.parent} and run again"
            ) from cause
        return trees

    def _read(self, step: int, like: dict) -> tuple[dict, dict[str, int]]:
        """What this process sees of the trees saved at `step`, and their digests; it waits for no
        other, which may have failed."""
        path, me = self._folder.absolute() / str(step), jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
        with ocp.Context(multiprocessing_options=alone):
            told = ocp.checkpointables_metadata(path).custom_metadata or {}
            trees = ocp.load_checkpointables(path, like)
        digests = told.get(_DIGESTS, {})  # none in checkpoints of before there were any
        return trees, {name: digests[name] for name in trees if digests}

    def resume(self, **like) -> tuple[int, dict]:
        """Updates completed, and the trees, of the newest whole checkpoint; 0 and `like` where
        nothing was saved yet. Damaged checkpoints after it are told on stderr and deleted.

        Raises:
          DamagedFileError: there are checkpoints, and none is whole.
        """
        newest_first = self.steps[::-1]
        if not newest_first:
            return 0, like
        damaged = []
        for step in newest_first:
            try:
                trees = self.load(step, **like)
            except DamagedFileError as error:
                damaged.append(error)
                continue
            for later in newest_first[: len(damaged)]:
                path = self._folder / str(later)
                if is_first():
                    print(f"note: {path}: damaged; going on from step {step}", file=sys.stderr)
                self._checkpointer.delete(later)
            return step, trees
        raise damaged[0]

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          UserError: it could not be.
        """
        with self._writing(), contextlib.closing(self._checkpointer):
            self._wait()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            cause: BaseException = error  # Orbax may fail once more when it cleans up
            while cause.__context__:
                cause = cause.__context__
            if not isinstance(cause, OSError) and not _OF_THE_SYSTEM.search(str(cause)):
                raise
            raise UserError(
                f"{self._folder}: a checkpoint could not be written; the last whole one is kept "
                f"({' '.join(str(cause).split())})"
            ) from error


def digest(tree) -> int:
    """32 bits of what is in the arrays of a tree, in their order, however they lie on devices. An
    element that changes, changes them; of other damage one in 2^32 is missed."""
    leaves = jax.tree.leaves(tree)
    firsts = np.cumsum([0, *(math.prod(leaf.shape) for leaf in leaves)])[:-1].astype(np.uint32)
    parts = [_digest(leaf, first) for leaf, first in zip(leaves, firsts, strict=True)]
    return sum(map(int, jax.device_get(parts))) % 2**32


@jax.jit
def _digest(array: jax.Array, first: jax.Array) -> jax.Array:
    """Of an array whose elements are numbered from `first` on: the sum of the bits of all elements,
    each mixed with its number (the finalizer of MurmurHash3, a bijection)."""
    bits = array.astype(jnp.uint8) if array.dtype == bool else array
    bits = jax.lax.bitcast_convert_type(bits, f"uint{8 * bits.dtype.itemsize}").astype(jnp.uint32)
    number = jnp.full(array.shape, first)
    for axis in range(array.ndim):
        stride = jnp.uint32(math.prod(array.shape[axis + 1 :]) % 2**32)
        number += stride * jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    bits ^= number * jnp.uint32(0x9E3779B1)
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return (bits ^ (bits >> 16)).sum(dtype=jnp.uint32)


@contextlib.contextmanager
def opened(folder: pathlib.Path, keep_every: int = 0) -> Iterator[Checkpoints]:
    """The checkpoints in `folder`; leaving waits until everything is written."""
    checkpoints = Checkpoints(folder, keep_every)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
