"""A training of a few seconds. `python -m tests.train.training BATCH ...` runs some."""

import contextlib
import dataclasses
import json
import pathlib
import sys
import tempfile

import jax
import numpy as np
import pytest

from kstore_jax.model.transformer import Shape
from kstore_jax.train.checkpoint import open_checkpoints
from kstore_jax.train.config import Training
from kstore_jax.train.fit import TrainTask, fit, merge_all
from kstore_jax.train.mesh import batch_sharding, make_mesh
from kstore_jax.train.objectives import next_token
from kstore_jax.train.optimizer import optimizer
from kstore_jax.train.telemetry import METRICS, read_metrics
from tests.model import reference

SHAPE = Shape(vocabulary=32, layers=1, heads=2, width=16)
WINDOW = 8
TRAINING = Training(
    steps=20,
    batch_size=4,
    learning_rate=3e-2,
    warmup_steps=2,
    steps_per_call=5,
    checkpoint_every=10,
)
orbax_drops_coroutines = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited:RuntimeWarning",
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
)
"""Where a read fails Orbax drops others unawaited. Such a test ends with `gc.collect()`, so that
the warning is not another test's."""


def task(batch: int = TRAINING.batch_size, **changes) -> TrainTask:
    """Next tokens of a text in which one follows from the other; nothing is frozen."""

    def make_batch(step, rows):
        starts = np.random.default_rng(step).integers(0, 32, batch)[rows.start : rows.stop]
        tokens = starts[:, None] + 3 * np.arange(WINDOW + 1)
        return {"tokens": (tokens % 32).astype(np.int32)}

    plain = TrainTask(
        name="tiny",
        objective=next_token(SHAPE),
        merge=merge_all,
        frozen={},
        trainable=reference.parameters(SHAPE),
        make_batch=make_batch,
        step_tokens=batch * WINDOW,
    )
    return dataclasses.replace(plain, **changes)


class Interrupted(Exception):
    pass


def interrupted_at(step: int, batch: int = TRAINING.batch_size) -> TrainTask:
    """The same task, whose batches end with an exception at some step."""
    plain = task(batch)

    def make_batch(now, rows):
        if now >= step:
            raise Interrupted
        return plain.make_batch(now, rows)

    return dataclasses.replace(plain, make_batch=make_batch)


def saved(folder: pathlib.Path, step: int, training: Training = TRAINING) -> dict:
    """The whole state in a checkpoint."""
    like = task().trainable
    state = {"trainable": like, "optimizer": optimizer(training).init(like)}
    with open_checkpoints(folder / "checkpoints") as checkpoints:
        return checkpoints.load(step, **state)


def steps_saved(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def losses(folder: pathlib.Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(folder / METRICS)]


def same_bits(one, other) -> bool:
    """Whether two trees are alike in structure and equal in every bit."""
    alike = jax.tree.map(
        lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), one, other
    )
    return jax.tree.all(alike)


def main() -> None:
    for batch in map(int, sys.argv[1:]):
        training = dataclasses.replace(TRAINING, batch_size=batch)
        rows = batch_sharding(make_mesh(), batch).shard_shape((1, batch, WINDOW + 1))[1]
        with tempfile.TemporaryDirectory() as root:
            undisturbed, resumed = pathlib.Path(root, "undisturbed"), pathlib.Path(root, "resumed")
            resumed.mkdir()
            undisturbed.mkdir()
            trained = fit(task(batch), training, undisturbed)
            with contextlib.suppress(Interrupted):
                fit(interrupted_at(15, batch), training, resumed)
            found = {
                "devices": jax.device_count(),
                "rows": rows,
                "resumed": same_bits(fit(task(batch), training, resumed), trained),
                "losses": losses(resumed),
            }
            print(json.dumps(found))


if __name__ == "__main__":
    main()
