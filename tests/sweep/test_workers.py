"""Worker processes: their number, their cores, their progress and their errors."""

import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from kstore_jax.errors import Stopped, UserError
from kstore_jax.pipeline import cores as core_limits
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.stages import Cache
from kstore_jax.sweep import run as sweep_module
from kstore_jax.sweep import workers
from kstore_jax.train.telemetry import last_metrics
from tests.sweep.sweeps import sweep_again

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="the system binds no process to cores"
)


def test_several_workers_on_an_accelerator_are_refused(tmp_path, config_file, monkeypatch, capsys):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert sweep_again(config_file, tmp_path / "run") == 2
    expected = "kstore: --workers: expected 1 on gpu, where each would open every device, got 2\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []


def test_default_workers_are_at_most_the_usable_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 7, 9})
    monkeypatch.setattr(core_limits, "cgroup_cpu_limit", lambda: 3.0)
    assert [sweep_module.default_workers(rows) for rows in (1, 2, 5)] == [1, 2, 3]
    monkeypatch.setattr(core_limits, "cgroup_cpu_limit", lambda: 2.5)
    assert [sweep_module.default_workers(rows) for rows in (1, 2, 5)] == [1, 2, 2]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert sweep_module.default_workers(5) == 1


@pytest.mark.parametrize("cores", [1, 2, 3, 5, 16])
def test_all_workers_get_equally_many_cores(monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(10, 10 + cores)))
    monkeypatch.setattr(core_limits, "cgroup_cpu_limit", lambda: math.inf)
    for count in range(1, 8):
        shares = workers._shares_of_cores(count)
        assert len(shares) == count
        assert {len(share) for share in shares} == {max(1, cores // count)}
        assert set.union(*shares) <= set(range(10, 10 + cores))
        if count <= cores:
            assert sum(map(len, shares)) == len(set.union(*shares))


def test_a_worker_imports_nothing_from_the_current_folder(copied, config_file):
    for path in copied.glob("stages/qa-*/result.json"):
        path.unlink()
    (copied / "attr.py").write_text("raise RuntimeError('another attr')")
    sweep = (*("-P", "-m", "kstore_jax.cli", "sweep", f"--config={config_file}"), "--workers=2")
    subprocess.run([sys.executable, *sweep, f"--workdir={copied}"], cwd=copied, check=True)


def test_progress_is_read_from_the_running_stage_alone(copied, finished, monkeypatch):
    config = json.loads((copied / "config.json").read_text())["rows"][0]
    graph = ExperimentGraph(parse(config), Cache(copied / "stages"))
    (
        copied / "stages" / graph.cache.folder(graph.readouts["p_probe"]).name / "result.json"
    ).unlink()
    read = []

    def reading(path):
        read.append(path.parent.name.split("-")[0])
        return last_metrics(path)

    monkeypatch.setattr(workers, "last_metrics", reading)
    bar = workers.RowProgress(graph, 0)
    bar.show()
    bar.show()
    assert read == ["p_probe", "p_probe"]
    drawn = bar._bar._bar
    assert drawn.desc == "single, seed 0: p_probe"
    assert (drawn.n, drawn.total) == (24, 24)
    bar.close()


def shell_worker(tmp_path, monkeypatch, command) -> pathlib.Path:
    """Makes workers shells that run `command()`; returns the log of the first row."""
    (tmp_path / "workers").mkdir()
    log = tmp_path / "workers" / "row-0.log"

    def start(*_):
        with log.open("w") as out:
            return subprocess.Popen(["sh", "-c", command()], stdin=subprocess.PIPE, stdout=out)

    monkeypatch.setattr(workers, "_start", start)
    return log


@pytest.mark.parametrize(
    ("ended", "status", "message"),
    [
        ("exit 3", 3, "a worker ended with status 3"),
        ("echo kstore: wrong; exit 2", 2, "wrong"),
    ],
)
def test_a_failed_worker_is_reported_and_the_next_one_starts(
    tmp_path, monkeypatch, ended, status, message
):
    commands = iter([ended, "exit 0"])
    log = shell_worker(tmp_path, monkeypatch, lambda: next(commands))
    graph = ExperimentGraph(parse({}), Cache(tmp_path / "stages"))
    ((which, failure),) = workers.run_in_processes(tmp_path, {0: graph, 1: graph}, 1).items()
    assert (which, str(failure)) == (0, f"{message} (its output: {log})")
    assert failure.status == status
    assert next(commands, None) is None


@pytest.mark.parametrize(
    ("ended", "status", "message"),
    [
        ("echo kstore: a note; kill -KILL $$", 137, "a worker was killed by signal 9"),
        ("kill -SEGV $$", 139, "a worker was killed by signal 11"),
    ],
)
def test_a_killed_worker_ends_the_sweep_with_its_signal(
    tmp_path, monkeypatch, ended, status, message
):
    log = shell_worker(tmp_path, monkeypatch, lambda: ended)
    graph = ExperimentGraph(parse({}), Cache(tmp_path / "stages"))
    with pytest.raises(UserError) as caught:
        workers.run_in_processes(tmp_path, {0: graph}, 1)
    assert str(caught.value) == f"{message} (its output: {log})"
    assert caught.value.status == status


@pytest.mark.parametrize("ended", ["exit 75", "kill -TERM $$"])  # or before it could handle it
def test_a_worker_that_got_sigterm_stops_the_sweep(tmp_path, monkeypatch, ended):
    shell_worker(tmp_path, monkeypatch, lambda: ended)
    graph = ExperimentGraph(parse({}), Cache(tmp_path / "stages"))
    with pytest.raises(Stopped):
        workers.run_in_processes(tmp_path, {0: graph}, 1)
