"""What a training writes beside checkpoints: metrics, evaluations, times, profiles, trackers."""

import collections
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import pytest

from kstore_jax.errors import DamagedFileError
from kstore_jax.train import flops, trackers
from kstore_jax.train.config import TelemetryConfig
from kstore_jax.train.fit import TrainTask, fit
from kstore_jax.train.objectives import next_token
from kstore_jax.train.telemetry import METRICS, Telemetry, last_metrics, read_metrics
from kstore_jax.train.timing import PHASES, PhaseTimer
from tests.train.training import (
    SHAPE,
    TRAINING,
    Interrupted,
    interrupted_at,
    losses,
    same_bits,
    saved,
    task,
)


def test_metrics_after_the_checkpoint_are_dropped_and_so_is_half_a_line(tmp_path, undisturbed):
    with pytest.raises(Interrupted):
        fit(interrupted_at(10), TRAINING, tmp_path)
    later = {"step": 15, "steps": 20, "loss": 99.0, "seconds": 1.0, "spent": {"step": 99.0}}
    with (tmp_path / METRICS).open("a") as file:
        file.write(json.dumps(later) + '\n{"step": 20, "st')
    fit(task(), TRAINING, tmp_path)
    assert losses(tmp_path) == losses(undisturbed)


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
