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
from kstore_jax.train.batched import ModelAxis, abreast, every_model
from kstore_jax.train.checkpoint import Checkpoints, opened
from kstore_jax.train.config import TelemetryConfig, Training
from kstore_jax.train.distributed import max_over_processes
from kstore_jax.train.loader import MakeBatch, batches
from kstore_jax.train.mesh import batch_sharding, make_mesh, placed
from kstore_jax.train.objectives import Objective, loss_of
from kstore_jax.train.optimizer import Dials, dials, optimizer, without_dials
from kstore_jax.train.preemption import deferred
from kstore_jax.train.telemetry import Telemetry
from kstore_jax.train.timing import Clock

Tree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What `fit` trains.

    Attributes:
      name: shown beside the progress bar.
      objective: `(params, batch) -> (totals, counts)`.
      merge: `(frozen, trainable) -> params`.
      frozen: what stays as it is.
      trainable: what is trained, as it is before the first step.
      make_batch: `(step, rows) -> batch`, those rows of the batch of a step; pure.
      step_tokens: tokens the model reads a step, for the telemetry.
      seed: of what the objective draws, by the `keys` it finds in its batch.
      evaluate: `params -> figures`, nested dictionaries of scalars that are still on the device;
        they go into `metrics.jsonl`.
      evaluate_every: steps between evaluations, a multiple of `steps_per_call`; 0 for none.
      token_flops: of forward and backward, by the two definitions of `peaks.flops_per_token`, None
        where MFU is not told.
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
class Lane:
    """A task and how it is trained, as `fit` is told of them."""

    task: Task
    training: Training
    folder: pathlib.Path
    watch: TelemetryConfig


def all_trained(_: Tree, trainable: Tree) -> Tree:
    """The merge of a training of every weight."""
    return trainable


_SAVED = ("trainable", "optimizer")
_GO_ON, _SAVE, _STOP = range(3)
_FUNCTIONS = 16  # of training steps that a process keeps, with what is compiled of each


@dataclasses.dataclass(frozen=True)
class Told:
    """What some steps found, still on the device: read while the next ones run.

    Attributes:
      step: updates completed with them.
      losses: `loss`, (steps,), and of a training that skips, `skipped` so far and `in_a_row`; of
        several models each (models, steps).
      evaluations: figures of each model after them, {} where it was not evaluated.
      wish: the highest that a process had after them, of `_GO_ON`, `_SAVE` and `_STOP`.
      norms: of the weights of each model after them, where they are about to be saved.
    """

    step: int
    losses: dict[str, jax.Array]
    evaluations: list[dict]
    wish: int | jax.Array
    norms: Sequence[jax.Array] = ()


def fit(
    task: Task,
    training: Training,
    folder: pathlib.Path,
    mesh: jax.sharding.Mesh | None = None,
    watch: TelemetryConfig | None = None,
) -> Tree:
    """Trains for `training.steps` steps and returns the trainable.

    Checkpoints go to `folder / "checkpoints"`; where some are there, the newest is gone on from.
    The batch and everything else of step t are functions of t, so the result is that of an
    undisturbed training: bit for bit on a machine of the same kind, with as many cores and
    workers, since the order of the sums in a matrix product depends on those. `watch` says what is
    told of it beside `metrics.jsonl`.

    Raises:
      UserError: the loss or the weights became NaN or infinite, more often in a row than
        `training.skip_nonfinite` allows; the last checkpoint from before stays.
      DamagedFileError: there are checkpoints, and none is whole.
      Stopped: a process of the run got SIGTERM; a checkpoint was written.
    """
    return fit_together([Lane(task, training, folder, watch or TelemetryConfig())], mesh)[0]


def fit_together(lanes: Sequence[Lane], mesh: jax.sharding.Mesh | None = None) -> list[Tree]:
    """`fit` of several tasks in one program; they differ in data alone: what they read, what they
    start from, their seeds, and the dials of their training (`optimizer.dials`). Objective, merge
    and all else of the training are the first's.

    Each ends as it does alone but for rounding. Interrupted, the same ones end together as if they
    were not, bit for bit; those that are not equally far go on in programs of their own. What ends
    one ends all. Several processes train one task at a time.

    Raises: as `fit`.
    """
    clock, mesh = Clock(), mesh or make_mesh()
    trained: list[Tree] = [None] * len(lanes)
    with deferred() as asked_to_stop, contextlib.ExitStack() as stack:
        checkpoints, found = [], {}
        for i, lane in enumerate(lanes):
            kept = opened(lane.folder / "checkpoints", lane.training.keep_checkpoint_every)
            checkpoints.append(stack.enter_context(kept))
            found[i] = checkpoints[i].resume(**_state(lane, mesh))
        for first, which in abreast([saved.steps for saved in checkpoints]):
            axis, at = ModelAxis(len(which), mesh), placed(mesh, {"step": jnp.int32(first)})
            states = (
                state if step == first else checkpoints[i].load(first, **_state(lanes[i], mesh))
                for i, (step, state) in ((i, found.pop(i)) for i in which)
            )
            state = axis.stacked([{**state, **at} for state in states])
            members = [lanes[i] for i in which], [checkpoints[i] for i in which]
            ended = _train(axis, *members, state, first, clock, asked_to_stop)
            for i, trainable in zip(which, ended, strict=True):
                trained[i] = trainable
    return trained


