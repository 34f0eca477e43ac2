"""Every way to lay a training over devices and processes learns the same from the same batches."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from kstore_jax import config
from kstore_jax.errors import UserError
from kstore_jax.train import processes
from kstore_jax.train.mesh import make_mesh

PROGRAM = """
import dataclasses, json, os, pathlib, sys
import jax, numpy as np
from jax.experimental import multihost_utils
from kstore_jax import config
from kstore_jax.train import processes
from kstore_jax.train.fit import fit
from kstore_jax.train.mesh import make_mesh
from tests.train.training import TRAINING, losses, task

data, fsdp, tensor = map(int, sys.argv[1:4])
folder = pathlib.Path(sys.argv[4])
if "JAX_PROCESS_ID" in os.environ:
    processes.join()
mesh = make_mesh(config.Mesh(data, fsdp, tensor))
read = []
plain = task(8)

def make_batch(step, rows):
    batch = plain.make_batch(step, rows)
    read.append([step, rows.start, batch["tokens"].tolist()])
    return batch

training = dataclasses.replace(TRAINING, batch=8)
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
    running, told = [], []
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
        told.append(found)
    try:
        said = [process.communicate(timeout=240)[1].decode() for process in running]
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert [process.returncode for process in running] == [0] * processes, said[0][-3000:]
    return [json.loads(found.read_text()) for found in told]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """One device."""
    return trained(tmp_path_factory.mktemp("mesh") / "alone", 1, 1, 1)[0]


def assert_alike(found: dict, alone: dict) -> None:
    assert [step for step, _ in found["losses"]] == [step for step, _ in alone["losses"]]
    told, expected = ([loss for _, loss in run["losses"]] for run in (found, alone))
    np.testing.assert_allclose(told, expected, rtol=1e-4)
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


@pytest.mark.parametrize("axes", [(2, 1, 1), (1, 2, 1)])
def test_two_processes_learn_as_one_and_read_half_of_the_batch_each(tmp_path, alone, axes):
    both = trained(tmp_path, *axes, processes=2)
    for process, found in enumerate(both):
        assert found["devices"] == 2
        assert {first for _, first, _ in found["read"]} == {4 * process}
        assert found["weights"] == both[0]["weights"]
    joined = [
        [step, 0, ours + theirs]
        for (step, _, ours), (_, _, theirs) in zip(both[0]["read"], both[1]["read"], strict=True)
    ]
    assert joined == alone["read"]
    assert_alike(both[0], alone)


def test_axes_that_do_not_make_up_the_devices_are_refused():
    count = jax.device_count()
    with pytest.raises(UserError, match=r"^mesh: data 1 x fsdp 1 x tensor 3 are 3 devices"):
        make_mesh(config.Mesh(1, 1, 3))
    assert dict(make_mesh().shape) == {"data": count, "fsdp": 1, "tensor": 1}


def test_nobody_tells_of_the_others(monkeypatch):
    with pytest.raises(UserError, match=r"^distributed: expected SLURM, a TPU, or JAX_COORD"):
        processes.join()


def test_half_of_the_coordinates_are_refused(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(UserError, match=r"^JAX_COORDINATOR_ADDRESS is not set, though JAX_PROCESS"):
        processes.join()
