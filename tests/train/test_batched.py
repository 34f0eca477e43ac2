"""Tasks trained together in one program end as each does alone."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.train.batched import group_by_step
from kstore_jax.train.config import TelemetryConfig
from kstore_jax.train.fit import TrainJob, fit, fit_batched
from kstore_jax.train.objectives import next_token
from kstore_jax.train.schedules import LinearConfig
from kstore_jax.train.telemetry import METRICS, read_metrics
from tests.train.training import (
    SHAPE,
    TRAINING,
    Interrupted,
    losses,
    same_bits,
    saved,
    steps_saved,
    task,
)

DIALS = (
    {"learning_rate": 3e-2},
    {"learning_rate": 1e-2, "weight_decay": 0.5},
    {"warmup_steps": 5, "schedule": LinearConfig(), "final_lr_ratio": 0.5},
    {"warmup_steps": 0},
)


def jobs(folder: pathlib.Path, interrupted_at: int = 10**9, read=None, **changes) -> list[TrainJob]:
    """Four that differ in what one program may differ in; a batch of the last one is where they
    are interrupted."""
    found = []
    for i, hparams in enumerate(DIALS):
        plain = task()

        def make_batch(step, rows, i=i, plain=plain):
            if step >= interrupted_at and i == len(DIALS) - 1:
                raise Interrupted
            batch = plain.make_batch(100 * i + step, rows)
            if read is not None:
                read.append((i, step, batch["tokens"].tolist()))
            return batch

        scaled = jax.tree.map(lambda x, i=i: x * (1 + i / 8), plain.trainable)
        own = dataclasses.replace(
            plain, name=f"model {i}", make_batch=make_batch, trainable=scaled, seed=i
        )
        training = dataclasses.replace(TRAINING, **hparams, **changes)
        (folder / str(i)).mkdir(parents=True, exist_ok=True)
        found.append(TrainJob(own, training, folder / str(i), TelemetryConfig()))
    return found


def alone(job: TrainJob):
    return fit(job.task, job.training, job.folder)


def assert_alike(ours, theirs) -> None:
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of four trained together, and what they came to."""
    folder = tmp_path_factory.mktemp("together")
    return folder, fit_batched(jobs(folder))


def test_each_ends_as_alone(undisturbed, tmp_path):
    folder, trained = undisturbed
    for i, job in enumerate(jobs(tmp_path)):
        assert_alike(trained[i], alone(job))
        together, by_itself = losses(folder / str(i)), losses(job.folder)
        assert [step for step, _ in together] == [5, 10, 15, 20]
        np.testing.assert_allclose(together, by_itself, rtol=1e-4)
        assert steps_saved(folder / str(i)) == [10, 20]
    ends = [losses(folder / str(i))[-1][1] for i in range(len(DIALS))]
    assert len({round(loss, 3) for loss in ends}) == len(DIALS)


def test_each_reads_what_it_reads_alone(tmp_path):
    together, by_itself = [], []
    fit_batched(jobs(tmp_path / "together", read=together))
    for job in jobs(tmp_path / "alone", read=by_itself):
        alone(job)
    assert sorted(together) == sorted(by_itself)


@pytest.mark.parametrize("step", [10, 15])
def test_interrupted_they_end_as_undisturbed_ones(tmp_path, undisturbed, step):
    with pytest.raises(Interrupted):
        fit_batched(jobs(tmp_path, interrupted_at=step))
    assert [steps_saved(tmp_path / str(i)) for i in range(4)] == [[10]] * 4
    fit_batched(jobs(tmp_path))
    assert_same(tmp_path, undisturbed[0])


def assert_same(ours: pathlib.Path, theirs: pathlib.Path) -> None:
    for job in jobs(ours):
        one, other = job.folder, theirs / job.folder.name
        assert losses(one) == losses(other)
        assert same_bits(saved(one, 20, job.training), saved(other, 20, job.training))


def test_killed_while_they_are_saved_they_end_as_undisturbed_ones(tmp_path, undisturbed):
    """Two of them have a checkpoint less than the others."""
    fit_batched(jobs(tmp_path))
    for i in (2, 3):
        shutil.rmtree(tmp_path / str(i) / "checkpoints" / "20")
    fit_batched(jobs(tmp_path))
    assert_same(tmp_path, undisturbed[0])


