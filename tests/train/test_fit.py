"""The one training loop: it learns, goes on where it stopped, and stops when it diverges."""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kstore_jax.errors import Stopped, UserError
from kstore_jax.model import lora
from kstore_jax.train import fit as fit_module
from kstore_jax.train import preemption
from kstore_jax.train.adamw import AdamWConfig
from kstore_jax.train.batched import ModelAxis
from kstore_jax.train.config import Training
from kstore_jax.train.fit import TrainTask, fit, merge_all
from kstore_jax.train.loader import batches
from kstore_jax.train.mesh import make_mesh
from kstore_jax.train.muon import MuonConfig
from kstore_jax.train.objectives import answer_tokens, next_token
from kstore_jax.train.schedules import LinearConfig
from kstore_jax.train.step import compiled_steps
from kstore_jax.train.telemetry import METRICS, read_metrics
from tests.train.training import (
    SHAPE,
    TRAINING,
    WINDOW,
    Interrupted,
    interrupted_at,
    losses,
    same_bits,
    saved,
    steps_saved,
    task,
)


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
    fit(task(), dataclasses.replace(TRAINING, steps_per_call=1), tmp_path)
    assert len(losses(tmp_path)) == 20
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


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


def test_a_loss_that_is_not_finite_ends_the_training_at_the_last_good_checkpoint(tmp_path):
    plain = task()

    def make_batch(step, rows):
        weights = np.full(len(rows), step < 12, np.float32)
        return {**plain.make_batch(step, rows), "weights": weights}

    def objective(params, batch):
        totals, counts = next_token(SHAPE)(params, batch)
        return totals / batch["weights"].mean(), counts

    spoiled = dataclasses.replace(plain, objective=objective, make_batch=make_batch)
    training = dataclasses.replace(TRAINING, checkpoint_every=5)
    for _ in range(2):  # the second time it goes on from step 10
        with pytest.raises(UserError, match="steps 11 to 15") as raised:
            fit(spoiled, training, tmp_path)
        assert "the loss became nan" in str(raised.value)
        assert str(raised.value).endswith("; the checkpoint of step 10 is kept")
        assert "\n" not in str(raised.value)
        assert steps_saved(tmp_path) == [5, 10]
        assert [step for step, _ in losses(tmp_path)] == [5, 10]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved(tmp_path, 10)))


def test_a_learning_rate_far_too_high_is_told_in_one_line(tmp_path):
    wild = dataclasses.replace(TRAINING, learning_rate=1e30, clip_global_norm=0.0)
    with pytest.raises(UserError, match=r"nan in steps 1 to 5; .*; there is no checkpoint yet$"):
        fit(task(), wild, tmp_path)
    assert steps_saved(tmp_path) == []


def spoiled_in(*steps: int) -> TrainTask:
    """The task, whose gradient is not finite in some steps."""
    plain = task()

    def make_batch(step, rows):
        root = np.full(len(rows), step not in steps, np.float32)
        return {**plain.make_batch(step, rows), "root": root}

    def objective(params, batch):
        steep_at_0 = jnp.sqrt(batch["root"].mean() + 0.0 * params["embedding"].sum())
        totals, counts = next_token(SHAPE)(params, batch)
        return totals + steep_at_0, counts

    return dataclasses.replace(plain, objective=objective, make_batch=make_batch)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """The loss of a step is that of the weights before it: here 9 is the last before a save."""
    training = dataclasses.replace(TRAINING, checkpoint_every=5)
    with pytest.raises(UserError, match="norm of the weights became nan in steps 6 to 10"):
        fit(spoiled_in(9), training, tmp_path)
    assert steps_saved(tmp_path) == [5]


def test_steps_without_a_finite_gradient_are_skipped_and_counted_where_that_is_asked_for(tmp_path):
    skipping = dataclasses.replace(TRAINING, skip_nonfinite=2, checkpoint_every=5)
    with pytest.raises(UserError, match="not finite more than 2 times in a row in steps 16 to 20"):
        fit(spoiled_in(3, 4, 8, 15, 16, 17), skipping, tmp_path)
    lines = read_metrics(tmp_path / METRICS)
    assert [(line["step"], line.get("skipped")) for line in lines] == [(5, 2), (10, 3), (15, 3)]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert steps_saved(tmp_path) == [10, 15]
    assert same_bits(fit(spoiled_in(), skipping, tmp_path), fit(spoiled_in(), skipping, tmp_path))


def test_a_skipped_step_changes_no_weight(tmp_path):
    one_a_call = dataclasses.replace(
        TRAINING, skip_nonfinite=1, steps_per_call=1, steps=3, warmup_steps=0
    )
    few = dataclasses.replace(one_a_call, checkpoint_every=1)
    fit(spoiled_in(2), few, tmp_path)
    assert same_bits(saved(tmp_path, 3, few)["trainable"], saved(tmp_path, 2, few)["trainable"])
    assert read_metrics(tmp_path / METRICS)[-1]["loss"] is None


