"""`kstore run --distributed`: several processes that are one run."""

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


def started(config_file: pathlib.Path, workdir: pathlib.Path, count: int) -> list[subprocess.Popen]:
    """The processes of a run, of which each has one device."""
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
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
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


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """The status of each, and what it printed."""
    try:
        told = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, told, strict=True)]


def pretrain_metrics(workdir: pathlib.Path) -> list[dict]:
    return [
        line for path in workdir.glob(f"stages/pretrain-*/{METRICS}") for line in read_metrics(path)
    ]


@pytest.fixture(scope="module")
def alone(config_file, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("alone") / "run"
    ((status, _, said),) = ended(started(config_file, workdir, 1))
    assert status == 0, said
    return workdir


@pytest.mark.slow
def test_two_processes_are_one_run(config_file, alone, tmp_path):
    """Stopped in the middle by a SIGTERM that one of them gets, and gone on with."""
    workdir = tmp_path / "run"
    processes = started(config_file, workdir, 2)
    while not any(line["step"] >= 4 for line in pretrain_metrics(workdir)):
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    assert [status for status, *_ in ended(processes)] == [Stopped.status] * 2
    stopped_at = pretrain_metrics(workdir)[-1]["step"]
    assert 4 <= stopped_at < 120

    first, second = ended(started(config_file, workdir, 2))
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
    assert row["bio_recall"] == pytest.approx(other["bio_recall"], abs=0.05)
