"""Runners over finished and changed experiments, and what tests read of them."""

import dataclasses
import pathlib

import pytest

from kstore_jax.pipeline import finetune, run
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import read_graphs
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache, Stage
from kstore_jax.readouts import probe_training
from kstore_jax.train.config import Training
from kstore_jax.train.fit import TrainTask
from kstore_jax.world.people import (
    full_names as full_names,
)  # for the tests that import this module


def finished_runner(workdir: pathlib.Path, row: int) -> Runner:
    """A runner of one row of a finished run, over its stages."""
    return Runner(read_graphs(workdir)[row])


def with_sections(runner: Runner, cache: Cache, **sections) -> Runner:
    """A runner of the same experiment with other sections of its configuration, over a cache."""
    return Runner(ExperimentGraph(dataclasses.replace(runner.graph.experiment, **sections), cache))


class _Reached(Exception):
    """A stage called the training loop."""


def planned_training(
    monkeypatch: pytest.MonkeyPatch, runner: Runner, stage: Stage, folder: pathlib.Path
) -> tuple[TrainTask, Training]:
    """What a stage passes to the training loop, which does not run."""

    def stop(task, training, *_):
        raise _Reached(task, training)

    with monkeypatch.context() as patch:
        for module in (finetune, probe_training):
            patch.setattr(module, "fit", stop)
        patch.setattr(run, "fit_batched", lambda jobs, _: stop(jobs[0].task, jobs[0].training))
        with pytest.raises(_Reached) as reached:
            runner.compute(stage, folder)
    return reached.value.args
