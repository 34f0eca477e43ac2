"""Orbax, behind one small file. Checkpoints are named by the updates completed."""

import contextlib
import logging
import pathlib
import sys
import warnings
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from kstore_jax.errors import DamagedFileError, UserError

for _name in ("absl", "asyncio"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # what fails is raised, too
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # likewise
_KEPT = 2
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

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints that are there, ascending."""
        return [saved.step for saved in self._checkpointer.checkpoints]

    def save(self, step: int, **trees) -> None:
        """Starts writing `trees`; they may be donated as soon as this returns. A step that is there
        is left as it is."""
        if step in self.steps:
            return
        copies = jax.tree.map(jnp.copy, trees)
        with self._writing():
            self._checkpointer.save_checkpointables_async(step, copies)

    def load(self, step: int, **like) -> dict:
        """The trees saved at `step`, with the structure, types and shardings of `like`, which is
        itself what is there at step 0.

        Raises:
          DamagedFileError: they cannot be read, or are not like these.
        """
        if not step:
            return like
        try:
            return self._checkpointer.load_checkpointables(step, like)
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # Orbax has no error of its own for a damaged file
            raise DamagedFileError(
                f"{self._folder / str(step)}: damaged; remove {self._folder.parent} and run again"
            ) from error

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
                print(f"note: {path}: damaged; going on from step {step}", file=sys.stderr)
                self._checkpointer.delete(later)
            return step, trees
        raise damaged[0]

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          UserError: it could not be.
        """
        with self._writing():
            self._checkpointer.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # as Python and as TensorStore tell of a full disk
            cause: BaseException = error  # Orbax may fail once more when it cleans up
            while cause.__context__:
                cause = cause.__context__
            raise UserError(
                f"{self._folder}: a checkpoint could not be written; the last whole one is kept "
                f"({' '.join(str(cause).split())})"
            ) from error


@contextlib.contextmanager
def opened(folder: pathlib.Path, keep_every: int = 0) -> Iterator[Checkpoints]:
    """The checkpoints in `folder`; leaving waits until everything is written."""
    checkpoints = Checkpoints(folder, keep_every)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