def test_they_go_on_in_other_company_and_alone(tmp_path, undisturbed):
    with pytest.raises(Interrupted):
        fit_batched(jobs(tmp_path, interrupted_at=15))
    members = jobs(tmp_path)
    ended = [alone(members[0]), *fit_batched(members[1:3]), alone(members[3])]
    for ours, theirs in zip(ended, undisturbed[1], strict=True):
        assert_alike(ours, theirs)


def test_one_that_is_behind_is_trained_from_where_it_is(tmp_path, undisturbed):
    members = jobs(tmp_path, checkpoint_every=5)
    fit_batched(members[:2])
    read = []
    trained = fit_batched(jobs(tmp_path, read=read, checkpoint_every=5))
    assert {i for i, _, _ in read} == {2, 3}
    for ours, theirs in zip(trained, undisturbed[1], strict=True):
        assert_alike(ours, theirs)


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ([[]], [(0, [0])]),
        ([[], []], [(0, [0, 1])]),
        ([[10, 20], [10, 20], [10]], [(10, [0, 1, 2])]),
        ([[10], []], [(0, [0, 1])]),
        ([[10, 20], []], [(0, [1]), (20, [0])]),
        ([[10, 90, 100], [10], [90, 100]], [(10, [1]), (100, [0, 2])]),
    ],
)
def test_those_go_on_together_that_are_equally_far_or_one_checkpoint_ahead(saved, expected):
    assert group_by_step(saved) == expected


def test_one_that_diverges_is_named_and_ends_all(tmp_path):
    members = jobs(tmp_path, checkpoint_every=5)
    wild = dataclasses.replace(members[2].training, learning_rate=1e30)
    members[2] = dataclasses.replace(members[2], training=wild)
    with pytest.raises(UserError, match=r"^model 2: the loss became \S+ in steps 1 to 5; lower"):
        fit_batched(members)
    assert [steps_saved(job.folder) for job in members] == [[]] * 4


def test_seeds_and_what_is_evaluated_are_those_of_each(tmp_path):
    """With dropout, which draws by the seed."""
    dropping = next_token(dataclasses.replace(SHAPE, dropout=0.3))

    def evaluate(params):
        return {"norm": jnp.linalg.norm(params["embedding"])}

    def own(folder):
        changes = {"objective": dropping, "evaluate": evaluate, "evaluate_at": (10, 20)}
        return [
            dataclasses.replace(job, task=dataclasses.replace(job.task, **changes))
            for job in jobs(folder)
        ]

    together = own(tmp_path / "together")
    fit_batched(together)
    for one, other in zip(together, own(tmp_path / "alone"), strict=True):
        alone(other)
        np.testing.assert_allclose(losses(one.folder), losses(other.folder), rtol=1e-4)
        ours, theirs = (read_metrics(job.folder / METRICS)[-1] for job in (one, other))
        assert ours["evaluation"]["norm"] == pytest.approx(theirs["evaluation"]["norm"], rel=1e-4)


def test_each_took_its_share_of_the_time(tmp_path):
    started = time.monotonic()
    fit_batched(jobs(tmp_path))
    took = time.monotonic() - started
    lines = [read_metrics(tmp_path / str(i) / METRICS)[-1] for i in range(4)]
    assert sum(line["seconds"] for line in lines) <= took
    assert sum(sum(line["spent"].values()) for line in lines) <= took


PROGRAM = """
import json, pathlib, sys
import jax, numpy as np
from kstore_jax.train.fit import fit_batched
from tests.train.test_batched import jobs
from tests.train.training import losses

folder = pathlib.Path(sys.argv[1])
trained = fit_batched(jobs(folder)[: int(sys.argv[2])])
print(json.dumps({
    "devices": jax.device_count(),
    "losses": [losses(path) for path in sorted(folder.iterdir())][: int(sys.argv[2])],
    "weights": [[np.asarray(x).ravel().tolist() for x in jax.tree.leaves(t)] for t in trained],
}))
"""


@pytest.mark.parametrize("count", [4, 3])
def test_over_eight_devices_they_end_as_on_one(tmp_path, undisturbed, count):
    """Four models have two devices each; three share them all."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(count)],
        env=environment,
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["devices"] == 8
    folder, trained = undisturbed
    for i in range(count):
        np.testing.assert_allclose(found["losses"][i], losses(folder / str(i)), rtol=1e-4)
        expected = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(trained[i])]
        for ours, theirs in zip(found["weights"][i], expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=5e-3)