def test_dropout_is_a_function_of_the_seed_and_the_step(tmp_path, undisturbed):
    dropping = next_token(dataclasses.replace(SHAPE, dropout=0.3, attention_dropout=0.3))

    def trained(name, plain, **changes):
        return fit(
            dataclasses.replace(plain, objective=dropping, **changes), TRAINING, tmp_path / name
        )

    found = trained("whole", task())
    with pytest.raises(Interrupted):
        trained("resumed", interrupted_at(15))
    assert same_bits(trained("resumed", task()), found)
    assert not same_bits(trained("other seed", task(), seed=1), found)
    assert not same_bits(saved(undisturbed, 20)["trainable"], found)


def test_with_bfloat16_activations_it_learns_as_well_and_resumes_exactly(tmp_path, undisturbed):
    half = dataclasses.replace(SHAPE, dtype="bfloat16", activation_dtype="bfloat16")

    def trained(name, plain):
        return fit(
            dataclasses.replace(plain, objective=next_token(half)), TRAINING, tmp_path / name
        )

    found = trained("whole", task())
    with pytest.raises(Interrupted):
        trained("resumed", interrupted_at(15))
    assert same_bits(trained("resumed", task()), found)
    last, exact = losses(tmp_path / "whole")[-1][1], losses(undisturbed)[-1][1]
    assert 0 < abs(last - exact) < 0.05 * exact


def test_every_row_and_step_has_a_key_of_its_own(tmp_path):
    """Whatever the parts of the batch; the loss is the mean of a draw by each key."""

    def objective(params, batch):
        drawn = jax.vmap(jax.random.uniform)(batch["keys"])
        totals, counts = next_token(SHAPE)(params, batch)
        return 0.0 * totals / counts * len(drawn) + drawn.sum(), jnp.float32(len(drawn))

    found = []
    for parts in (1, 2):
        training = dataclasses.replace(TRAINING, grad_accum_steps=parts, steps_per_call=1)
        folder = tmp_path / str(parts)
        fit(dataclasses.replace(task(), objective=objective), training, folder)
        found.append([loss for _, loss in losses(folder)])
    np.testing.assert_allclose(*found, rtol=1e-6)
    assert len(set(found[0])) == TRAINING.steps
    alone = dataclasses.replace(TRAINING, batch_size=1, steps_per_call=1)
    fit(dataclasses.replace(task(1), objective=objective), alone, tmp_path / "alone")
    of_first_rows = np.array([loss for _, loss in losses(tmp_path / "alone")])
    assert (abs(of_first_rows - found[0]) > 1e-3).all()


def test_a_host_array_is_not_handed_to_the_program_unnoticed(tmp_path, monkeypatch):
    def on_the_host(*args):
        for count, batch in batches(*args):
            yield count, jax.tree.map(np.asarray, batch)

    monkeypatch.setattr(fit_module, "batches", on_the_host)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        fit(task(), TRAINING, tmp_path)


def test_a_state_is_given_to_the_next_which_is_dispatched_before_it_is_waited_for(
    tmp_path, monkeypatch
):
    states, order = [], []
    compiled_steps, waits = fit_module.compiled_steps, (jax.device_get, jax.block_until_ready)

    def watched(*how):
        train = compiled_steps(*how)

        def steps_per_call(state, *rest):
            states.append(state)
            order.append("steps_per_call")
            return train(state, *rest)

        return steps_per_call

    def waited(wait, tree):
        if order[-1:] == ["steps_per_call"]:
            order.append("wait")
        return wait(tree)

    monkeypatch.setattr(fit_module, "compiled_steps", watched)
    for wait in waits:
        monkeypatch.setattr(jax, wait.__name__, functools.partial(waited, wait))
    fit(task(), dataclasses.replace(TRAINING, checkpoint_every=20), tmp_path)
    assert order == ["steps_per_call", *3 * ["steps_per_call", "wait"]]
    assert all(array.is_deleted() for state in states for array in jax.tree.leaves(state))


DIALS = {
    "learning_rate": 1e-2,
    "weight_decay": 0.5,
    "warmup_steps": 3,
    "final_lr_ratio": 0.5,
    "schedule": LinearConfig(),
}

PARTS_OF_A_PROGRAM = {
    "optimizer": (MuonConfig(), AdamWConfig(b1=0.8), AdamWConfig(b2=0.9), AdamWConfig(eps=1e-3)),
    "clip_global_norm": (0.5,),
    "grad_accum_steps": (2,),
    "skip_nonfinite": (3,),
}


def test_trainings_that_differ_in_dials_alone_have_the_same_steps_and_no_others():
    def steps_of(training, models=1, shape=SHAPE, merge=merge_all):
        return compiled_steps(ModelAxis(models, make_mesh()), next_token(shape), merge, training)

    for name, value in DIALS.items():
        assert steps_of(dataclasses.replace(TRAINING, **{name: value})) is steps_of(TRAINING)
    for name, values in PARTS_OF_A_PROGRAM.items():
        for value in values:
            other = dataclasses.replace(TRAINING, **{name: value})
            assert steps_of(other) is not steps_of(TRAINING)
    wider = dataclasses.replace(SHAPE, width=2 * SHAPE.width)
    assert steps_of(TRAINING, shape=wider) is not steps_of(TRAINING)
    assert steps_of(TRAINING, merge=lambda _, trainable: trainable) is not steps_of(TRAINING)
    assert steps_of(TRAINING, models=2) is steps_of(TRAINING, models=3) is not steps_of(TRAINING)


