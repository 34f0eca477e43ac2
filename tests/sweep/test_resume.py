"""A sweep killed at any moment, and started again, ends as one that nothing disturbed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kstore_jax.cli import main as cli
from kstore_jax.pipeline.run import Runner
from kstore_jax.sweep import run as sweep_module
from tests.sweep.sweeps import (
    assert_alike,
    complete,
    contents,
    losses,
    newest,
    rows,
    sweep_again,
    wait_until,
)

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TRAINED = ("pretrain", "finetune", "p_probe", "q_probe")


def up_to_checkpoint(folder: pathlib.Path) -> list[str]:
    """The lines of a stage's metrics up to its newest complete checkpoint."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    ended = [line.rstrip("\n") for line in lines if line.endswith("\n")]
    return [line for line in ended if json.loads(line)["step"] <= newest(folder / "checkpoints")]


def workers_of(workdir: pathlib.Path) -> list[int]:
    """The process ids of the living workers of a workdir."""
    alive = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"kstore_jax.sweep.workers" in command and str(workdir).encode() in command:
            alive.append(int(path.parent.name))
    return alive


def killed_in(
    stage: str,
    start: Callable[[], subprocess.Popen],
    workdir: pathlib.Path,
    victim: str = "parent",
    sign: signal.Signals = signal.SIGKILL,
) -> tuple[int, tuple[str, str], list[pathlib.Path]]:
    """Starts a sweep and kills one of its processes during a stage, which has begun in this run
    and, where it trains, has just written a checkpoint.

    Returns: the exit status, the output, and the folders of the stage that were left unfinished.
    """
    stages = workdir / "stages"
    before = {path.name: newest(path / "checkpoints") for path in stages.glob("*")}
    started = time.time()
    process = start()
    running = []

    def is_running() -> bool:
        assert process.poll() is None, "the sweep ended before it could be killed"
        running.clear()
        for folder in stages.glob(f"{stage}-*"):
            marks = folder.glob("provenance-*.json")
            begun = any(mark.stat().st_mtime > started for mark in marks)
            step = newest(folder / "checkpoints")
            far = stage not in TRAINED or step > before.get(folder.name, 0)
            if begun and far and not (folder / "result.json").exists():
                running.append(folder)
        return bool(running) and bool(workers_of(workdir))

    try:
        wait_until(is_running)
        pid = process.pid if victim == "parent" else workers_of(workdir)[0]
    except BaseException:
        process.kill()
        process.communicate()
        raise
    os.kill(pid, sign)
    output = process.communicate(timeout=60)
    wait_until(lambda: not workers_of(workdir), seconds=5)
    assert not (workdir / "results.json").exists()
    return process.returncode, output, [f for f in running if not (f / "result.json").exists()]


def test_a_sweep_killed_in_pretraining_and_in_a_probe_ends_as_an_undisturbed_one(
    finished, sweep, tmp_path
):
    workdir = tmp_path / "run"

    def start():
        return sweep(workdir)

    status, _, unfinished = killed_in("pretrain", start, workdir)
    assert status == -signal.SIGKILL
    assert unfinished
    saved_lines = {folder: up_to_checkpoint(folder) for folder in unfinished}
    assert all(saved_lines.values())

    status, (out, err), _ = killed_in("finetune", start, workdir, victim="worker")
    assert status == 128 + signal.SIGKILL  # unlike bad input, it may succeed when tried again
    assert out == ""
    assert "Traceback" not in err
    complaints = [line for line in err.splitlines() if "kstore:" in line]
    assert len(complaints) == 1
    assert "a worker was killed by signal 9" in complaints[0]
    assert f"{workdir}/workers/row-" in complaints[0]

    status, (out, err), unfinished = killed_in("p_probe", start, workdir, sign=signal.SIGTERM)
    assert (status, out) == (75, "")
    assert unfinished
    assert "Traceback" not in err
    assert err.count("kstore: stopped; run the same command to resume") == 1

    complete(start())
    assert_alike(workdir, finished)
    for folder, lines in saved_lines.items():  # their times show that no step was repeated
        assert (folder / "metrics.jsonl").read_text().splitlines()[: len(lines)] == lines


def test_shards_killed_while_they_are_written_end_as_undisturbed_ones(tmp_path):
    command = [sys.executable, "-m", "kstore_jax.cli", "data", f"--config={CONFIGS / 'paper.py'}"]
    command += ["--config.world.people=300000", "--config.data.variant=multi5"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, f"--out={killed}"], **quiet)
    written = tmp_path / "killed.writing"
    wait_until(lambda: len(list(written.glob("part-*.json"))) > 1, seconds=60)
    process.kill()
    process.wait()
    assert not killed.exists()
    parts = [path.with_suffix(".array_record").name for path in written.glob("part-*.json")]
    times = {name: (written / name).stat().st_mtime_ns for name in parts}
    subprocess.run([*command, f"--out={killed}"], check=True, **quiet)
    subprocess.run([*command, f"--out={undisturbed}", "--workers=2"], check=True, **quiet)
    ours, theirs = ({p.name: p.read_bytes() for p in d.iterdir()} for d in (killed, undisturbed))
    assert ours == theirs
    assert {name: (killed / name).stat().st_mtime_ns for name in parts} == times


