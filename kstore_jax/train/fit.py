"""The one training loop: pretraining, finetuning and probing."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kstore_jax.errors import Stopped, UserError
from kstore_jax.model.forward import Params
from kstore_jax.train.batched import ModelAxis, group_by_step
from kstore_jax.train.checkpoint import Checkpoints, open_checkpoints
from kstore_jax.train.config import TelemetryConfig, Training
from kstore_jax.train.distributed import max_over_processes
from kstore_jax.train.loader import MakeBatch, batches
from kstore_jax.train.mesh import batch_sharding, make_mesh, shard_tree
from kstore_jax.train.objectives import Objective
from kstore_jax.train.preemption import defer_sigterm
from kstore_jax.train.step import compiled_steps, init_state, job_hparams
from kstore_jax.train.telemetry import Telemetry
from kstore_jax.train.timing import PhaseTimer

Tree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class TrainTask:
    """What `fit` trains.

    Attributes:
      name: label of the progress bar.
      objective: `(params, batch) -> (totals, counts)`.
      merge: `(frozen, trainable) -> params`.
      frozen: parameters that stay as they are.
      trainable: parameters that are trained, before the first step.
      make_batch: `(step, rows) -> batch`: those rows of the batch of a step; a pure function.
      step_tokens: tokens the model reads a step, for the telemetry.
      seed: of the random numbers the objective draws from the `keys` in its batch.
      evaluate: `params -> metrics`: nested dictionaries of scalars on the device, which go into
        `metrics.jsonl`.
      evaluate_every: steps between evaluations, a multiple of `steps_per_call`; 0 for none.
      token_flops: FLOP of forward and backward a token, by the two definitions of
        `flops.flops_per_token`; None where MFU is not logged.
    """

    name: str
    objective: Objective
    merge: Callable[[Tree, Tree], Params]
    frozen: Tree
    trainable: Tree
    make_batch: MakeBatch
    step_tokens: int
    seed: int = 0
    evaluate: Callable[[Params], dict] | None = None
    evaluate_every: int = 0
    token_flops: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class TrainJob:
    """A task, how it is trained, and the folder of its checkpoints and metrics."""

    task: TrainTask
    training: Training
    folder: pathlib.Path
    telemetry: TelemetryConfig


def merge_all(_: Tree, trainable: Tree) -> Tree:
    """The merge of a training of every weight."""
    return trainable


_SAVED = ("trainable", "optimizer")
_CONTINUE, _SAVE, _STOP = range(3)


@dataclasses.dataclass(frozen=True)
class PendingMetrics:
    """The metrics of some steps, still on the device: read while the next steps run.

    Attributes:
      step: updates completed with them.
      losses: `loss`, (steps,), and of a training that skips steps `skipped` so far and `in_a_row`;
        of several models (models, steps) each.
      evaluations: metrics of each model after them, {} where it was not evaluated.
      action: the highest of `_CONTINUE`, `_SAVE` and `_STOP` that a process asks for.
      norms: of the weights of each model after them, where they are about to be saved.
    """

    step: int
    losses: dict[str, jax.Array]
    evaluations: list[dict]
    action: int | jax.Array
    norms: Sequence[jax.Array] = ()


def fit(
    task: TrainTask,
    training: Training,
    folder: pathlib.Path,
    mesh: jax.sharding.Mesh | None = None,
    telemetry: TelemetryConfig | None = None,
) -> Tree:
    """Trains for `training.steps` steps and returns the trainable.

    Checkpoints go to `folder / "checkpoints"`; training resumes from the newest one there. The
    batch and everything else of step t are functions of t, so a resumed training ends as an
    undisturbed one: bit for bit on a machine of the same kind, with as many cores and workers,
    since the order of the sums in a matrix product depends on those.

    Raises:
      UserError: the loss or the weights became NaN or infinite, more often in a row than
        `training.skip_nonfinite` allows; the last checkpoint from before stays.
      DamagedFileError: there are checkpoints, and none is whole.
      Stopped: a process of the run got SIGTERM; a checkpoint was written.
    """
    return fit_batched([TrainJob(task, training, folder, telemetry or TelemetryConfig())], mesh)[0]


def fit_batched(jobs: Sequence[TrainJob], mesh: jax.sharding.Mesh | None = None) -> list[Tree]:
    """`fit` of several tasks in one program.

    The tasks differ in data alone: batches, initial values, seeds, and the traced hyper-parameters
    of their training (`optimizer.traced_hparams`). Objective, merge and the rest of the training
    are the first task's.

    Each ends as it does alone, up to rounding. After an interruption the same tasks end together as
    if undisturbed, bit for bit; tasks that are not equally far go on in programs of their own. An
    error in one ends all. Several processes train one task at a time.

    Raises: as `fit`.
    """
    timer, mesh = PhaseTimer(), mesh or make_mesh()
    trained: list[Tree] = [None] * len(jobs)
    with defer_sigterm() as stop_requested, contextlib.ExitStack() as stack:
        checkpoints, resumed = [], {}
        for i, job in enumerate(jobs):
            saved = open_checkpoints(job.folder / "checkpoints", job.training.keep_checkpoint_every)
            checkpoints.append(stack.enter_context(saved))
            resumed[i] = checkpoints[i].resume(**_saved_state(job, mesh))
        for first, which in group_by_step([saved.steps for saved in checkpoints]):
            axis = ModelAxis(len(which), mesh)
            start_step = shard_tree(mesh, {"step": jnp.int32(first)})
            states = (
                state
                if step == first
                else checkpoints[i].load(first, **_saved_state(jobs[i], mesh))
                for i, (step, state) in ((i, resumed.pop(i)) for i in which)
            )
            state = axis.stack([{**state, **start_step} for state in states])
            members = [jobs[i] for i in which], [checkpoints[i] for i in which]
            ended = _train(axis, *members, state, first, timer, stop_requested)
            for i, trainable in zip(which, ended, strict=True):
                trained[i] = trainable
    return trained


def _saved_state(job: TrainJob, mesh: jax.sharding.Mesh) -> dict[str, Tree]:
    """The part of a job's state that checkpoints hold, before the first step."""
    state = init_state(job.task.trainable, job.training, mesh)
    return {name: state[name] for name in _SAVED}