def test_an_adapter_is_trained_and_the_frozen_model_is_not(tmp_path):
    plain = task()
    frozen = plain.trainable
    before = jax.tree.map(np.array, frozen)
    start = lora.init_lora(frozen, ("query", "value"), jax.random.key(0), 2, 3, 0.1)
    with_lora = dataclasses.replace(
        plain, merge=functools.partial(lora.merge, alpha=2.0), frozen=frozen, trainable=start
    )
    trained = fit(with_lora, TRAINING, tmp_path)
    assert same_bits(frozen, before)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), trained, start)
    assert jax.tree.all(changed)
    assert losses(tmp_path)[-1][1] < losses(tmp_path)[0][1]


def trained_on(devices: int, *batches: int) -> dict[int, dict]:
    """What trainings in a process with so many simulated devices came to, by batch size."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.training", *map(str, batches)],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
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


def test_eight_devices_train_and_go_on_as_one():
    many, one = trained_on(8, 8, 6), trained_on(1, 8, 6)
    assert [many[batch]["rows"] for batch in (8, 6)] == [1, 6]
    assert [one[batch]["rows"] for batch in (8, 6)] == [8, 6]
    for batch in (8, 6):
        assert many[batch]["resumed"]
        assert one[batch]["resumed"]
        assert len(many[batch]["losses"]) == 4
        np.testing.assert_allclose(many[batch]["losses"], one[batch]["losses"], rtol=1e-5)


def train_answers(folder, training: Training):
    """Trains on answers of different lengths: the parts of a batch weigh differently."""

    def make_batch(step, rows):
        draw = np.random.default_rng(step)
        tokens = draw.integers(0, 32, (training.batch_size, WINDOW)).astype(np.int32)
        lengths = draw.integers(1, 4, training.batch_size)
        batch = {
            "tokens": tokens,
            "positions": draw.integers(0, WINDOW, (training.batch_size, 3)).astype(np.int32),
            "targets": draw.integers(0, 32, (training.batch_size, 3)).astype(np.int32),
            "weights": (np.arange(3) < lengths[:, None]).astype(np.float32),
        }
        return {name: column[rows.start : rows.stop] for name, column in batch.items()}

    plain = task(training.batch_size, objective=answer_tokens(SHAPE), make_batch=make_batch)
    return fit(plain, training, folder), losses(folder)


@pytest.mark.parametrize("grad_accum_steps", [2, 4, 8])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, grad_accum_steps):
    training = dataclasses.replace(TRAINING, batch_size=8)
    whole, losses_at_once = train_answers(tmp_path / "whole", training)
    training = dataclasses.replace(training, grad_accum_steps=grad_accum_steps)
    parts, losses_by_parts = train_answers(tmp_path / "parts", training)
    np.testing.assert_allclose(
        [x for _, x in losses_by_parts], [x for _, x in losses_at_once], rtol=1e-5
    )
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)  # Adam blows up rounding where all is flat


def test_muon_learns_and_moves_matrices_in_all_directions_alike(tmp_path):
    training = dataclasses.replace(
        TRAINING, optimizer=MuonConfig(), weight_decay=0.0, learning_rate=1e-2
    )
    start = task().trainable
    trained = fit(task(), training, tmp_path)
    found = [loss for _, loss in losses(tmp_path)]
    assert found[-1] < 0.8 * found[0]
    moved = np.asarray(trained["block_0"]["up"]["kernel"] - start["block_0"]["up"]["kernel"])
    plain = fit(task(), dataclasses.replace(training, optimizer=AdamWConfig()), tmp_path / "adamw")
    by_adamw = np.asarray(plain["block_0"]["up"]["kernel"] - start["block_0"]["up"]["kernel"])
    flatness = [np.linalg.svd(x, compute_uv=False) for x in (moved, by_adamw)]
    muon, adamw = (values[0] / np.median(values) for values in flatness)
    assert muon < 0.5 * adamw


def test_what_was_asked_to_stop_saves_and_says_so(tmp_path, undisturbed):
    plain = task()

    def make_batch(step, rows):
        if step == 7:
            signal.raise_signal(signal.SIGTERM)
        return plain.make_batch(step, rows)

    before = signal.getsignal(signal.SIGTERM)
    preemption.handle_sigterm()
    try:
        with pytest.raises(Stopped):
            fit(dataclasses.replace(plain, make_batch=make_batch), TRAINING, tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
        preemption._requested.clear()
    (step,) = steps_saved(tmp_path)[-1:]
    assert 0 < step < 20
    assert step % TRAINING.steps_per_call == 0
    fit(plain, TRAINING, tmp_path)
    assert losses(tmp_path) == losses(undisturbed)
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))
