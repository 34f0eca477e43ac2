"""A sweep killed at any moment, and started again, ends as one that nothing disturbed."""

import hashlib
import json
import math
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import time
import warnings
import weakref

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from kstore_jax.cli import main as cli
from kstore_jax.errors import UserError
from kstore_jax.pipeline import cores as core_limits
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.report import page as report
from kstore_jax.sweep import run as sweep_module
from kstore_jax.sweep import workers
from kstore_jax.train import telemetry
from kstore_jax.train.telemetry import last_metrics

TRAINED = ("pretrain", "finetune", "p_probe", "q_probe")
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
PATIENCE = 300  # seconds; a machine may be busy

pytestmark = [
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc"),
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]


def rows(workdir: pathlib.Path) -> list[dict]:
    """What a sweep found, without the time it took and the commit it ran at."""
    of_time = ("code", "goodput", "seconds", "seconds_by_stage")
    found = json.loads((workdir / "results.json").read_text())["rows"]
    return [{name: value for name, value in row.items() if name not in of_time} for row in found]


def states(workdir: pathlib.Path) -> dict[str, bytes]:
    """Every array of the last checkpoint of every stage, bit for bit."""
    arrays = {}
    for folder in sorted((workdir / "stages").glob("*/checkpoints")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that arrays come back as they were saved
            with ocp.training.Checkpointer(folder.absolute()) as checkpointer:
                tree = checkpointer.load_checkpointables(newest(folder))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = f"{folder.parent.name}/{newest(folder)}{jax.tree_util.keystr(path)}"
            arrays[name] = np.asarray(leaf).tobytes()
    return arrays


def losses(workdir: pathlib.Path) -> dict[str, list]:
    """Step and loss of every line of the metrics of every stage."""
    found = {}
    for path in sorted((workdir / "stages").glob("*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [(line["step"], line["loss"]) for line in lines]
    return found


def assert_alike(one: pathlib.Path, other: pathlib.Path) -> None:
    assert rows(one) == rows(other)
    ours, theirs = states(one), states(other)
    assert len(ours) > 100
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert losses(one) == losses(other)


def newest(folder: pathlib.Path) -> int:
    """The step of the newest whole checkpoint, 0 where there is none."""
    there = folder.iterdir() if folder.exists() else ()
    return max((int(path.name) for path in there if path.name.isdigit()), default=0)


def up_to_checkpoint(folder: pathlib.Path) -> list[str]:
    """The lines of a stage's metrics up to its newest whole checkpoint."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    whole = [line.rstrip("\n") for line in lines if line.endswith("\n")]
    return [line for line in whole if json.loads(line)["step"] <= newest(folder / "checkpoints")]


def workers_of(workdir: pathlib.Path) -> list[int]:
    """The worker processes that live for this workdir."""
    alive = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"kstore_jax.sweep.workers" in command and str(workdir).encode() in command:
            alive.append(int(path.parent.name))
    return alive


def wait_until(true, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def complete(process: subprocess.Popen) -> None:
    """Waits for a sweep that nothing disturbs."""
    said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said


def killed_in(
    stage: str, start, workdir: pathlib.Path, victim: str = "parent", sign=signal.SIGKILL
):
    """Starts a sweep and kills a process of it in a stage: one that is at work in this very run
    and, where it trains, has just written a checkpoint. Returns the status and what was said."""
    stages = workdir / "stages"
    before = {path.name: newest(path / "checkpoints") for path in stages.glob("*")}
    started = time.time()
    process = start()
    at_work = []

    def is_there() -> bool:
        assert process.poll() is None, "it ended before it could be killed"
        at_work.clear()
        for folder in stages.glob(f"{stage}-*"):
            marks = folder.glob("provenance-*.json")
            begun = any(mark.stat().st_mtime > started for mark in marks)
            far = stage not in TRAINED or newest(folder / "checkpoints") > before.get(
                folder.name, 0
            )
            if begun and far and not (folder / "result.json").exists():
                at_work.append(folder)
        return bool(at_work) and bool(workers_of(workdir))

    try:
        wait_until(is_there)
        pid = process.pid if victim == "parent" else workers_of(workdir)[0]
    except BaseException:
        process.kill()
        process.communicate()
        raise
    os.kill(pid, sign)
    said = process.communicate(timeout=60)
    wait_until(lambda: not workers_of(workdir), seconds=5)
    assert not (workdir / "results.json").exists()
    return process.returncode, said, [f for f in at_work if not (f / "result.json").exists()]


def test_a_sweep_killed_in_pretraining_and_in_a_probe_ends_as_an_undisturbed_one(
    finished, sweep, tmp_path
):
    workdir = tmp_path / "run"

    def start():
        return sweep(workdir)

    status, _, unfinished = killed_in("pretrain", start, workdir)
    assert status == -signal.SIGKILL
    assert unfinished
    kept = {folder: up_to_checkpoint(folder) for folder in unfinished}
    assert all(kept.values())

    status, (out, err), _ = killed_in("finetune", start, workdir, victim="worker")
    assert status == 128 + signal.SIGKILL  # not that of bad input: another try may do
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
    for folder, lines in kept.items():  # with their times: no step before it was made again
        assert (folder / "metrics.jsonl").read_text().splitlines()[: len(lines)] == lines


def test_shards_killed_while_they_are_written_end_as_undisturbed_ones(tmp_path):
    command = [sys.executable, "-m", "kstore_jax.cli", "data", f"--config={CONFIGS / 'paper.py'}"]
    command += ["--config.world.people=300000", "--config.data.variant=multi5"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, f"--out={killed}"], **quiet)
    written = tmp_path / "killed.writing"
    wait_until(lambda: len(list(written.glob("part-*.json"))) > 1, seconds=60)
    process.kill()
    process.wait()
    assert not killed.exists()
    kept = [path.with_suffix(".array_record").name for path in written.glob("part-*.json")]
    times = {name: (written / name).stat().st_mtime_ns for name in kept}
    subprocess.run([*command, f"--out={killed}"], check=True, **quiet)
    subprocess.run([*command, f"--out={undisturbed}", "--workers=2"], check=True, **quiet)
    ours, theirs = ({p.name: p.read_bytes() for p in d.iterdir()} for d in (killed, undisturbed))
    assert ours == theirs
    assert {name: (killed / name).stat().st_mtime_ns for name in kept} == times


@pytest.mark.slow
def test_a_sweep_killed_in_every_stage_ends_as_an_undisturbed_one(sweep, tmp_path):
    """With programs compiled as ever, each time anew, and large enough that their results depend
    on the number of threads."""
    larger = [
        *("--config.model.layers=2", "--config.model.width=64", "--config.model.dtype=auto"),
        *("--config.pretrain.batch_size=8", "--config.pretrain.seq_len=128"),
    ]
    as_ever = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "killed"
    complete(sweep(undisturbed, *larger, **as_ever))
    for stage in ("pretrain", "finetune", "qa", "p_probe", "q_probe"):
        status, _, unfinished = killed_in(
            stage, lambda: sweep(workdir, *larger, **as_ever), workdir
        )
        assert status == -signal.SIGKILL
        assert unfinished, f"{stage} was over before it could be killed"
    complete(sweep(workdir, *larger, **as_ever))
    assert_alike(workdir, undisturbed)


@pytest.fixture
def copied(finished, tmp_path) -> pathlib.Path:
    """A copy of the finished workdir."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


def again(config_file, workdir: pathlib.Path, *overrides: str) -> int:
    """Runs the sweep once more in this process; the exit status."""
    config = f"--config={config_file}"
    return cli.main(["sweep", config, f"--workdir={workdir}", "--workers=2", *overrides])


def contents(folder: pathlib.Path) -> dict[str, tuple[int, str]]:
    """When every file was written, and what it holds."""
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_finished_sweep_is_asked_again_without_computing(copied, config_file, capsys):
    before, found = contents(copied / "stages"), rows(copied)
    assert again(config_file, copied) == 0
    assert contents(copied / "stages") == before
    assert rows(copied) == found
    assert capsys.readouterr().out.strip() == str(copied / "report.html")


def test_whoever_asks_a_finished_sweep_again_leaves_its_page_as_it_is(
    copied, config_file, monkeypatch
):
    told = [copied / "results.json", copied / "report.html", *copied.glob("figures/*.png")]
    before = contents(copied)
    mine = platform.platform()
    monkeypatch.setattr(platform, "platform", lambda: "another host")
    monkeypatch.setattr(telemetry, "_git", lambda *_: "0123abc")
    monkeypatch.setattr(jax, "devices", lambda *_: jax.local_devices() * 3)
    monkeypatch.setenv("XLA_ANOTHER", "1")
    assert again(config_file, copied) == 0
    after = contents(copied)
    assert len(told) > 5
    assert [str(path) for path in told if after[str(path)] != before[str(path)]] == []
    for path in copied.glob("stages/qa-*/provenance-1.json"):
        made = json.loads(path.read_text())
        path.write_text(json.dumps({**made, "platform": "a machine of the stages"}))
    assert again(config_file, copied) == 0
    page = told[1].read_text()
    assert "a machine of the stages, Python" in page
    assert f"{mine}, Python" in page
    assert "another host" not in page


def test_a_page_that_a_kill_left_behind_its_results_is_written_again(
    copied, config_file, monkeypatch
):
    for path in copied.glob("stages/qa-*/provenance-1.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "platform": "elsewhere"}))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(report, "write", killed)
        assert again(config_file, copied) == 130
    assert again(config_file, copied) == 0
    assert "elsewhere, Python" in (copied / "report.html").read_text()


def test_a_stage_that_ended_without_its_result_is_taken_from_its_checkpoint(
    copied, finished, config_file
):
    """Killed between the last checkpoint and the result, and between two stages."""
    for name in ("pretrain", "q_probe"):
        for path in (copied / "stages").glob(f"{name}-*/result.json"):
            path.unlink()
    config = f"--config={config_file}"
    assert cli.main(["sweep", config, f"--workdir={copied}", "--workers=1"]) == 0
    assert_alike(copied, finished)


def test_a_worker_takes_no_module_from_the_folder_where_it_is_started(copied, config_file):
    for path in copied.glob("stages/qa-*/result.json"):
        path.unlink()
    (copied / "attr.py").write_text("raise RuntimeError('another attr')")
    sweep = (*("-P", "-m", "kstore_jax.cli", "sweep", f"--config={config_file}"), "--workers=2")
    subprocess.run([sys.executable, *sweep, f"--workdir={copied}"], cwd=copied, check=True)


@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
def test_a_byte_changed_in_a_shard_is_told_in_one_line(copied, config_file, capsys, place):
    part = sorted((copied / "stages").glob("shards-*/dataset/part-*"))[-1]
    content = bytearray(part.read_bytes())
    content[int(place * len(content))] ^= 1
    part.write_bytes(content)
    before = contents(copied)
    assert again(config_file, copied) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"kstore: {part}: changed since it was written (SHA-256 differs)\n"
    assert contents(copied) == before


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.seed=1", "rows.0.seed: 0 there, 1 given"),
        ("--config.finetune.steps=48", "rows.0.finetune.steps: 24 there, 48 given"),
        ("--config.data.variant=single", "rows: "),
    ],
)
def test_a_workdir_of_another_configuration_is_refused(copied, config_file, capsys, override, said):
    before = contents(copied)
    assert again(config_file, copied, override) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"kstore: {copied} was made by another configuration ({said}")
    assert contents(copied) == before


def test_a_folder_of_something_else_is_refused(tmp_path, config_file, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert again(config_file, tmp_path) == 2
    assert "is not empty and holds no run of ours" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["", '{"rows": [', "[]", "\0\0\0"])
@pytest.mark.parametrize("name", ["config.json", "stages/qa-*/result.json"])
def test_a_damaged_file_of_ours_is_told_in_one_line_with_the_remedy(
    copied, config_file, capsys, name, content
):
    path = next(copied.glob(name))
    path.write_text(content)
    assert again(config_file, copied) == 1
    said = capsys.readouterr()
    assert said.out == ""
    remove = copied if name == "config.json" else "it"
    assert said.err == f"kstore: {path}: damaged; remove {remove} and run again\n"


def test_a_damaged_result_is_found_again_after_its_remedy(copied, finished, config_file):
    path = next(copied.glob("stages/pretrain-*/result.json"))
    path.write_text("")
    assert again(config_file, copied) == 1
    path.unlink()
    assert again(config_file, copied) == 0
    assert_alike(copied, finished)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_damaged_checkpoint_of_a_finished_stage_is_not_replaced_by_an_earlier_one(
    copied, config_file, capsys
):
    next(copied.glob("stages/recall-*/result.json")).unlink()
    for folder in copied.glob("stages/pretrain-*"):
        (folder / "checkpoints" / "24" / "trainable" / "_METADATA").write_text("{")
    config = f"--config={config_file}"
    assert cli.main(["sweep", config, f"--workdir={copied}", "--workers=1"]) == 1
    row, last = capsys.readouterr().err.splitlines()
    assert f": {copied}/stages/pretrain-" in row
    assert "/checkpoints/24: damaged; remove " in row
    assert last.startswith("kstore: 1 of 2 rows failed; ")


def test_workdirs_that_share_a_cache_compute_a_stage_once(finished, copied, tmp_path, sweep):
    cache = copied / "stages"
    before = contents(cache)
    one, other = tmp_path / "one", tmp_path / "other"
    complete(sweep(one, f"--cache={cache}"))
    assert contents(cache) == before
    assert rows(one) == rows(finished)
    assert not (one / "stages").exists()
    assert "Pretraining loss" in (one / "report.html").read_text()
    few = ("--config.q_probe.steps=4", f"--cache={cache}")
    complete(sweep(other, *few))
    assert len(list(cache.glob("pretrain-*"))) == 2
    assert len(list(cache.glob("q_probe-*"))) == 4
    assert not (other / "stages").exists()


def test_a_row_names_the_code_of_every_attempt_at_its_stages(copied, finished, config_file):
    def codes(workdir):
        found = json.loads((workdir / "results.json").read_text())["rows"]
        return {tuple(row["code"]) for row in found}

    (mine,) = codes(finished)
    assert len(mine) == 1
    for folder in copied.glob("stages/qa-*"):
        told = json.loads((folder / "provenance-1.json").read_text())
        older = {**told, "git": "0123abc", "git_dirty": True}
        (folder / "provenance-1.json").write_text(json.dumps(older))
        (folder / "result.json").unlink()
    assert again(config_file, copied) == 0
    for folder in copied.glob("stages/qa-*"):
        assert sorted(p.name for p in folder.glob("provenance*")) == [
            "provenance-1.json",
            "provenance-2.json",
        ]
    assert codes(copied) == {tuple(sorted(("0123abc-dirty", *mine)))}


def test_the_parameters_of_a_row_are_gone_when_the_next_begins(copied, config_file, monkeypatch):
    for path in copied.glob("stages/qa-*/result.json"):
        path.unlink()
    alive = weakref.WeakSet()
    began_with = []

    class Watched(Runner):
        def run(self):
            began_with.append([context for context in alive if "pretrained" in vars(context)])
            super().run()
            assert "pretrained" in vars(self.context)
            alive.add(self.context)

    monkeypatch.setattr(sweep_module, "Runner", Watched)
    config = f"--config={config_file}"
    assert cli.main(["sweep", config, f"--workdir={copied}", "--workers=1"]) == 0
    assert began_with == [[], []]


@pytest.mark.slow
def test_eight_devices_find_what_one_does(finished, sweep, tmp_path):
    """Every stage, its parameters on all devices; batches of 8 and of 6 rows."""
    devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    workdir = tmp_path / "run"
    complete(sweep(workdir, "--workers=1", "--config.data.variant=single", **devices))
    ours, theirs = losses(workdir), losses(finished)
    assert len(ours) == 4
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3)
    told = json.loads(next(workdir.glob("stages/p_probe-*/provenance-1.json")).read_text())
    assert len(told["devices"]) == 8


