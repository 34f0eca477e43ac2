"""The compiled training step: gradient, optimizer, several steps a call, several models."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kstore_jax.train.batched import ModelAxis, vmap_models
from kstore_jax.train.config import Training
from kstore_jax.train.mesh import shard_tree
from kstore_jax.train.objectives import total_loss
from kstore_jax.train.optimizer import TracedHparams, optimizer, static_part, traced_hparams

Tree = Any
_COMPILED_FUNCTIONS = 16  # training steps kept compiled in a process


def init_state(trainable: Tree, training: Training, mesh: jax.sharding.Mesh) -> dict[str, Tree]:
    """The state of a training before its first step; `trainable` is copied."""
    if jax.process_count() == 1:  # split first, so that no device holds all of it
        trainable = shard_tree(mesh, trainable)
    trainable = jax.tree.map(jnp.copy, trainable)
    opt_state = optimizer(training).init(trainable)
    return shard_tree(mesh, {"trainable": trainable, "optimizer": opt_state, "step": jnp.int32(0)})


def job_hparams(training: Training, seed: int, mesh: jax.sharding.Mesh) -> TracedHparams:
    """The inputs of the compiled steps besides state and batch: the optimizer's traced
    hyper-parameters, and the key data of the seed."""
    key = jax.random.key_data(jax.random.key(seed))
    return shard_tree(mesh, {**traced_hparams(training), "key": key})


def compiled_steps(axis: ModelAxis, objective, merge, training: Training) -> Callable:
    """Returns `(state, frozen, hparams, batch) -> (state, losses)` of all models of an axis; the
    state is donated.

    Trainings that share objective and merge, and differ in traced hyper-parameters alone, get the
    same function: the rows of a sweep are compiled once a process (except masked words, whose
    objective is each row's own).
    """
    return _steps_of(axis.count > 1, objective, merge, static_part(training))


@functools.lru_cache(maxsize=_COMPILED_FUNCTIONS)
def _steps_of(several: bool, objective, merge, training: Training) -> Callable:
    train = functools.partial(train_steps, objective, merge, training)
    return jax.jit(vmap_models(train) if several else train, donate_argnums=0)


def train_steps(objective, merge, training: Training, state, frozen, hparams, batch):
    """Several steps in one program; returns the state and their metrics: the loss and the norm of
    the gradient before clipping; where training skips steps, also how many it skipped.

    Args:
      hparams: as `job_hparams` returns them.
      batch: arrays with a leading axis of steps. The objective also finds `keys` in it, one a row:
        functions of the seed, the step and the row.
    """
    optimiser = optimizer(training, hparams)

    def step(state, batch):
        rows = jax.tree.leaves(batch)[0].shape[0]
        key = jax.random.fold_in(jax.random.wrap_key_data(hparams["key"]), state["step"])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
        parts = jax.tree.map(
            lambda x: _parts(x, training.grad_accum_steps), {**batch, "keys": keys}
        )

        def terms(trainable, part):
            return objective(merge(frozen, trainable), part)

        counts = jax.lax.map(lambda part: terms(state["trainable"], part)[1], parts).sum(0)

        def loss(trainable, part):
            return total_loss(terms(trainable, part)[0], counts)

        def add(sums, part):
            terms_of_part = jax.value_and_grad(loss)(state["trainable"], part)
            return jax.tree.map(jnp.add, sums, terms_of_part), None

        first, rest = jax.tree.map(lambda x: x[0], parts), jax.tree.map(lambda x: x[1:], parts)
        sums = jax.value_and_grad(loss)(state["trainable"], first)
        (value, gradient), _ = jax.lax.scan(add, sums, rest)
        updates, opt_state = optimiser.update(gradient, state["optimizer"], state["trainable"])
        trainable = optax.apply_updates(state["trainable"], updates)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(gradient)}
        skipped = optax.tree_utils.tree_get(opt_state, "total_notfinite")
        if skipped is not None:
            in_a_row = optax.tree_utils.tree_get(opt_state, "notfinite_count")
            metrics.update(skipped=skipped, in_a_row=in_a_row)
        return {"trainable": trainable, "optimizer": opt_state, "step": state["step"] + 1}, metrics

    return jax.lax.scan(step, state, batch)


def _parts(x: jax.Array, parts: int) -> jax.Array:
    """(rows, ...) -> (parts, rows / parts, ...), each part with rows of every device."""
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