def _train(
    axis: ModelAxis,
    jobs: Sequence[TrainJob],
    checkpoints: Sequence[Checkpoints],
    state: Tree,
    first: int,
    timer: PhaseTimer,
    stop_requested: Callable[[], bool],
) -> list[Tree]:
    """Trains all jobs from step `first`; returns their trainables."""
    tasks, training, mesh = [job.task for job in jobs], jobs[0].training, axis.mesh
    train = compiled_steps(axis, tasks[0].objective, tasks[0].merge, training)
    merge = jax.jit(tasks[0].merge)
    frozen_of_each = [shard_tree(axis.model_mesh, task.frozen) for task in tasks]
    frozen = axis.stack(frozen_of_each)
    hparams = axis.stack(
        [job_hparams(job.training, job.task.seed, axis.model_mesh) for job in jobs]
    )
    rows, stride = training.batch_size, training.steps_per_call
    make_batch = axis.make_batch([task.make_batch for task in tasks])
    feed = batches(make_batch, first, training.steps, stride, batch_sharding(mesh, rows), rows)
    with contextlib.ExitStack() as stack:
        log = _Log(jobs, checkpoints, timer, first)
        telemetries = [stack.enter_context(telemetry) for telemetry in log.telemetries]
        step, saved, pending, action = first, time.monotonic(), None, _CONTINUE
        for count, batch in timer.timed_items("data", feed):
            profiled = functools.partial(telemetries[0].profiled, step, count, train)
            with timer("step"), jax.transfer_guard("disallow"):
                state, losses = profiled(state, frozen, hparams, batch)
            if pending:
                action = log.read(pending)
            step += count
            evaluations = [{}] * len(jobs)
            if tasks[0].evaluate_every and step % tasks[0].evaluate_every == 0:
                with timer("evaluation"):
                    merged = map(merge, frozen_of_each, axis.unstack(state["trainable"]))
                    evaluations = [
                        task.evaluate(params) if task.evaluate else {}
                        for task, params in zip(tasks, merged, strict=True)
                    ]
            overdue = 0 < 60 * training.checkpoint_minutes < time.monotonic() - saved
            own = _STOP if stop_requested() else _SAVE if overdue else _CONTINUE
            pending = PendingMetrics(step, losses, evaluations, max_over_processes(mesh, own))
            if action or step == training.steps or step % training.checkpoint_every == 0:
                with timer("checkpoint"):
                    trees_of_each = axis.unstack({name: state[name] for name in _SAVED})
                    norms = [_norm(trees["trainable"]) for trees in trees_of_each]
                action = max(action, log.read(dataclasses.replace(pending, norms=norms)))
                pending = None
                with timer("checkpoint"):
                    for of_job, trees in zip(checkpoints, trees_of_each, strict=True):
                        of_job.save(step, **trees)
                del trees_of_each
                saved = time.monotonic()
            if action == _STOP:
                raise Stopped
            action = _CONTINUE
    return axis.unstack(state["trainable"])