def test_several_workers_on_an_accelerator_are_refused(tmp_path, config_file, monkeypatch, capsys):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert again(config_file, tmp_path / "run") == 2
    said = "kstore: workers: expected 1 on gpu, where each would open every device, got 2\n"
    assert capsys.readouterr().err == said
    assert list(tmp_path.iterdir()) == []


def test_by_default_there_are_no_more_workers_than_cores_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 7, 9})
    monkeypatch.setattr(core_limits, "cgroup_cpu_limit", lambda: 3.0)
    assert [sweep_module.default_workers(rows) for rows in (1, 2, 5)] == [1, 2, 3]
    monkeypatch.setattr(core_limits, "cgroup_cpu_limit", lambda: 2.5)
    assert [sweep_module.default_workers(rows) for rows in (1, 2, 5)] == [1, 2, 2]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert sweep_module.default_workers(5) == 1


def test_progress_is_read_from_the_stage_at_work_alone(copied, finished, monkeypatch):
    config = json.loads((copied / "config.json").read_text())["rows"][0]
    graph = ExperimentGraph(parse(config), Cache(copied / "stages"))
    (copied / "stages" / graph.cache.folder(graph.p_probe).name / "result.json").unlink()
    read = []

    def reading(path):
        read.append(path.parent.name.split("-")[0])
        return last_metrics(path)

    monkeypatch.setattr(workers, "last_metrics", reading)
    bar = workers.RowProgress(graph, 0)
    bar.show()
    bar.show()
    assert read == ["p_probe", "p_probe"]
    assert bar._bar.desc == "single, seed 0: p_probe"
    assert (bar._bar.n, bar._bar.total) == (24, 24)
    bar.close()


