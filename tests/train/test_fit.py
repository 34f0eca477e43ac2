"""The one training loop: it learns, goes on where it stopped, and stops when it diverges."""

import collections
import dataclasses
import functools
import gc
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from kstore_jax.errors import DamagedFileError, Stopped, UserError
from kstore_jax.model import lora
from kstore_jax.train import fit as fit_module
from kstore_jax.train import flops, preemption, trackers
from kstore_jax.train.adamw import AdamWConfig
from kstore_jax.train.batched import ModelAxis
from kstore_jax.train.checkpoint import Checkpoints, digest
from kstore_jax.train.config import TelemetryConfig, Training
from kstore_jax.train.fit import TrainTask, fit, merge_all
from kstore_jax.train.loader import batches
from kstore_jax.train.mesh import make_mesh, shard_tree
from kstore_jax.train.muon import MuonConfig
from kstore_jax.train.objectives import answer_tokens, next_token
from kstore_jax.train.schedules import LinearConfig
from kstore_jax.train.step import compiled_steps
from kstore_jax.train.telemetry import METRICS, Telemetry, last_metrics, read_metrics
from kstore_jax.train.timing import PHASES, PhaseTimer
from tests.train.training import (
    SHAPE,
    TRAINING,
    WINDOW,
    Interrupted,
    interrupted_at,
    losses,
    orbax_drops_coroutines,
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


def test_metrics_after_the_checkpoint_are_dropped_and_so_is_half_a_line(tmp_path, undisturbed):
    with pytest.raises(Interrupted):
        fit(interrupted_at(10), TRAINING, tmp_path)
    later = {"step": 15, "steps": 20, "loss": 99.0, "seconds": 1.0, "spent": {"step": 99.0}}
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


def test_evaluations_are_written_with_their_steps_and_change_nothing(tmp_path, undisturbed):
    def evaluate(params):
        return {"norm": {"of embedding": jnp.linalg.norm(params["embedding"])}}

    evaluated = {"evaluate": evaluate, "evaluate_at": (10, 20)}
    with pytest.raises(Interrupted):
        fit(dataclasses.replace(interrupted_at(15), **evaluated), TRAINING, tmp_path)
    trained = fit(dataclasses.replace(task(), **evaluated), TRAINING, tmp_path)
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))
    evaluations = {
        line["step"]: line.get("evaluation") for line in read_metrics(tmp_path / METRICS)
    }
    assert evaluations.keys() == {5, 10, 15, 20}
    assert evaluations[5] is evaluations[15] is None
    expected = {
        "norm": {"of embedding": pytest.approx(float(jnp.linalg.norm(trained["embedding"])))}
    }
    assert evaluations[20] == expected
    assert evaluations[10] != evaluations[20]


EVALUATED_AT = range(5, 21, 5)


@jax.jit
def norm_of_embedding(params) -> dict:
    return {"norm": jnp.linalg.norm(params["embedding"])}


def killed_while_evaluating(folder: pathlib.Path, step: int) -> None:
    """Trains, and is killed while the device is at work on the evaluation after a step."""

    evaluations = iter(EVALUATED_AT)

    def kill(norm):
        if next(evaluations) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return norm

    @jax.jit
    def evaluate(params):
        norm = norm_of_embedding(params)["norm"]
        return {"norm": jax.pure_callback(kill, jax.typeof(norm), norm)}

    fit(evaluated(evaluate), TRAINING, folder)


def evaluated(evaluate) -> TrainTask:
    return dataclasses.replace(task(), evaluate=evaluate, evaluate_at=EVALUATED_AT)


@pytest.mark.parametrize("step", [5, 15, 20])
def test_killed_in_an_evaluation_it_ends_as_an_undisturbed_one(tmp_path, undisturbed, step):
    process = multiprocessing.get_context("spawn").Process(
        target=killed_while_evaluating, args=(tmp_path / "killed", step)
    )
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "checkpoints" / "20").exists()
    for name in ("killed", "whole"):
        fit(evaluated(norm_of_embedding), TRAINING, tmp_path / name)
    losses_of_each = [
        [(line["step"], line["evaluation"]) for line in read_metrics(tmp_path / name / METRICS)]
        for name in ("killed", "whole")
    ]
    assert losses_of_each[0] == losses_of_each[1]
    assert [at for at, _ in losses_of_each[0]] == [5, 10, 15, 20]
    assert losses(tmp_path / "killed") == losses(undisturbed)
    assert same_bits(saved(tmp_path / "killed", 20), saved(undisturbed, 20))


