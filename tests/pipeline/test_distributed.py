"""`kstore run --distributed`: several processes compute one run."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from kstore_jax.errors import Stopped
from kstore_jax.train.telemetry import METRICS, read_metrics


def start(config_file: pathlib.Path, workdir: pathlib.Path, count: int) -> list[subprocess.Popen]:
    """Starts the processes of a run, each with one device."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "kstore_jax.cli", "run", f"--config={config_file}"]
    command += [
        f"--workdir={workdir}",
        "--config.data.variant=single",
        "--config.pretrain.steps=120",
    ]
    command += ["--distributed"] if count > 1 else []
    return [
        subprocess.Popen(
            command,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(process),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(count)
    ]


def wait(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each process."""
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, outputs, strict=True)]


def pretrain_metrics(workdir: pathlib.Path) -> list[dict]:
    return [
        line for path in workdir.glob(f"stages/pretrain-*/{METRICS}") for line in read_metrics(path)
    ]


@pytest.fixture(scope="module")
def alone(config_file, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("alone") / "run"
    ((status, _, errors),) = wait(start(config_file, workdir, 1))
    assert status == 0, errors
    return workdir


@pytest.mark.slow
def test_two_processes_stopped_and_resumed_have_the_results_of_one(config_file, alone, tmp_path):
    """A SIGTERM to one of them stops both in the middle of pretraining."""
    workdir = tmp_path / "run"
    processes = start(config_file, workdir, 2)
    while not any(line["step"] >= 4 for line in pretrain_metrics(workdir)):
        assert all(process.poll() is None for process in processes), wait(processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    assert [status for status, *_ in wait(processes)] == [Stopped.status] * 2
    stopped_at = pretrain_metrics(workdir)[-1]["step"]
    assert 4 <= stopped_at < 120

    first, second = wait(start(config_file, workdir, 2))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert first[1].splitlines()[-1] == str(workdir / "report.html")
    assert "report.html" not in second[1]
    lines, expected = pretrain_metrics(workdir), pretrain_metrics(alone)
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, other in zip(lines, expected, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-3)
    (row,), (other,) = (
        json.loads((folder / "results.json").read_text())["rows"] for folder in (workdir, alone)
    )
    assert row.keys() == other.keys()
    for name in ("exposures", "parameters", "vocabulary"):
        assert row[name] == other[name]
    recalled = [one["readouts"]["recall"]["whole"]["mean"] for one in (row, other)]
    assert recalled[0] == pytest.approx(recalled[1], abs=0.05)