def _state(lane: Lane, mesh: jax.sharding.Mesh) -> dict[str, Tree]:
    """What is saved of a lane, before the first step."""
    state = start(lane.task.trainable, lane.training, mesh)
    return {name: state[name] for name in _SAVED}


def _train(
    axis: ModelAxis,
    lanes: Sequence[Lane],
    checkpoints: Sequence[Checkpoints],
    state: Tree,
    first: int,
    clock: Clock,
    asked_to_stop: Callable[[], bool],
) -> list[Tree]:
    """Trains all lanes from step `first`; returns their trainables."""
    tasks, training, mesh = [lane.task for lane in lanes], lanes[0].training, axis.mesh
    train = compiled_steps(axis, tasks[0].objective, tasks[0].merge, training)
    merge = jax.jit(tasks[0].merge)
    frozen_of_each = [placed(axis.alone, task.frozen) for task in tasks]
    frozen = axis.stacked(frozen_of_each)
    dials = axis.stacked([dials_of(one.training, one.task.seed, axis.alone) for one in lanes])
    sharding = batch_sharding(mesh, training.batch_size)
    make_batch = axis.make_batch([task.make_batch for task in tasks])
    feed = batches(
        make_batch, first, training.steps, training.steps_per_call, sharding, training.batch_size
    )
    with contextlib.ExitStack() as stack:
        telemetries = []
        for lane in lanes:
            task = lane.task
            about = task.name, first, training.steps, task.step_tokens, task.token_flops
            telemetry = Telemetry(lane.folder, *about, clock, lane.watch, len(lanes))
            telemetries.append(stack.enter_context(telemetry))
        step, saved, unread, wish = first, time.monotonic(), None, _GO_ON
        for count, batch in clock.waited("data", feed):
            profiled = functools.partial(telemetries[0].profiled, step, count, train)
            with clock("step"), jax.transfer_guard("disallow"):
                state, losses = profiled(state, frozen, dials, batch)
            if unread:
                wish = _read(unread, lanes, telemetries, checkpoints, clock)
            step += count
            evaluations = [{}] * len(lanes)
            if tasks[0].evaluate_every and step % tasks[0].evaluate_every == 0:
                with clock("evaluation"):
                    now = map(merge, frozen_of_each, axis.each(state["trainable"]))
                    evaluations = [task.evaluate(p) for task, p in zip(tasks, now, strict=True)]
            old = 0 < 60 * training.checkpoint_minutes < time.monotonic() - saved
            mine = _STOP if asked_to_stop() else _SAVE if old else _GO_ON
            unread = Told(step, losses, evaluations, max_over_processes(mesh, mine))
            if wish or step == training.steps or step % training.checkpoint_every == 0:
                with clock("checkpoint"):
                    kept = axis.each({name: state[name] for name in _SAVED})
                    norms = [_norm(of_lane["trainable"]) for of_lane in kept]
                last = dataclasses.replace(unread, norms=norms)
                found = _read(last, lanes, telemetries, checkpoints, clock)
                wish, unread = max(wish, found), None
                with clock("checkpoint"):
                    for of_lane, trees in zip(checkpoints, kept, strict=True):
                        of_lane.save(step, **trees)
                del kept
                saved = time.monotonic()
            if wish == _STOP:
                raise Stopped
            wish = _GO_ON
    return axis.each(state["trainable"])


def start(trainable: Tree, training: Training, mesh: jax.sharding.Mesh) -> dict[str, Tree]:
    """The state of a training before its first step; `trainable` is copied."""
    trainable = jax.tree.map(jnp.copy, trainable)
    opt_state = optimizer(training).init(trainable)
    return placed(mesh, {"trainable": trainable, "optimizer": opt_state, "step": jnp.int32(0)})


def dials_of(training: Training, seed: int, mesh: jax.sharding.Mesh) -> Dials:
    """What of a training is data to its program, beside its state: the dials of the optimizer, and
    the data of the `key` of the seed."""
    return placed(mesh, {**dials(training), "key": jax.random.key_data(jax.random.key(seed))})


def compiled_steps(axis: ModelAxis, objective, merge, training: Training) -> Callable:
    """`(state, frozen, dials, batch) -> (state, losses)` of all models of an axis; the state is
    donated.

    Trainings that have their objective and merge in common, and differ in their dials alone, get
    the same function: those of the rows of a sweep are compiled once a process (but for masked
    words, whose objective is each row's own).
    """
    return _steps_of(axis.count > 1, objective, merge, without_dials(training))