_norm = jax.jit(optax.tree.norm)


class _Log:
    """Reads pending metrics and hands them to the telemetry of each job."""

    def __init__(
        self,
        jobs: Sequence[TrainJob],
        checkpoints: Sequence[Checkpoints],
        timer: PhaseTimer,
        first: int,
    ):
        self._jobs, self._checkpoints, self._timer = jobs, checkpoints, timer
        self.telemetries = [
            Telemetry(
                job.folder,
                job.task.name,
                first,
                job.training.steps,
                job.task.step_tokens,
                job.task.token_flops,
                timer,
                job.telemetry,
                len(jobs),
            )
            for job in jobs
        ]

    def read(self, pending: PendingMetrics) -> int:
        """Waits for metrics, logs them, and returns the action."""
        with self._timer("step"):
            losses = jax.device_get(pending.losses)
        with self._timer("evaluation"):
            evaluations = jax.device_get(pending.evaluations)
        with self._timer("checkpoint"):
            norms = jax.device_get(pending.norms) or [0.0] * len(self._jobs)
        for i, job in enumerate(self._jobs):
            of_job = {name: x.reshape(len(self._jobs), -1)[i] for name, x in losses.items()}
            taken = _taken(of_job)
            loss = float(of_job["loss"][taken].mean()) if taken.any() else None
            if fault := _fault(job.training, of_job, taken, loss, float(norms[i])):
                steps = f"steps {pending.step - len(taken) + 1} to {pending.step}"
                last = "there is no checkpoint yet"
                if newest := self._checkpoints[i].steps[-1:]:
                    last = f"the checkpoint of step {newest[0]} is kept"
                raise UserError(
                    f"{job.task.name}: {fault} in {steps}; lower learning_rate or set "
                    f"clip_global_norm; {last}"
                )
            evaluation = jax.tree.map(float, evaluations[i])
            skipped = int(of_job["skipped"][-1]) if "skipped" in of_job else 0
            self.telemetries[i].report(pending.step, job.training.steps, loss, skipped, evaluation)
        return int(jax.device_get(pending.action))


def _taken(losses: dict[str, np.ndarray]) -> np.ndarray:
    """Which steps changed the weights, (steps,) bool; the loss of the others does not count."""
    if "in_a_row" in losses:
        return losses["in_a_row"] == 0
    return np.ones(len(losses["loss"]), bool)


def _fault(
    training: Training,
    losses: dict[str, np.ndarray],
    taken: np.ndarray,
    loss: float | None,
    norm: float,
) -> str | None:
    """Why training cannot go on after some steps, None where it can."""
    if not taken.all() and losses["in_a_row"].max() > training.skip_nonfinite:
        return f"the gradient was not finite more than {training.skip_nonfinite} times in a row"
    if loss is not None and not math.isfinite(loss):
        return f"the loss became {loss}"
    if not math.isfinite(norm):
        return f"the norm of the weights became {norm}"
    return None
