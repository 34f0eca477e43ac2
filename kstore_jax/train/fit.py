"""The one training loop: pretraining, finetuning and probing."""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
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
from kstore_jax.train.optimizer import traced_hparams
from kstore_jax.train.preemption import defer_sigterm
from kstore_jax.train.step import compiled_steps, init_state, job_hparams
from kstore_jax.train.telemetry import Telemetry
from kstore_jax.train.timing import PhaseTimer

Tree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class TrainTask:
    """A model, its data and its loss: everything `fit` needs besides the `Training`.

    Attributes:
      name: label of the progress bar.
      objective: `(params, batch) -> (totals, counts)`, as in `objectives`.
      merge: `(frozen, trainable) -> params`.
      frozen: parameters that training leaves as they are.
      trainable: parameters that are trained; their values before the first step.
      make_batch: `(step, rows) -> batch` with those rows of the step's batch; a pure function.
      step_tokens: tokens that the model reads per step, for the telemetry.
      seed: seeds the `keys` in the batch, from which an objective draws random numbers.
      evaluate: `params -> metrics`, nested dictionaries of scalars on the device, which are written
        to `metrics.jsonl`.
      evaluate_at: steps after which to evaluate, multiples of `steps_per_call` or the last step.
      token_flops: FLOP per token, forward and backward, by both definitions of
        `flops.flops_per_token`; None: MFU is not logged.
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
    evaluate_at: Collection[int] = ()
    token_flops: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class TrainJob:
    """A task, how to train it, and the folder of its checkpoints and metrics."""

    task: TrainTask
    training: Training
    folder: pathlib.Path
    telemetry: TelemetryConfig


def merge_all(_: Tree, trainable: Tree) -> Tree:
    """Returns the trainable: the `merge` of a training of all weights."""
    return trainable


_SAVED = ("trainable", "optimizer")
_CONTINUE, _SAVE, _STOP = range(3)
_NO_CHECKPOINT = "there is no checkpoint yet"


@dataclasses.dataclass(frozen=True)
class PendingMetrics:
    """The metrics of one call of the compiled steps, still on the device while the next call runs.

    Attributes:
      step: updates completed.
      losses: `loss` and `grad_norm`, (steps,); where training skips steps also `skipped` so far and
        `in_a_row`.
        Of several models each is (models, steps).
      evaluations: metrics of each model after `step`, {} where it was not evaluated.
      action: the largest of `_CONTINUE`, `_SAVE` and `_STOP` that any process requests.
      norms: of each model's weights after `step`, where they are about to be saved.
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
    undisturbed one. It does so bit for bit on a machine of the same kind, with as many cores and
    workers: the order of the sums in a matrix product depends on those.

    Raises:
      UserError: the loss or the weights became NaN or infinite, more often in a row than
        `training.skip_nonfinite` allows; the last checkpoint before that is kept.
      DamagedFileError: there are checkpoints, and all are damaged.
      Stopped: a process of the run got SIGTERM; a checkpoint was written.
    """
    return fit_batched([TrainJob(task, training, folder, telemetry or TelemetryConfig())], mesh)[0]


def fit_batched(jobs: Sequence[TrainJob], mesh: jax.sharding.Mesh | None = None) -> list[Tree]:
    """Trains several jobs in one program and returns their trainables.

    The jobs may differ in data alone: batches, initial values, seeds, and the traced
    hyper-parameters of their training (`optimizer.traced_hparams`). Objective, merge and the rest
    of the training are the first job's.

    Each job ends as it does in `fit`, up to rounding. After an interruption the same jobs end
    together as if undisturbed, bit for bit; jobs that stopped at different steps resume in separate
    programs. An error in one job ends all. Several processes train one job at a time.

    Raises: as `fit`.
    """
    timer, mesh = PhaseTimer(), mesh or make_mesh()
    trained: list[Tree] = [None] * len(jobs)
    with defer_sigterm() as stop_requested, contextlib.ExitStack() as stack:
        checkpoints = [
            stack.enter_context(
                open_checkpoints(job.folder / "checkpoints", job.training.keep_checkpoint_every)
            )
            for job in jobs
        ]
        resumed = {
            i: checkpoints[i].resume(**_saved_state(job, mesh)) for i, job in enumerate(jobs)
        }
        for first, members in group_by_step([of_job.steps for of_job in checkpoints]):
            axis = ModelAxis(len(members), mesh)
            state = axis.stack(
                [_state_at(first, jobs[i], checkpoints[i], resumed.pop(i), mesh) for i in members]
            )
            loop = _Loop(
                axis, [jobs[i] for i in members], [checkpoints[i] for i in members], timer, first
            )
            for i, trainable in zip(members, loop.run(state, stop_requested), strict=True):
                trained[i] = trainable
    return trained


def _saved_state(job: TrainJob, mesh: jax.sharding.Mesh) -> dict[str, Tree]:
    """Returns the part of a job's state that checkpoints hold, before the first step."""
    state = init_state(job.task.trainable, job.training, mesh)
    return {name: state[name] for name in _SAVED}