@pytest.mark.slow
def test_a_sweep_killed_in_every_stage_ends_as_an_undisturbed_one(sweep, tmp_path):
    """Programs are compiled anew each time, and large enough that their results depend on the
    number of threads."""
    larger = [
        *("--config.model.layers=2", "--config.model.width=64", "--config.model.dtype=auto"),
        *("--config.pretrain.batch_size=8", "--config.pretrain.seq_len=128"),
    ]
    optimized = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "killed"

    def start():
        return sweep(workdir, *larger, **optimized)

    complete(sweep(undisturbed, *larger, **optimized))
    for stage in ("pretrain", "finetune", "qa", "p_probe", "q_probe"):
        status, _, unfinished = killed_in(stage, start, workdir)
        assert status == -signal.SIGKILL
        assert unfinished, f"{stage} ended before it could be killed"
    complete(start())
    assert_alike(workdir, undisturbed)


def test_a_finished_sweep_run_again_computes_nothing(copied, config_file, capsys):
    stages, results = contents(copied / "stages"), rows(copied)
    assert sweep_again(config_file, copied) == 0
    assert contents(copied / "stages") == stages
    assert rows(copied) == results
    assert capsys.readouterr().out.strip() == str(copied / "report.html")


def test_a_stage_without_its_result_resumes_from_its_checkpoint(copied, finished, sweep):
    """It was killed between the last checkpoint and the result, or between two stages."""
    for name in ("pretrain", "q_probe"):
        for path in (copied / "stages").glob(f"{name}-*/result.json"):
            path.unlink()
    process = sweep(copied)
    output = process.communicate()
    assert process.returncode == 0, output
    assert_alike(copied, finished)


def test_workdirs_that_share_a_cache_compute_a_stage_once(finished, copied, tmp_path, sweep):
    cache = copied / "stages"
    before = contents(cache)
    one, other = tmp_path / "one", tmp_path / "other"
    complete(sweep(one, f"--cache={cache}"))
    assert contents(cache) == before
    assert rows(one) == rows(finished)
    assert not (one / "stages").exists()
    assert "Pretraining loss" in (one / "report.html").read_text()
    few = ("--config.readouts.q_probe.steps=4", f"--cache={cache}")
    complete(sweep(other, *few))
    assert len(list(cache.glob("pretrain-*"))) == 2
    assert len(list(cache.glob("q_probe-*"))) == 4
    assert not (other / "stages").exists()


def test_the_parameters_of_a_row_are_freed_before_the_next_row(copied, config_file, monkeypatch):
    for path in copied.glob("stages/qa-*/result.json"):
        path.unlink()
    alive = weakref.WeakSet()
    alive_at_start = []

    class Watched(Runner):
        def run(self):
            alive_at_start.append([context for context in alive if "pretrained" in vars(context)])
            super().run()
            assert "pretrained" in vars(self.context)
            alive.add(self.context)

    monkeypatch.setattr(sweep_module, "Runner", Watched)
    config = f"--config={config_file}"
    assert cli.main(["sweep", config, f"--workdir={copied}", "--workers=1"]) == 0
    assert alive_at_start == [[], []]


@pytest.mark.slow
def test_eight_devices_agree_with_one(finished, sweep, tmp_path):
    """Every stage, its parameters on all devices; batches of 8 and of 6 rows."""
    devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    workdir = tmp_path / "run"
    complete(sweep(workdir, "--workers=1", "--config.data.variant=single", **devices))
    ours, theirs = losses(workdir), losses(finished)
    assert len(ours) == 4
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3)
    recorded = json.loads(next(workdir.glob("stages/p_probe-*/provenance-1.json")).read_text())
    assert len(recorded["devices"]) == 8


class Caught(Exception):
    pass


def test_the_last_row_keeps_its_share_of_the_cores(copied, config_file, monkeypatch):
    """Sums depend on the number of threads, so on the cores a row is bound to."""
    next((copied / "stages").glob("qa-*/result.json")).unlink()

    def run_in_processes(_, waiting, workers):
        raise Caught(len(waiting), workers)

    monkeypatch.setattr(sweep_module, "run_in_processes", run_in_processes)
    with pytest.raises(Caught) as caught:
        sweep_again(config_file, copied)
    assert caught.value.args == (1, 2)