@functools.lru_cache(maxsize=_FUNCTIONS)
def _steps_of(several: bool, objective, merge, training: Training) -> Callable:
    train = functools.partial(train_steps, objective, merge, training)
    return jax.jit(every_model(train) if several else train, donate_argnums=0)


def train_steps(objective, merge, training, state, frozen, dials, batch):
    """Several steps in one program: `batch` has a leading axis of steps. Returns their losses.

    The objective finds `keys` in its batch, one a row: functions of the seed, the step and the row.
    `dials` are those of `dials_of`.
    """
    optimiser = optimizer(training, dials)

    def step(state, batch):
        rows = jax.tree.leaves(batch)[0].shape[0]
        key = jax.random.fold_in(jax.random.wrap_key_data(dials["key"]), state["step"])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
        parts = jax.tree.map(
            lambda x: _parts(x, training.grad_accum_steps), {**batch, "keys": keys}
        )

        def terms(trainable, part):
            return objective(merge(frozen, trainable), part)

        counts = jax.lax.map(lambda part: terms(state["trainable"], part)[1], parts).sum(0)

        def loss(trainable, part):
            return loss_of(terms(trainable, part)[0], counts)

        def add(sums, part):
            found = jax.value_and_grad(loss)(state["trainable"], part)
            return jax.tree.map(jnp.add, sums, found), None

        first, rest = jax.tree.map(lambda x: x[0], parts), jax.tree.map(lambda x: x[1:], parts)
        found = jax.value_and_grad(loss)(state["trainable"], first)
        (value, gradient), _ = jax.lax.scan(add, found, rest)
        updates, opt_state = optimiser.update(gradient, state["optimizer"], state["trainable"])
        trainable = optax.apply_updates(state["trainable"], updates)
        told = {"loss": value}
        skipped = optax.tree_utils.tree_get(opt_state, "total_notfinite")
        if skipped is not None:
            in_a_row = optax.tree_utils.tree_get(opt_state, "notfinite_count")
            told.update(skipped=skipped, in_a_row=in_a_row)
        return {"trainable": trainable, "optimizer": opt_state, "step": state["step"] + 1}, told

    return jax.lax.scan(step, state, batch)


def _parts(x: jax.Array, parts: int) -> jax.Array:
    """(rows, ...) -> (parts, rows / parts, ...), each part with rows of every device."""
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)


_norm = jax.jit(optax.tree.norm)


def _read(
    told: Told,
    lanes: Sequence[Lane],
    telemetries: Sequence[Telemetry],
    checkpoints: Sequence[Checkpoints],
    clock: Clock,
) -> int:
    """Waits for what was told, and hands it on.

    Returns: the wish.
    """
    with clock("step"):
        losses = jax.device_get(told.losses)
    with clock("evaluation"):
        evaluations = jax.device_get(told.evaluations)
    with clock("checkpoint"):
        norms = jax.device_get(told.norms) or [0.0] * len(lanes)
    for i, (lane, telemetry) in enumerate(zip(lanes, telemetries, strict=True)):
        of_lane = {name: x.reshape(len(lanes), -1)[i] for name, x in losses.items()}
        kept = checkpoints[i].steps[-1:]
        _tell(told.step, of_lane, evaluations[i], norms[i], lane, telemetry, kept)
    return int(jax.device_get(told.wish))


def _tell(
    step: int,
    losses: dict[str, np.ndarray],
    evaluation: dict,
    norm: float,
    lane: Lane,
    telemetry: Telemetry,
    kept: list[int],
) -> None:
    """Tells what some steps of a lane found; of those that were skipped no loss is told. `kept`:
    the step of the newest checkpoint, if there is one."""
    training = lane.training
    taken = losses["in_a_row"] == 0 if "in_a_row" in losses else np.ones(len(losses["loss"]), bool)
    loss = float(losses["loss"][taken].mean()) if taken.any() else None
    wrong = None
    if not taken.all() and losses["in_a_row"].max() > training.skip_nonfinite:
        wrong = f"the gradient was not finite more than {training.skip_nonfinite} times in a row"
    elif loss is not None and not math.isfinite(loss):
        wrong = f"the loss became {loss}"
    elif not math.isfinite(norm):
        wrong = f"the norm of the weights became {norm}"
    if wrong:
        first = step - len(taken) + 1
        left = f"the checkpoint of step {kept[0]} is kept" if kept else "there is no checkpoint yet"
        raise UserError(
            f"{lane.task.name}: {wrong} in steps {first} to {step}; "
            f"lower the learning rate or set clip; {left}"
        )
    figures = jax.tree.map(float, evaluation)
    skipped = int(losses["skipped"][-1]) if "skipped" in losses else 0
    telemetry.report(step, training.steps, loss, skipped, figures)
