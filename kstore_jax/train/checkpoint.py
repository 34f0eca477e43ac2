"""Checkpoints by Orbax, named by the updates completed.

Each holds a digest of its trees, since Orbax itself restores damaged arrays without an error.
"""

import contextlib
import logging
import math
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from kstore_jax.errors import DamagedFileError, UserError, memory_shortage, system_refusal
from kstore_jax.files import sha256
from kstore_jax.train.distributed import any_process, is_first

for _name in ("absl", "asyncio"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # failures are raised as well
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # as above
_NEWEST = 2  # checkpoints that are kept
_DIGESTS = "digests"
_STAGE = "stage"
_METADATA = "_CHECKPOINT_METADATA"
_STAGE_FOLDER = re.compile(r"\w+-[0-9a-f]{12}")
_MISREAD = re.compile(r"[*?\[\\]|gs:/|^/(gs|s3|az|hf)/")  # by Orbax's `glob`, TensorStore, etils
_policies = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints of one stage: the newest two and those of multiples of `keep_multiples`
    steps. A checkpoint is complete or absent."""

    def __init__(self, folder: pathlib.Path, keep_multiples: int = 0):
        policies: list = [_policies.LatestN(_NEWEST)]
        policies += [_policies.EveryNSteps(keep_multiples)] if keep_multiples else []
        check_path(folder)
        self._folder = folder
        policy: Any = _policies.AnyPreservationPolicy(policies)
        every: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
        self._checkpointer = ocp.training.Checkpointer(
            str(folder.absolute()),
            save_decision_policy=every,
            preservation_policy=policy,
            cleanup_tmp_directories=True,
        )
        self._saving: ocp.AsyncResponse[bool] | None = None

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, ascending."""
        return [saved.step for saved in self._checkpointer.checkpoints]

    def save(self, step: int, **trees) -> None:
        """Starts writing `trees`, which may be donated as soon as this returns. An existing step is
        not written again.

        Until writing ends, the devices hold two copies of `trees`.
        """
        if step in self.steps:
            return
        copies = jax.tree.map(jnp.copy, trees)
        metadata: Any = {_DIGESTS: {name: digest(tree) for name, tree in trees.items()}}
        metadata |= {_STAGE: self._stage}
        with self._writing():
            self._wait()
            self._saving = self._checkpointer.save_checkpointables_async(
                step, copies, custom_metadata=metadata
            )

    @property
    def _stage(self) -> str:
        """The name of the stage whose checkpoints these are; empty in a folder of another kind."""
        name = self._folder.absolute().parent.name
        return name if _STAGE_FOLDER.fullmatch(name) else ""

    def _wait(self) -> None:
        """Waits for the checkpoint being written, which holds a thread and files until then."""
        saving, self._saving = self._saving, None
        if saving:
            saving.result()

    def load(self, step: int, **like) -> dict:
        """The trees saved at `step`, with the structure, types and shardings of `like`, which
        is itself the state at step 0. All processes of a run call it together.

        Raises:
          DamagedFileError: they can be read, but not as checkpoints, have another structure, or
            their digest is not the saved one.
          UserError: a process cannot read their files, or they are of another stage.
        """
        if not step:
            return like
        path, cause, trees, metadata = self._folder / str(step), None, {}, {}
        try:
            trees, metadata = self._read(step, like)
        except Exception as error:  # Orbax has no error of its own for a damaged file
            if isinstance(error, jax.errors.JaxRuntimeError) or memory_shortage(error):
                raise
            cause = error
        refusal = cause and (_refusal_to_read(path) or system_refusal(cause))
        if any_process(bool(refusal)):
            raise UserError(f"{path}: cannot be read ({refusal or 'by a process'})") from cause
        if (stage := metadata.get(_STAGE)) and self._stage not in ("", stage):
            raise UserError(f"{path}: is a checkpoint of {stage}; remove it and run again")
        damaged, saved = any_process(cause is not None), metadata.get(_DIGESTS) or {}
        if damaged or (saved and any(digest(tree) != saved[name] for name, tree in trees.items())):
            raise DamagedFileError(
                f"{path}: damaged; remove {self._folder.parent} and run again"
            ) from cause
        return trees

    def _read(self, step: int, like: dict) -> tuple[dict, dict]:
        """This process's part of the trees saved at `step`, and what was saved beside them; waits
        for no other process, which may have failed."""
        path, me = str(self._folder.absolute() / str(step)), jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
        with ocp.Context(multiprocessing_options=alone):
            metadata: Any = ocp.checkpointables_metadata(path).custom_metadata
            if not metadata:
                pathlib.Path(path, _METADATA).read_bytes()  # Orbax accepts that it is missing
            return ocp.load_checkpointables(path, like), metadata

    def resume(self, **like) -> tuple[int, dict]:
        """The step and trees of the newest whole checkpoint; 0 and `like` where nothing was saved.
        Newer, damaged checkpoints are deleted, with a note on stderr.

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
                    print(f"note: {path}: damaged; resuming from step {step}", file=sys.stderr)
                self._checkpointer.delete(later)
            return step, trees
        raise damaged[0]

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          UserError: a checkpoint could not be written.
        """
        with self._writing(), contextlib.closing(self._checkpointer):
            self._wait()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if (refusal := system_refusal(error)) is None:
                raise
            raise UserError(
                f"{self._folder}: a checkpoint could not be written; the last whole one is kept "
                f"({refusal})"
            ) from error


def check_path(folder: pathlib.Path) -> None:
    """Raises UserError where no checkpoint can be in a folder: the libraries that write it take its
    path for a pattern or an address."""
    path = str(folder.absolute())
    if path.encode(errors="ignore").decode() != path:
        raise UserError(f"{str(folder)!a}: expected a path in UTF-8; choose another folder")
    if found := _MISREAD.search(f"{path}/"):
        raise UserError(
            f"{folder}: checkpoints cannot be in a path with {found[0]!r}; choose another folder"
        )


def _refusal_to_read(folder: pathlib.Path) -> str | None:
    """Why a file in a folder and below cannot be read; None where each can, or the folder is
    missing."""
    try:
        sha256(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    return None


def digest(tree) -> int:
    """A 32-bit digest of the arrays of a tree, independent of their sharding. It always detects one
    changed element; other damage is missed once in 2^32."""
    leaves = jax.tree.leaves(tree)
    firsts = np.cumsum([0, *(math.prod(leaf.shape) for leaf in leaves)])[:-1].astype(np.uint32)
    parts = [_digest(leaf, first) for leaf, first in zip(leaves, firsts, strict=True)]
    return sum(map(int, jax.device_get(parts))) % 2**32


@jax.jit
def _digest(array: jax.Array, first: jax.Array) -> jax.Array:
    """The sum of the bits of all elements, each mixed with its number, counted from `first` (the
    finalizer of MurmurHash3, a bijection)."""
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
def open_checkpoints(folder: pathlib.Path, keep_multiples: int = 0) -> Iterator[Checkpoints]:
    """The checkpoints in `folder`; waits on exit until everything is written."""
    checkpoints = Checkpoints(folder, keep_multiples)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