@pytest.mark.parametrize(
    ("ended", "status", "said"),
    [
        ("exit 3", 3, "a worker ended with status 3"),
        ("echo kstore: wrong; exit 2", 2, "wrong"),
    ],
)
def test_how_a_worker_failed_is_told_and_the_next_is_started(
    tmp_path, monkeypatch, ended, status, said
):
    commands = iter([ended, "exit 0"])
    log = worker_that_says(tmp_path, monkeypatch, lambda: next(commands))
    graph = ExperimentGraph(parse({}), Cache(tmp_path / "stages"))
    ((which, failure),) = workers.run_in_processes(tmp_path, {0: graph, 1: graph}, 1).items()
    assert (which, str(failure)) == (0, f"{said} (its output: {log})")
    assert failure.status == status
    assert next(commands, None) is None


def worker_that_says(tmp_path, monkeypatch, command) -> pathlib.Path:
    """Makes workers shells that run what `command()` is; returns the log of the first row's."""
    (tmp_path / "workers").mkdir()
    log = tmp_path / "workers" / "row-0.log"

    def start(*_):
        with log.open("w") as out:
            return subprocess.Popen(["sh", "-c", command()], stdin=subprocess.PIPE, stdout=out)

    monkeypatch.setattr(workers, "_start", start)
    return log


