"""Every way to lay a training over devices and processes learns the same from the same batches."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.train import distributed
from kstore_jax.train.config import Mesh
from kstore_jax.train.mesh import make_mesh

PROGRAM = """
import dataclasses, json, os, pathlib, sys
import jax, numpy as np
from jax.experimental import multihost_utils
from kstore_jax.train import distributed
from kstore_jax.train.config import Mesh
from kstore_jax.train.fit import fit
from kstore_jax.train.mesh import make_mesh
from tests.train.training import TRAINING, losses, task

data, fsdp, tensor = map(int, sys.argv[1:4])
folder = pathlib.Path(sys.argv[4])
if "JAX_PROCESS_ID" in os.environ:
    distributed.initialize()
mesh = make_mesh(Mesh(data, fsdp, tensor))
read = []
plain = task(8)

def make_batch(step, rows):
    batch = plain.make_batch(step, rows)
    read.append([step, rows.start, batch["tokens"].tolist()])
    return batch

training = dataclasses.replace(TRAINING, batch_size=8)
trained = fit(dataclasses.replace(plain, make_batch=make_batch), training, folder, mesh)
again = fit(dataclasses.replace(plain, make_batch=make_batch), training, folder, mesh)
same = jax.tree.map(lambda a, b: bool((a == b).all()), trained, again)
kernel = trained["block_0"]["up"]["kernel"]
weights = multihost_utils.process_allgather(trained, tiled=True)
pathlib.Path(sys.argv[5]).write_text(json.dumps({
    "devices": jax.device_count(),
    "read": read,
    "losses": losses(folder),
    "weights": [np.asarray(leaf).ravel().tolist() for leaf in jax.tree.leaves(weights)],
    "shard": kernel.addressable_shards[0].data.shape,
    "resumed": all(jax.tree.leaves(same)),
}))
"""


def trained(folder, *axes: int, devices: int = 1, processes: int = 1) -> list[dict]:
    """What each of some real processes found, training over these axes."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    running, files = [], []
    for process in range(processes):
        if processes > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(process),
            }
        found = folder.with_name(f"{folder.name}-{process}.json")
        command = [sys.executable, "-c", PROGRAM, *map(str, axes), str(folder), str(found)]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
        files.append(found)
    try:
        outputs = [process.communicate(timeout=240)[1].decode() for process in running]
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert [process.returncode for process in running] == [0] * processes, outputs[0][-3000:]
    return [json.loads(found.read_text()) for found in files]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """One device."""
    return trained(tmp_path_factory.mktemp("mesh") / "alone", 1, 1, 1)[0]


def assert_alike(found: dict, alone: dict) -> None:
    assert [step for step, _ in found["losses"]] == [step for step, _ in alone["losses"]]
    ours, expected = ([loss for _, loss in run["losses"]] for run in (found, alone))
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
    for ours, theirs in zip(found["weights"], alone["weights"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-3)
    assert found["resumed"]


@pytest.mark.parametrize(
    ("axes", "shard"),
    [
        ((8, 1, 1), [16, 64]),
        ((1, 8, 1), [2, 64]),
        ((1, 1, 8), [16, 8]),
        ((2, 2, 2), [8, 32]),
        ((0, 1, 2), [16, 32]),
    ],
)
def test_every_split_of_eight_devices_learns_as_one(tmp_path, alone, axes, shard):
    (found,) = trained(tmp_path, *axes, devices=8)
    assert found["devices"] == 8
    assert found["shard"] == shard
    assert found["read"] == alone["read"]
    assert_alike(found, alone)


@pytest.mark.parametrize(
    ("axes", "firsts"), [((2, 1, 1), [0, 4]), ((2, 1, 2), [0, 0, 4, 4])], ids=["data", "tensor"]
)
def test_processes_learn_as_one_and_read_what_their_devices_do(tmp_path, alone, axes, firsts):
    runs = trained(tmp_path, *axes, processes=len(firsts))
    for first, found in zip(firsts, runs, strict=True):
        assert found["devices"] == len(firsts)
        assert found["read"] == [
            [step, first, tokens[first : first + 4]] for step, _, tokens in alone["read"]
        ]
        assert found["weights"] == runs[0]["weights"]
    assert_alike(runs[0], alone)


@pytest.mark.slow
def test_what_one_of_two_processes_cannot_read_both_take_for_damaged(tmp_path, alone):
    folder = tmp_path / "run"
    for found in trained(folder, 1, 2, 1, processes=2):
        assert_alike(found, alone)
    (part,) = folder.glob("checkpoints/20/trainable/ocdbt.process_1/d/*")
    part.write_bytes(part.read_bytes()[:100])
    for found in trained(folder, 1, 2, 1, processes=2):
        assert {step for step, *_ in found["read"]} == set(range(10, 20))
        assert_alike(found, alone)


@pytest.mark.parametrize(
    ("before", "after"), [((1, 1, 1), (2, 2, 2)), ((2, 2, 2), (1, 1, 1))], ids=["1to8", "8to1"]
)
def test_a_training_goes_on_with_another_number_of_devices(tmp_path, alone, before, after):
    folder = tmp_path / "run"
    trained(folder, *before, devices=math.prod(before))
    shutil.rmtree(folder / "checkpoints" / "20")
    (found,) = trained(folder, *after, devices=math.prod(after))
    assert found["devices"] == math.prod(after)
    assert found["read"] == [read for read in alone["read"] if read[0] >= 10]
    assert_alike(found, alone)


SLURM_TASK = """
import jax
from kstore_jax.train import distributed
distributed.initialize()
print(jax.process_index(), jax.process_count(), distributed.any_process(jax.process_index() == 1))
"""


def test_the_tasks_of_a_slurm_job_join():
    job = os.getpid()  # JAX makes the port of it
    variables = {"JOB_ID": job, "NTASKS": 2, "STEP_NODELIST": "localhost"}
    tasks = []
    for task in range(2):
        variables |= {"PROCID": task, "LOCALID": task}
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        environment |= {f"SLURM_{name}": str(value) for name, value in variables.items()}
        command = [sys.executable, "-c", SLURM_TASK]
        tasks.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    try:
        lines = [task.communicate(timeout=240)[0].splitlines()[-1] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert lines == ["0 2 True", "1 2 True"]


def test_axes_that_do_not_make_up_the_devices_are_refused():
    count = jax.device_count()
    with pytest.raises(UserError, match=r"^mesh: data 1 x fsdp 1 x tensor 3 are 3 devices"):
        make_mesh(Mesh(1, 1, 3))
    assert dict(make_mesh().shape) == {"data": count, "fsdp": 1, "tensor": 1}


def test_nobody_tells_of_the_others(monkeypatch):
    with pytest.raises(UserError, match=r"^distributed: expected SLURM, a TPU, or JAX_COORD"):
        distributed.initialize()


def test_half_of_the_coordinates_are_refused(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(UserError, match=r"^JAX_COORDINATOR_ADDRESS is not set, though JAX_PROCESS"):
        distributed.initialize()
