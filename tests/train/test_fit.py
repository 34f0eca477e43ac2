"""The one training loop: it learns, goes on where it stopped, and stops when it diverges."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.model import adapters
from kstore_jax.train.fit import fit
from kstore_jax.train.mesh import batch_sharding, make_mesh
from kstore_jax.train.objectives import next_token
from kstore_jax.train.telemetry import METRICS
from tests.train.training import (
    SHAPE,
    TRAINING,
    losses,
    same_bits,
    saved,
    steps_saved,
    task,
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    fit(task(), TRAINING, folder)
    return folder


def test_the_loss_falls(undisturbed):
    found = losses(undisturbed)
    assert [step for step, _ in found] == [5, 10, 15, 20]
    assert found[-1][1] < 0.6 * found[0][1]


def test_the_trainable_given_is_left_as_it_was(tmp_path):
    given = task()
    before = jax.tree.map(np.array, given.trainable)
    trained = fit(given, TRAINING, tmp_path)
    assert same_bits(given.trainable, before)
    assert not same_bits(trained, before)


def test_what_is_returned_is_what_is_saved(undisturbed):
    assert steps_saved(undisturbed) == [10, 20]
    trained = fit(task(), TRAINING, undisturbed)  # finished before: nothing is left to do
    assert same_bits(saved(undisturbed, 20)["trainable"], trained)
    assert [step for step, _ in losses(undisturbed)] == [5, 10, 15, 20]


def test_steps_a_dispatch_change_no_bit(tmp_path, undisturbed):
    fit(task(), dataclasses.replace(TRAINING, dispatch=1), tmp_path)
    assert len(losses(tmp_path)) == 20
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


class Interrupted(Exception):
    pass


def interrupted_at(step: int):
    """The same task, whose batches end with an exception at some step."""
    plain = task()

    def make_batch(now, rows):
        if now >= step:
            raise Interrupted
        return plain.make_batch(now, rows)

    return dataclasses.replace(plain, make_batch=make_batch)


@pytest.mark.parametrize("step", [10, 15])
def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path, undisturbed, step):
    with pytest.raises(Interrupted):
        fit(interrupted_at(step), TRAINING, tmp_path)
    assert steps_saved(tmp_path) == [10]
    seen = []
    plain = task()

    def make_batch(step, rows):
        seen.append(step)
        return plain.make_batch(step, rows)

    fit(dataclasses.replace(plain, make_batch=make_batch), TRAINING, tmp_path)
    assert min(seen) == 10
    assert losses(tmp_path) == losses(undisturbed)
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


def test_metrics_after_the_checkpoint_are_dropped_and_so_is_half_a_line(tmp_path, undisturbed):
    with pytest.raises(Interrupted):
        fit(interrupted_at(10), TRAINING, tmp_path)
    later = {"step": 15, "steps": 20, "loss": 99.0, "tokens_per_s": 1, "seconds": 1.0}
    with (tmp_path / METRICS).open("a") as file:
        file.write(json.dumps(later) + '\n{"step": 20, "st')
    fit(task(), TRAINING, tmp_path)
    assert losses(tmp_path) == losses(undisturbed)


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    fit(task(), dataclasses.replace(TRAINING, checkpoint_every=5), tmp_path)
    assert steps_saved(tmp_path) == [15, 20]


def test_a_loss_that_is_not_finite_ends_the_training_at_the_last_good_checkpoint(tmp_path):
    plain = task()

    def make_batch(step, rows):
        weights = np.full(len(rows), step < 12, np.float32)
        return {**plain.make_batch(step, rows), "weights": weights}

    def objective(params, batch):
        return next_token(SHAPE)(params, batch) / batch["weights"].mean()

    spoiled = dataclasses.replace(plain, objective=objective, make_batch=make_batch)
    training = dataclasses.replace(TRAINING, checkpoint_every=5)
    for _ in range(2):  # the second time it goes on from step 10
        with pytest.raises(UserError, match="steps 11 to 15") as told:
            fit(spoiled, training, tmp_path)
        assert "the loss became nan" in str(told.value)
        assert "\n" not in str(told.value)
        assert steps_saved(tmp_path) == [5, 10]
        assert [step for step, _ in losses(tmp_path)] == [5, 10]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved(tmp_path, 10)))


def test_a_learning_rate_far_too_high_is_told_in_one_line(tmp_path):
    wild = dataclasses.replace(TRAINING, learning_rate=1e30, clip=0.0)
    with pytest.raises(UserError, match=r"the loss became nan in steps 1 to 5; lower the learning"):
        fit(task(), wild, tmp_path)
    assert steps_saved(tmp_path) == []


def test_an_adapter_is_trained_and_the_frozen_model_is_not(tmp_path):
    plain = task()
    frozen = plain.trainable
    before = jax.tree.map(np.array, frozen)
    start = adapters.init_lora(frozen, jax.random.key(0), 2, 3, 0.1)
    with_lora = dataclasses.replace(
        plain, merge=functools.partial(adapters.merge, alpha=2.0), frozen=frozen, trainable=start
    )
    trained = fit(with_lora, TRAINING, tmp_path)
    assert same_bits(frozen, before)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), trained, start)
    assert jax.tree.all(changed)
    assert losses(tmp_path)[-1][1] < losses(tmp_path)[0][1]


def test_the_batch_is_dealt_out_where_it_divides_evenly():
    mesh = make_mesh()
    ways = jax.device_count()
    sharding = batch_sharding(mesh, 3 * ways)
    assert sharding.shard_shape((2, 3 * ways, 7)) == (2, 3, 7)
    batch = jax.device_put(jnp.zeros((2, 3 * ways, 7)), sharding)
    assert len(batch.addressable_shards) == ways


def trained_on(devices: int, *batches: int) -> dict[int, dict]:
    """What trainings in a process with so many simulated devices came to, by batch size."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.training", *map(str, batches)],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(training["devices"] == devices for training in found)
    return dict(zip(batches, found, strict=True))


def test_eight_devices_train_as_one():
    many, one = trained_on(8, 8, 6), trained_on(1, 8, 6)
    assert [many[batch]["rows"] for batch in (8, 6)] == [1, 6]
    assert [one[batch]["rows"] for batch in (8, 6)] == [8, 6]
    for batch in (8, 6):
        assert len(many[batch]["losses"]) == 4
        np.testing.assert_allclose(many[batch]["losses"], one[batch]["losses"], rtol=1e-5)