def killed_while_saving(folder: pathlib.Path, mark: str) -> None:
    """Trains, and is killed as soon as some file of the checkpoint of step 20 is there."""
    save = Checkpoints.save

    def saving(self, step, **trees):
        save(self, step, **trees)
        if step == 20:
            written = folder / "checkpoints" / "20.orbax-checkpoint-tmp" / mark
            while not written.exists() and not (folder / "checkpoints" / "20").exists():
                pass
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = saving
    fit(task(), TRAINING, folder)


@pytest.mark.parametrize("mark", ["", "optimizer/ocdbt.process_0"], ids=["begun", "half"])
def test_killed_while_it_saves_it_ends_as_an_undisturbed_one(tmp_path, undisturbed, mark):
    process = multiprocessing.get_context("spawn").Process(
        target=killed_while_saving, args=(tmp_path, mark)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["10", "20.orbax-checkpoint-tmp"]
    fit(task(), TRAINING, tmp_path)
    assert steps_saved(tmp_path) == [10, 20]
    assert losses(tmp_path) == losses(undisturbed)
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


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


def test_checkpoints_of_multiples_are_kept_for_good(tmp_path):
    fit(
        task(), dataclasses.replace(TRAINING, checkpoint_every=5, keep_checkpoint_every=5), tmp_path
    )
    assert steps_saved(tmp_path) == [5, 10, 15, 20]


def test_checkpoints_leave_no_thread_and_no_file_open(tmp_path):
    def locked() -> tuple[int, int]:
        gc.collect()
        return threading.active_count(), len(os.listdir("/dev/fd"))

    often = dataclasses.replace(TRAINING, checkpoint_every=5)
    fit(task(), often, tmp_path / "first")
    threads, files = locked()
    fit(task(), often, tmp_path / "second")
    after = locked()
    assert after[0] <= threads
    assert after[1] <= files


def test_a_checkpoint_is_written_when_so_long_has_passed_and_changes_nothing(tmp_path, undisturbed):
    """At the end of the steps after: the processes of a run agree on it meanwhile."""
    soon = dataclasses.replace(TRAINING, checkpoint_minutes=1e-9, checkpoint_every=20)
    with pytest.raises(Interrupted):
        fit(interrupted_at(15), soon, tmp_path)
    assert steps_saved(tmp_path) == [10]
    fit(task(), soon, tmp_path)
    assert losses(tmp_path) == losses(undisturbed)
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


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


def test_where_the_time_went_is_told_over_all_restarts(tmp_path):
    jax.clear_caches()  # as in a process that trains for the first time
    with pytest.raises(Interrupted):
        fit(interrupted_at(15), TRAINING, tmp_path)
    first = read_metrics(tmp_path / METRICS)
    assert [line["step"] for line in first] == [5, 10]
    spent = first[-1]["spent"]
    lost = {**first[-1], "step": 15, "spent": {**spent, "step": spent["step"] + 7.0}}
    with (tmp_path / METRICS).open("a") as file:
        file.write(json.dumps(lost) + "\n")
    with pytest.raises(Interrupted):  # before its first report
        fit(interrupted_at(10), TRAINING, tmp_path)
    fit(task(), TRAINING, tmp_path)
    lines = read_metrics(tmp_path / METRICS)
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    spent = [line["spent"] for line in lines]
    assert all(phases.keys() == set(PHASES) for phases in spent)
    for before, after in itertools.pairwise(spent):
        assert all(after[part] >= before[part] for part in PHASES)
    assert spent[1]["lost"] == 0.0
    assert spent[2]["lost"] == pytest.approx(7.0)
    assert spent[0]["start"] > 0
    assert spent[0]["compile"] > 0
    fit(task(), dataclasses.replace(TRAINING, checkpoint_every=5), tmp_path / "often")
    assert read_metrics(tmp_path / "often" / METRICS)[-1]["spent"]["checkpoint"] > 0
    assert spent[2]["start"] > spent[1]["start"]  # a second one
    shutil.rmtree(tmp_path / "checkpoints" / "20")
    fit(task(), TRAINING, tmp_path)
    repeated = sum(spent[3].values()) - sum(spent[1].values())
    again = read_metrics(tmp_path / METRICS)
    assert [line["step"] for line in again] == [5, 10, 15, 20]
    assert [line["spent"]["lost"] for line in again[2:]] == [pytest.approx(repeated)] * 2
    assert all(line["memory_bytes"] > 1e6 for line in lines)


def test_mfu_is_told_where_the_peak_of_the_device_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(flops, "data_sheet_peak", lambda device: (1e9, "a device"))
    fit(task(token_flops=(3000, 2000)), TRAINING, tmp_path)
    for line in read_metrics(tmp_path / METRICS):
        assert line["mfu_full"] == pytest.approx(line["tokens_per_s"] * 3000 / 1e9, abs=1e-4)
        assert line["mfu_causal"] == pytest.approx(line["mfu_full"] * 2 / 3, abs=1e-4)


def test_the_chosen_steps_are_profiled_and_no_others(tmp_path):
    """Steps that take longer than to start them: unfinished steps would be missing from it."""

    def objective(params, batch):
        totals, counts = next_token(SHAPE)(params, batch)
        seed = jnp.full((512, 512), batch["tokens"].mean(dtype=jnp.float32) / 1e4)
        slow = jax.lax.fori_loop(0, 20, lambda _, x: jnp.tanh(x @ x), seed)
        return totals + 0.0 * slow.mean(), counts

    singly = dataclasses.replace(TRAINING, steps=8, steps_per_call=1)
    slow = task(objective=objective)
    trained = fit(slow, singly, tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()
    found = []
    for steps in (1, 3):
        telemetry = TelemetryConfig(profile_from=3, profile_steps=steps)
        assert same_bits(fit(slow, singly, tmp_path / str(steps), telemetry=telemetry), trained)
        found.append(operations_in(tmp_path / str(steps) / "profile"))
    one, three = found
    assert len(one) > 50
    assert {name: 3 * times for name, times in one.items()} == three


def operations_in(profile: pathlib.Path) -> collections.Counter:
    """How often each operation of the program of the steps is in a profile."""
    (path,) = profile.rglob("*.xplane.pb")
    events = (
        dict(event.stats)
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
    )
    return collections.Counter(
        stats["hlo_op"] for stats in events if "train" in str(stats.get("hlo_module"))
    )


def killed_at(step: int, folder: pathlib.Path, telemetry: TelemetryConfig) -> None:
    """Trains, and is killed when it requests the batch of a step after a checkpoint was written."""
    plain = task()

    def make_batch(now, rows):
        if now >= step:
            while not (folder / "checkpoints" / "10").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return plain.make_batch(now, rows)

    fit(dataclasses.replace(plain, make_batch=make_batch), TRAINING, folder, telemetry=telemetry)


def test_tensorboard_has_every_step_once_also_of_a_training_that_was_killed(tmp_path):
    pytest.importorskip("tensorboardX")
    telemetry = TelemetryConfig(tensorboard=True)
    process = multiprocessing.get_context("spawn").Process(
        target=killed_at, args=(15, tmp_path, telemetry)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [step for step, _ in losses(tmp_path)] == [5, 10]
    fit(task(), TRAINING, tmp_path, telemetry=telemetry)
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in (tmp_path / "tensorboard").iterdir():
        events = [Event.FromString(record) for record in records(path)]
        found += [
            (event.step, value.simple_value, event.wall_time)
            for event in events
            for value in event.summary.value
            if value.tag == "loss"
        ]
    lines = read_metrics(tmp_path / METRICS)
    assert [step for step, _, _ in found] == [5, 10, 15, 20]
    for (_, loss, at), line in zip(found, lines, strict=True):
        assert loss == pytest.approx(line["loss"])
        assert at - found[0][2] == pytest.approx(line["seconds"] - lines[0]["seconds"], abs=1e-6)


def records(path: pathlib.Path):
    """The records of an event file: a length and its checksum, the record and its checksum."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        length = int.from_bytes(content[place : place + 8], "little")
        yield content[place + 12 : place + 12 + length]
        place += 16 + length


def test_weights_and_biases_gets_every_line(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    telemetry, runs = TelemetryConfig(wandb="kstore"), {}
    with pytest.raises(Interrupted):
        fit(interrupted_at(15), TRAINING, tmp_path / "one" / "stage", telemetry=telemetry)
    for name in ("one", "other"):
        folder = tmp_path / name / "stage"
        fit(task(), TRAINING, folder, telemetry=telemetry)
        files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
        logged_lines = [line for path in files for line in logged(path)]
        lines = read_metrics(folder / METRICS)
        assert [line.pop("_step") for line in logged_lines] == [line["step"] for line in lines]
        for line, expected in zip(logged_lines, lines, strict=True):
            assert {
                key: line[key] for key in trackers.flatten_metrics(expected)
            } == trackers.flatten_metrics(expected)
        (runs[name],) = {path.stem.removeprefix("run-") for path in files}
    assert runs["one"] != runs["other"]


def logged(path: pathlib.Path) -> list[dict]:
    """The lines in an offline run of Weights & Biases: LevelDB's log format after a head of seven
    bytes, a record of Google's protocol buffers an entry."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, entry, lines = path.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if place % 32768 > 32768 - 7:
            place += -place % 32768
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        entry += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, entry = Record.FromString(entry), b""
            if record.HasField("history"):
                items = record.history.item
                lines.append({"/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return lines


def damage(folder: pathlib.Path, step: int) -> None:
    """Cuts what a checkpoint says of its arrays short."""
    path = folder / "checkpoints" / str(step) / "trainable" / "_METADATA"
    path.write_bytes(path.read_bytes()[:100])


@orbax_drops_coroutines
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_gone_on_from(
    tmp_path, undisturbed, capsys
):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    damage(tmp_path, 20)
    fit(task(), TRAINING, tmp_path)
    path = tmp_path / "checkpoints" / "20"
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {path}: damaged; resuming from step 10"]
    assert losses(tmp_path) == losses(undisturbed)
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


@orbax_drops_coroutines
def test_where_no_checkpoint_is_whole_the_newest_is_named_and_all_are_left(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    damage(tmp_path, 10)
    damage(tmp_path, 20)
    output = f"{tmp_path / 'checkpoints' / '20'}: damaged; remove {tmp_path} and run again"
    with pytest.raises(DamagedFileError, match=f"^{re.escape(output)}$"):
        fit(task(), TRAINING, tmp_path)
    assert steps_saved(tmp_path) == [10, 20]


def data_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Those of the newest checkpoint that hold arrays."""
    return sorted((folder / "checkpoints" / "20").glob("**/d/*"))


def flip(path: pathlib.Path, place: float) -> None:
    """Changes one byte."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(content)


@orbax_drops_coroutines
@pytest.mark.parametrize("place", [0.05, 0.3, 0.6, 0.9])
def test_no_byte_of_a_checkpoint_changes_unnoticed(tmp_path, undisturbed, place):
    """Bytes that are not read may change: the loaded arrays are the saved ones."""
    noticed = 0
    for i, path in enumerate(data_files(undisturbed)):
        copy = tmp_path / str(i)
        shutil.copytree(undisturbed, copy)
        flip(copy / path.relative_to(undisturbed), place)
        try:
            found = saved(copy, 20)
        except DamagedFileError:
            noticed += 1
        else:
            assert same_bits(found, saved(undisturbed, 20))
    assert noticed >= 2
    gc.collect()  # what Orbax dropped, while its warnings are expected


@orbax_drops_coroutines
def test_a_training_goes_on_from_the_checkpoint_before_one_with_changed_arrays(
    tmp_path, undisturbed, capsys
):
    for i, path in enumerate(data_files(undisturbed)):
        copy = tmp_path / str(i)
        shutil.copytree(undisturbed, copy)
        for place in (0.2, 0.5, 0.8):
            flip(copy / path.relative_to(undisturbed), place)
        fit(task(), TRAINING, copy)
        note = f"note: {copy / 'checkpoints' / '20'}: damaged; resuming from step 10"
        assert note in capsys.readouterr().err
        assert losses(copy) == losses(undisturbed)
        assert same_bits(saved(copy, 20), saved(undisturbed, 20))
    gc.collect()  # as above


def test_a_digest_tells_arrays_apart_and_not_where_they_lie():
    mesh = make_mesh()
    draw = np.random.default_rng(0)
    tree = {
        "matrix": draw.normal(size=(8, 6)).astype(np.float32),
        "half": jnp.ones(5, jnp.bfloat16),
        "flag": np.array(True),
        "none": np.zeros(0, np.int32),
    }
    found = {digest(tree), digest(shard_tree(mesh, tree))}
    assert len(found) == 1
    flat = tree["matrix"].reshape(-1)
    swapped = flat[[1, 0, *range(2, 48)]].reshape(8, 6)
    changed = flat.copy()
    changed.view(np.uint32)[17] ^= 1
    for other in (
        {**tree, "matrix": swapped},
        {**tree, "matrix": changed.reshape(8, 6)},
        {**tree, "flag": np.array(False)},
        {**tree, "half": jnp.ones(5, jnp.bfloat16).at[4].set(1.5)},
    ):
        found.add(digest(other))
    assert len(found) == 5


def test_a_checkpoint_of_before_there_were_digests_is_read(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoints" / "20" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    assert metadata["custom_metadata"]["digests"].keys() == {"trainable", "optimizer"}
    path.write_text(json.dumps({**metadata, "custom_metadata": {}}))
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


def on_a_full_disk(folder: pathlib.Path, message: pathlib.Path) -> None:
    """Trains on a disk that is full at the second checkpoint; writes the error to `message`."""
    saved_steps, save = folder / "checkpoints", Checkpoints.save

    def save_and_end(self, step, **trees):
        if step == 20:
            while not (saved_steps / "10").exists():
                time.sleep(0.01)
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, most))
        save(self, step, **trees)

    Checkpoints.save = save_and_end
    try:
        fit(task(), TRAINING, folder)
    except UserError as error:
        message.write_text(str(error))


def test_a_full_disk_is_told_in_one_line_and_leaves_the_last_checkpoint(tmp_path, undisturbed):
    saved_steps, message = tmp_path / "run" / "checkpoints", tmp_path / "message"
    saved_steps.parent.mkdir()
    process = multiprocessing.get_context("spawn").Process(
        target=on_a_full_disk, args=(saved_steps.parent, message)
    )
    process.start()
    process.join()
    expected = f"{saved_steps}: a checkpoint could not be written; the last whole one is kept"
    assert re.fullmatch(f"{re.escape(expected)} .*File too large.*", message.read_text())
    assert (saved_steps / "10").exists()
    assert not (saved_steps / "20").exists()
    fit(task(), TRAINING, saved_steps.parent)
    assert same_bits(saved(saved_steps.parent, 20), saved(undisturbed, 20))


def test_what_goes_wrong_in_a_save_and_is_not_of_the_disk_is_left_as_it_is(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("a dimension of ours")

    monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables_async", broken)
    with pytest.raises(ValueError, match=r"^a dimension of ours$"):
        fit(task(), TRAINING, tmp_path)


@pytest.mark.parametrize("line", [b"{}", b"3", b"", b"\xff", b'{"step": 5'])
def test_a_damaged_line_of_the_metrics_is_told_by_its_file(tmp_path, undisturbed, line):
    whole = (undisturbed / METRICS).read_bytes()
    path = tmp_path / METRICS
    path.write_bytes(line + b"\n" + whole)
    with pytest.raises(DamagedFileError) as raised:
        read_metrics(path)
    assert str(raised.value) == f"{path}: damaged; remove it and run again"
    assert last_metrics(path) == read_metrics(undisturbed / METRICS)[-1]


def test_the_last_line_is_read_without_the_others_and_without_half_a_line(tmp_path):
    path = tmp_path / METRICS
    assert last_metrics(path) is None
    line = {"step": 1, "steps": 9, "loss": 1.5, "tokens_per_s": 2, "seconds": 0.5}
    path.write_text(json.dumps(line)[:20])
    assert last_metrics(path) is None
    path.write_text("\n" * 10_000 + json.dumps(line) + '\n{"step": 2')
    assert last_metrics(path) == line


def test_a_kill_while_metrics_are_dropped_loses_none(tmp_path, undisturbed, monkeypatch):
    path = tmp_path / METRICS
    shutil.copyfile(undisturbed / METRICS, path)

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with (
        Telemetry(tmp_path, "tiny", 10, 20, 1, None, PhaseTimer(), TelemetryConfig()) as telemetry,
        pytest.raises(KeyboardInterrupt),
    ):
        telemetry.report(15, 5, 1.0, 1e-3, 0.5, 0, {})
    assert path.read_bytes() == (undisturbed / METRICS).read_bytes()


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
