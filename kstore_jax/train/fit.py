"""The one training loop: pretraining, finetuning and probing."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kstore_jax.config import Training
from kstore_jax.corpus.loader import MakeBatch, batches, local_rows
from kstore_jax.errors import UserError
from kstore_jax.model.forward import Params
from kstore_jax.train.checkpoint import opened
from kstore_jax.train.mesh import batch_sharding, make_mesh, placed
from kstore_jax.train.objectives import Objective, loss_of
from kstore_jax.train.optimizer import optimizer
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
    """

    name: str
    objective: Objective
    merge: Callable[[Tree, Tree], Params]
    frozen: Tree
    trainable: Tree
    make_batch: MakeBatch
    step_tokens: int


def fit(
    task: Task, training: Training, folder: pathlib.Path, mesh: jax.sharding.Mesh | None = None
) -> Tree:
    """Trains for `training.steps` steps and returns the trainable.

    Checkpoints go to `folder / "checkpoints"`; where some are there, the newest is gone on from.
    The batch and everything else of step t are functions of t, so the result is that of an
    undisturbed training: bit for bit on a machine of the same kind, with as many cores and
    workers, since the order of the sums in a matrix product depends on those.

    Raises:
      UserError: the loss or the weights became NaN or infinite; the last checkpoint from before
        stays.
      DamagedFileError: there are checkpoints, and none is whole.
      Stopped: the process got SIGTERM; a checkpoint was written.
    """
    mesh = mesh or make_mesh()
    optimiser = optimizer(training)
    frozen = placed(mesh, task.frozen)
    trainable = jax.tree.map(jnp.copy, task.trainable)
    state = placed(mesh, {"trainable": trainable, "optimizer": optimiser.init(trainable)})
    train = functools.partial(
        train_steps, task.objective, task.merge, optimiser, training.accumulate
    )
    train = jax.jit(train, donate_argnums=0)
    with deferred() as asked_to_stop, opened(folder / "checkpoints") as checkpoints:
        first, state = checkpoints.resume(**state)
        sharding = batch_sharding(mesh, training.batch)
        stride = training.dispatch
        rows = range(training.batch)
        if not sharding.is_fully_replicated:
            rows = local_rows(training.batch, jax.process_count(), jax.process_index())
        feed = batches(task.make_batch, first, training.steps, stride, sharding, rows)
        with Telemetry(folder, task.name, first, training.steps, task.step_tokens) as telemetry:
            step, unread = first, None
            for count, batch in feed:
                with jax.transfer_guard("disallow"):
                    state, losses = train(state, frozen, batch)
                _read(unread, telemetry, training.steps)
                step += count
                unread = step, losses
                stop = asked_to_stop()
                if stop or step == training.steps or step % training.checkpoint_every == 0:
                    norm = _norm(state["trainable"])
                    unread = _read(unread, telemetry, training.steps, norm)
                    checkpoints.save(step, **state)
                if stop:
                    break
    return state["trainable"]


def train_steps(objective, merge, optimiser, accumulate, state, frozen, batch):
    """Several steps in one program: `batch` has a leading axis of steps. Returns their losses."""

    def step(state, batch):
        parts = jax.tree.map(lambda x: _parts(x, accumulate), batch)

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
        return {"trainable": trainable, "optimizer": opt_state}, value

    return jax.lax.scan(step, state, batch)


def _parts(x: jax.Array, parts: int) -> jax.Array:
    """(rows, ...) -> (parts, rows / parts, ...), each part with rows of every device."""
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)


_norm = jax.jit(optax.tree.norm)


def _read(
    unread: tuple[int, jax.Array] | None,
    telemetry: Telemetry,
    steps: int,
    norm: jax.Array | float = 0.0,
) -> None:
    """Waits for the losses, and for the norm of weights that are about to be saved."""
    if unread is None:
        return
    step, losses = unread
    loss, norm = map(float, jax.device_get((losses.mean(), norm)))
    for what, value in (("loss", loss), ("norm of the weights", norm)):
        if not math.isfinite(value):
            raise UserError(
                f"the {what} became {value} in steps {step - len(losses) + 1} to {step}; "
                "lower the learning rate or set clip; the last checkpoint from before is kept"
            )
    telemetry.report(step, steps, loss)
