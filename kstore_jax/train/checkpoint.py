"""Orbax, behind one small file. Checkpoints are named by the updates completed."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

logging.getLogger("absl").setLevel(logging.CRITICAL)  # what fails is raised, too
_KEPT = 2


class Checkpoints:
    """The checkpoints of one stage: the newest two, each whole or not there."""

    def __init__(self, folder: pathlib.Path):
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.LatestN(_KEPT),
            cleanup_tmp_directories=True,
        )

    @property
    def newest(self) -> int | None:
        """Updates completed at the newest checkpoint, None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, **trees) -> None:
        """Starts writing `trees`; they may be donated as soon as this returns."""
        copies = jax.tree.map(jnp.copy, trees)
        self._checkpointer.save_checkpointables_async(step, copies)

    def load(self, step: int, **like) -> dict:
        """The trees saved at `step`, with the structure, types and shardings of `like`."""
        return self._checkpointer.load_checkpointables(step, like)

    def close(self) -> None:
        """Waits until everything is written."""
        self._checkpointer.close()


@contextlib.contextmanager
def opened(folder: pathlib.Path) -> Iterator[Checkpoints]:
    """The checkpoints in `folder`; leaving waits until everything is written."""
    checkpoints = Checkpoints(folder)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
