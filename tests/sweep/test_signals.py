"""SIGTERM to a process group, or repeated: a checkpoint, status 75, and no process is left."""

import asyncio
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from kstore_jax.cli.main import main
from kstore_jax.errors import Stopped
from kstore_jax.train import preemption
from tests.sweep.sweeps import PATIENCE, newest, wait_until

STOPPED = "kstore: stopped; run the same command to resume\n"


def start(*argv: str) -> subprocess.Popen:
    """A command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "kstore_jax.cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def assert_stopped(process: subprocess.Popen) -> None:
    """The command ends with status 75, and its group has no process any more."""
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (75, ""), err
    assert err.endswith(STOPPED)
    assert err.count(STOPPED) == 1
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("count", [1, 3])
def test_a_process_group_writes_checkpoints_and_ends(config_file, tmp_path, count):
    workdir = tmp_path / "run"
    argv = [f"--config={config_file}", f"--workdir={workdir}", "--workers=2"]
    process = start("sweep", *argv, "--config.pretrain.steps=4000")

    def steps() -> list[int]:
        assert process.poll() is None, process.communicate()
        return [newest(path) for path in workdir.glob("stages/pretrain-*/checkpoints")]

    try:
        wait_until(lambda: len(steps()) == 2 and all(steps()))
        saved = steps()
        for _ in range(count):
            os.killpg(process.pid, signal.SIGTERM)
        assert_stopped(process)
    finally:
        process.kill()
    logs = [path.read_text() for path in sorted(workdir.glob("workers/row-*.log"))]
    assert [log.splitlines()[-1:] for log in logs] == [[STOPPED.rstrip()]] * 2
    assert all("Traceback" not in log for log in logs)
    for folder in workdir.glob("stages/pretrain-*"):  # the last step that was computed is saved
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert newest(folder / "checkpoints") >= min(saved)
        assert f'"step": {newest(folder / "checkpoints")},' in lines[-1]


@pytest.mark.parametrize("command", ["eval", "export", "report"])
def test_every_command_is_stopped_with_75(command, monkeypatch, tmp_path, capsys):
    """The signal arrives while the command reads its run."""
    argv = {"export": [f"--out={tmp_path / 'out'}"], "report": [f"--out={tmp_path / 'out'}"]}

    (tmp_path / "run").mkdir()
    for name in ("config.json", "results.json"):
        (tmp_path / "run" / name).write_text("{}")

    def read(self, *_, **__):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(pathlib.Path, "read_text", read)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main([command, str(tmp_path / "run"), *argv.get(command, [])]) == 75
    finally:
        signal.signal(signal.SIGTERM, before)
        preemption._requested.clear()
    assert capsys.readouterr().err == STOPPED
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_sigterm_ends_an_event_loop():
    """`kstore rewrite` and `kstore ask` wait in one."""

    async def wait() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
        await asyncio.sleep(PATIENCE)

    before = signal.getsignal(signal.SIGTERM)
    preemption.handle_sigterm()
    try:
        with pytest.raises(Stopped):
            asyncio.run(wait())
    finally:
        signal.signal(signal.SIGTERM, before)
        preemption._requested.clear()