def _state_at(
    first: int,
    job: TrainJob,
    checkpoints: Checkpoints,
    resumed: tuple[int, dict[str, Tree]],
    mesh: jax.sharding.Mesh,
) -> dict[str, Tree]:
    """Returns the state of a job at step `first`; `resumed` is the step and the trees of its newest
    checkpoint."""
    step, trees = resumed
    if step != first:
        trees = checkpoints.load(first, **_saved_state(job, mesh))
    return {**trees, **shard_tree(mesh, {"step": jnp.int32(first)})}


class _Loop:
    """The training loop of jobs that resume from the same step and share a program."""

    def __init__(
        self,
        axis: ModelAxis,
        jobs: Sequence[TrainJob],
        checkpoints: Sequence[Checkpoints],
        timer: PhaseTimer,
        first: int,
    ):
        self._axis, self._jobs, self._checkpoints = axis, jobs, checkpoints
        self._timer, self._first = timer, first
        self._task, self._training = jobs[0].task, jobs[0].training
        self._frozen_of_each = [shard_tree(axis.model_mesh, job.task.frozen) for job in jobs]
        self._merge = jax.jit(self._task.merge)
        self._saved_at = time.monotonic()

    def run(self, state: Tree, stop_requested: Callable[[], bool]) -> list[Tree]:
        """Trains from `state`, which is donated, to the last step; returns the trainables.

        The metrics of a call are read after the next call was dispatched, so that the devices do
        not wait for the host.
        """
        training, timer = self._training, self._timer
        train = compiled_steps(self._axis, self._task.objective, self._task.merge, training)
        frozen, hparams = self._axis.stack(self._frozen_of_each), self._hparams()
        with _Log(self._jobs, self._checkpoints, timer, self._first) as log:
            step, pending, action = self._first, None, _CONTINUE
            for count, batch in timer.timed_items("data", self._batches()):
                profiled = functools.partial(log.profiled, step, count, train)
                with timer("step"), jax.transfer_guard("disallow"):
                    state, losses = profiled(state, frozen, hparams, batch)
                if pending:
                    action = log.read(pending)
                step += count
                evaluations = self._evaluate(step, state["trainable"])
                pending = PendingMetrics(
                    step, losses, evaluations, self._requested_action(stop_requested)
                )
                if action or step == training.steps or step % training.checkpoint_every == 0:
                    action = max(action, self._save(state, pending, log))
                    pending = None
                if action == _STOP:
                    raise Stopped
                action = _CONTINUE
        return self._axis.unstack(state["trainable"])

    def _hparams(self) -> Tree:
        mesh = self._axis.model_mesh
        of_each = [job_hparams(job.training, job.task.seed, mesh) for job in self._jobs]
        return self._axis.stack(of_each)

    def _batches(self) -> Iterator[tuple[int, dict[str, jax.Array]]]:
        training = self._training
        return batches(
            self._axis.make_batch([job.task.make_batch for job in self._jobs]),
            self._first,
            training.steps,
            training.steps_per_call,
            batch_sharding(self._axis.mesh, training.batch_size),
            training.batch_size,
        )

    def _evaluate(self, step: int, trainable: Tree) -> list[dict]:
        """Evaluates each model after `step` where an evaluation is due; else {} for each."""
        if step not in self._task.evaluate_at:
            return [{}] * len(self._jobs)
        with self._timer("evaluation"):
            merged = map(self._merge, self._frozen_of_each, self._axis.unstack(trainable))
            return [
                job.task.evaluate(params) if job.task.evaluate else {}
                for job, params in zip(self._jobs, merged, strict=True)
            ]

    def _requested_action(self, stop_requested: Callable[[], bool]) -> int | jax.Array:
        """The largest of `_CONTINUE`, `_SAVE` and `_STOP` that any process requests."""
        waited = time.monotonic() - self._saved_at
        overdue = 0 < 60 * self._training.checkpoint_minutes < waited
        action = _STOP if stop_requested() else _SAVE if overdue else _CONTINUE
        return max_over_processes(self._axis.mesh, action)

    def _save(self, state: Tree, pending: PendingMetrics, log: "_Log") -> int:
        """Saves a checkpoint of each job, once its losses and weights are known to be finite;
        returns the action in `pending`."""
        with self._timer("checkpoint"):
            trees_of_each = self._axis.unstack({name: state[name] for name in _SAVED})
            norms = [_norm(trees["trainable"]) for trees in trees_of_each]
        action = log.read(dataclasses.replace(pending, norms=norms))
        with self._timer("checkpoint"):
            for of_job, trees in zip(self._checkpoints, trees_of_each, strict=True):
                of_job.save(pending.step, **trees)
        self._saved_at = time.monotonic()
        return action