@pytest.mark.parametrize(
    ("ended", "status", "said"),
    [
        ("echo kstore: a note; kill -KILL $$", 137, "a worker was killed by signal 9"),
        ("kill -SEGV $$", 139, "a worker was killed by signal 11"),
    ],
)
def test_how_a_worker_was_killed_is_how_the_sweep_ends(tmp_path, monkeypatch, ended, status, said):
    log = worker_that_says(tmp_path, monkeypatch, lambda: ended)
    graph = ExperimentGraph(parse({}), Cache(tmp_path / "stages"))
    with pytest.raises(UserError) as caught:
        workers.run_in_processes(tmp_path, {0: graph}, 1)
    assert str(caught.value) == f"{said} (its output: {log})"
    assert caught.value.status == status


class Caught(Exception):
    pass


def test_the_last_row_goes_on_with_its_share_of_the_cores(copied, config_file, monkeypatch):
    """Sums depend on the number of threads, so on the cores a row is bound to."""
    next((copied / "stages").glob("qa-*/result.json")).unlink()

    def run_in_processes(_, waiting, workers):
        raise Caught(len(waiting), workers)

    monkeypatch.setattr(sweep_module, "run_in_processes", run_in_processes)
    with pytest.raises(Caught) as caught:
        again(config_file, copied)
    assert caught.value.args == (1, 2)


@pytest.mark.parametrize("cores", [1, 2, 3, 5, 16])
def test_all_workers_get_as_many_cores(monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(10, 10 + cores)))
    monkeypatch.setattr(core_limits, "cgroup_cpu_limit", lambda: math.inf)
    for count in range(1, 8):
        shares = workers._shares_of_cores(count)
        assert len(shares) == count
        assert {len(share) for share in shares} == {max(1, cores // count)}
        assert set.union(*shares) <= set(range(10, 10 + cores))
        if count <= cores:
            assert sum(map(len, shares)) == len(set.union(*shares))
