"""The one training loop: pretraining, finetuning and probing."""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kstore_jax.config import Telemetry as Watch
from kstore_jax.config import Training
from kstore_jax.corpus.loader import MakeBatch, batches, local_rows
from kstore_jax.errors import Stopped, UserError
from kstore_jax.model.forward import Params
from kstore_jax.train.checkpoint import opened
from kstore_jax.train.clock import Clock
from kstore_jax.train.mesh import batch_sharding, make_mesh, placed
from kstore_jax.train.objectives import Objective, loss_of
from kstore_jax.train.optimizer import optimizer
from kstore_jax.train.processes import highest
from kstore_jax.train.stopping import deferred
from kstore_jax.train.telemetry import Telemetry

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
      evaluate_every: steps between evaluations, a multiple of `training.dispatch`; 0 for none.
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


_GO_ON, _SAVE, _STOP = range(3)


@dataclasses.dataclass(frozen=True)
class Told:
    """What some steps found, still on the device: read while the next ones run.

    Attributes:
      step: updates completed with them.
      losses: `loss`, (steps,), and of a training that skips, `skipped` so far and `in_a_row`.
      evaluation: figures of the model after them, {} where it was not evaluated.
      wish: the highest that a process had after them, of `_GO_ON`, `_SAVE` and `_STOP`.
      norm: of the weights after them, where they are about to be saved.
    """

    step: int
    losses: dict[str, jax.Array]
    evaluation: dict
    wish: int | jax.Array
    norm: jax.Array | float = 0.0


def fit(
    task: Task,
    training: Training,
    folder: pathlib.Path,
    mesh: jax.sharding.Mesh | None = None,
    watch: Watch | None = None,
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
    clock = Clock()
    mesh = mesh or make_mesh()
    optimiser = optimizer(training)
    frozen = placed(mesh, task.frozen)
    trainable = jax.tree.map(jnp.copy, task.trainable)
    state = placed(mesh, {"trainable": trainable, "optimizer": optimiser.init(trainable)})
    train = functools.partial(
        train_steps, task.objective, task.merge, optimiser, training.accumulate, task.seed
    )
    train, merge = jax.jit(train, donate_argnums=0), jax.jit(task.merge)
    kept = opened(folder / "checkpoints", training.keep_every)
    with deferred() as asked_to_stop, kept as checkpoints:
        first, state = checkpoints.resume(**state)
        state |= placed(mesh, {"step": jnp.int32(first)})
        sharding = batch_sharding(mesh, training.batch)
        stride = training.dispatch
        rows = range(training.batch)
        if not sharding.is_fully_replicated:
            rows = local_rows(training.batch, jax.process_count(), jax.process_index())
        feed = batches(task.make_batch, first, training.steps, stride, sharding, rows)
        about = folder, task.name, first, training.steps, task.step_tokens, task.token_flops
        with Telemetry(*about, clock, watch or Watch()) as telemetry:
            step, saved, unread, wish = first, time.monotonic(), None, _GO_ON
            for count, batch in clock.waited("data", feed):
                with clock("step"), jax.transfer_guard("disallow"), telemetry.profiled(step, count):
                    state, losses = train(state, frozen, batch)
                if unread:
                    wish = _read(unread, telemetry, training, clock)
                step += count
                evaluation = {}
                if task.evaluate_every and step % task.evaluate_every == 0:
                    with clock("evaluation"):
                        evaluation = task.evaluate(merge(frozen, state["trainable"]))
                old = 0 < 60 * training.checkpoint_minutes < time.monotonic() - saved
                mine = _STOP if asked_to_stop() else _SAVE if old else _GO_ON
                unread = Told(step, losses, evaluation, highest(mesh, mine))
                if wish or step == training.steps or step % training.checkpoint_every == 0:
                    last = dataclasses.replace(unread, norm=_norm(state["trainable"]))
                    wish, unread = max(wish, _read(last, telemetry, training, clock)), None
                    with clock("checkpoint"):
                        checkpoints.save(step, **{k: state[k] for k in ("trainable", "optimizer")})
                    saved = time.monotonic()
                if wish == _STOP:
                    break
                wish = _GO_ON
    if wish == _STOP:
        raise Stopped
    return state["trainable"]


def train_steps(objective, merge, optimiser, accumulate, seed, state, frozen, batch):
    """Several steps in one program: `batch` has a leading axis of steps. Returns their losses.

    The objective finds `keys` in its batch, one a row: functions of the seed, the step and the row.
    """

    def step(state, batch):
        rows = jax.tree.leaves(batch)[0].shape[0]
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
        parts = jax.tree.map(lambda x: _parts(x, accumulate), {**batch, "keys": keys})

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


def _read(told: Told, telemetry: Telemetry, training: Training, clock: Clock) -> int:
    """Waits for what was told, and hands it on; of steps that were skipped no loss is told.

    Returns: the wish.
    """
    with clock("step"):
        losses = jax.device_get(told.losses)
    with clock("evaluation"):
        evaluation = jax.device_get(told.evaluation)
    with clock("checkpoint"):
        norm = jax.device_get(told.norm)
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
        first = told.step - len(taken) + 1
        raise UserError(
            f"{wrong} in steps {first} to {told.step}; "
            "lower the learning rate or set clip; the last checkpoint from before is kept"
        )
    figures = jax.tree.map(float, evaluation)
    skipped = int(losses["skipped"][-1]) if "skipped" in losses else 0
    telemetry.report(told.step, training.steps, loss, skipped, figures)
    return int(jax.device_get(told.wish))