_norm = jax.jit(optax.tree.norm)


class _Log(contextlib.ExitStack):
    """Reads pending metrics and writes them to the telemetry of each job, which it closes."""

    def __init__(
        self,
        jobs: Sequence[TrainJob],
        checkpoints: Sequence[Checkpoints],
        timer: PhaseTimer,
        first: int,
    ):
        super().__init__()
        self._jobs, self._checkpoints, self._timer = jobs, checkpoints, timer
        self._rates = [np.asarray(traced_hparams(job.training)["rates"]) for job in jobs]
        self._telemetries = [
            self.enter_context(
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
            )
            for job in jobs
        ]

    @property
    def profiled(self) -> Callable:
        """`Telemetry.profiled` of the first job: one program has one profile."""
        return self._telemetries[0].profiled

    def read(self, pending: PendingMetrics) -> int:
        """Waits for the metrics, logs them, and returns their action.

        Raises:
          UserError: training cannot go on, since the loss or the weights are not finite.
        """
        with self._timer("step"):
            losses = jax.device_get(pending.losses)
        with self._timer("evaluation"):
            evaluations = jax.device_get(pending.evaluations)
        with self._timer("checkpoint"):
            norms = jax.device_get(pending.norms) or [0.0] * len(self._jobs)
        for i in range(len(self._jobs)):
            of_job = {name: x.reshape(len(self._jobs), -1)[i] for name, x in losses.items()}
            self._report(i, pending.step, of_job, evaluations[i], float(norms[i]))
        return int(jax.device_get(pending.action))

    def _report(
        self, i: int, step: int, losses: dict[str, np.ndarray], evaluation: dict, norm: float
    ) -> None:
        """Logs the steps of job `i` that ended with `step`."""
        training = self._jobs[i].training
        applied = _applied(losses)
        loss, grad_norm = (
            float(losses[name][applied].mean()) if applied.any() else None
            for name in ("loss", "grad_norm")
        )
        if fault := _fault(training, losses, applied, loss, norm):
            steps = f"steps {step - len(applied) + 1} to {step}"
            newest = self._checkpoints[i].steps[-1:]
            checkpoint = f"the checkpoint of step {newest[0]} is kept" if newest else _NO_CHECKPOINT
            raise UserError(
                f"{self._jobs[i].task.name}: {fault} in {steps}; lower learning_rate or set "
                f"clip_global_norm; {checkpoint}"
            )
        skipped = int(losses["skipped"][-1]) if "skipped" in losses else 0
        rate = float(self._rates[i][max(0, step - skipped - 1)])
        self._telemetries[i].report(
            step, training.steps, loss, rate, grad_norm, skipped, jax.tree.map(float, evaluation)
        )


def _applied(losses: dict[str, np.ndarray]) -> np.ndarray:
    """Returns which steps changed the weights, (steps,) bool; the loss excludes the others."""
    if "in_a_row" in losses:
        return losses["in_a_row"] == 0
    return np.ones(len(losses["loss"]), bool)


def _fault(
    training: Training,
    losses: dict[str, np.ndarray],
    applied: np.ndarray,
    loss: float | None,
    norm: float,
) -> str | None:
    """Returns why training cannot go on after some steps, None where it can."""
    if not applied.all() and losses["in_a_row"].max() > training.skip_nonfinite:
        return f"the gradient was not finite more than {training.skip_nonfinite} times in a row"
    if loss is not None and not math.isfinite(loss):
        return f"the loss became {loss}"
    if not math.isfinite(norm):
        return f"the norm of the weights became {norm}"
    return None
