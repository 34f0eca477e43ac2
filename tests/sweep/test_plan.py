"""What a sweep needs and its progress, read from files; several processes at one sweep; and what
of a cache no sweep needs."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.bench import train as training_bench
from kstore_jax.cli import main as cli
from kstore_jax.errors import UserError
from kstore_jax.pipeline import data
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.stages import RESULT, Cache, Stage
from kstore_jax.sweep import gc
from kstore_jax.sweep import run as sweep
from kstore_jax.sweep.plan import Plan, PlanStatus
from tests.sweep.test_resume import contents, rows

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def copied(finished, tmp_path) -> pathlib.Path:
    """A copy of the finished workdir."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def kstore(config_file, capsys):
    """`(command, *arguments) -> what it prints`, of a command that succeeds."""

    def run(command: str, *argv: str) -> str:
        config = [f"--config={config_file}"] if command == "sweep" else []
        assert cli.main([command, *config, *map(str, argv)]) == 0, capsys.readouterr()
        return capsys.readouterr().out

    return run


def undone(workdir: pathlib.Path, *kinds: str) -> None:
    """Makes stages look as if they had been killed at their end."""
    (workdir / "results.json").unlink(missing_ok=True)
    for kind in kinds:
        for path in (workdir / "stages").glob(f"{kind}-*/{RESULT}"):
            path.unlink()


def test_a_dry_run_tells_what_is_to_be_done_and_writes_nothing(
    copied, tmp_path, kstore, monkeypatch
):
    before = contents(copied)
    workdir = tmp_path / "new"
    monkeypatch.setattr(training_bench, "step_seconds", lambda _: 100.0)
    grid = "--config.finetune.steps=48"
    argv = f"--workdir={workdir}", f"--cache={copied / 'stages'}", "--dry-run", grid
    status = json.loads(kstore("sweep", *argv, "--json"))
    states = {
        kind: {stage["state"] for stage in status["stages"] if stage["kind"] == kind}
        for kind in ("pretrain", "finetune", "qa", "p_probe")
    }
    done, waiting = {"done"}, {"waiting"}
    assert states == {"pretrain": done, "finetune": waiting, "qa": waiting, "p_probe": done}
    assert [row["done"] for row in status["rows"]] == [False, False]
    took = [Cache(copied / "stages").seconds(p.name) for p in copied.glob("stages/finetune-*")]
    for stage in status["stages"]:
        if stage["kind"] == "finetune":  # twice the steps of the two in the cache
            assert stage["left"] == pytest.approx(sum(took))
            assert stage["measured"] == "2 like it"
    lines = kstore("sweep", *argv).splitlines()
    assert len([line for line in lines if " waiting " in line]) == 4
    assert lines[-2].startswith("14 stages: 10 done, 4 waiting; 0 shared")
    nothing = json.loads(kstore("sweep", f"--workdir={workdir}", "--dry-run", "--json"))
    by_benchmark = [s["left"] for s in nothing["stages"] if s["measured"] == "benchmark"]
    assert by_benchmark == [24 * 100.0] * 2
    assert {s["kind"] for s in nothing["stages"] if s["left"] is None} == {"shards"}
    by_tokens = {s["kind"] for s in nothing["stages"] if s["measured"].startswith("its tokens")}
    assert by_tokens == {"recall", "finetune", "qa", "p_probe", "q_probe"}
    assert contents(copied) == before
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--workdir=TMP/others"], "TMP/others is not empty and holds no run of ours"),
        (["--workdir=TMP/run", "--config.seed=1"], "TMP/run was made by another configuration"),
        (["--workdir="], "--workdir has no value; expected folder of the run"),
        (["--workdir=TMP/new", "--cache="], "--cache has no value; expected folder of the stages"),
        (["--workdir=TMP/file"], "--workdir: TMP/file is no folder"),
        (["--workdir=TMP/file/new"], "--workdir: TMP/file is no folder"),
        (["--workdir=TMP/new", "--cache=TMP/file"], "--cache: TMP/file is no folder"),
        (["--workdir=TMP/new", "--shard=2/2"], "shard: expected a number from 0 to 1"),
    ],
)
def test_a_dry_run_refuses_what_the_sweep_refuses(
    copied, tmp_path, config_file, capsys, argv, message
):
    (tmp_path / "file").touch()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis.tex").touch()
    argv = [f"--config={config_file}", *(a.replace("TMP", str(tmp_path)) for a in argv)]
    before = contents(tmp_path)
    for more in ([], ["--dry-run"]):
        assert cli.main(["sweep", *argv, *more]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"kstore: {message.replace('TMP', str(tmp_path))}")
        assert captured.err.count("\n") == 1
    assert contents(tmp_path) == before


def test_rows_that_are_not_those_of_the_file_are_told(copied, tmp_path, config_file, capsys):
    argv = ["sweep", f"--workdir={tmp_path / 'new'}", f"--cache={copied / 'stages'}", "--dry-run"]
    assert cli.main([*argv, f"--config={config_file}"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main([*argv, f"--config={config_file}", "--config.data.variant=single"]) == 0
    assert capsys.readouterr().err == (
        "note: data.variant: as set here in all rows of the sweep\n"
        "note: 1 of the 2 rows of the sweep repeat an earlier one and are computed once\n"
    )


def test_a_dry_run_of_a_share_tells_of_its_rows_alone(copied, kstore):
    argv = f"--workdir={copied}", "--dry-run", "--json"
    whole = json.loads(kstore("sweep", *argv))
    shares = [json.loads(kstore("sweep", *argv, f"--shard={i}/3")) for i in range(3)]
    assert [len(share["rows"]) for share in shares] == [1, 1, 0]
    assert [row for share in shares for row in share["rows"]] == whole["rows"]
    assert [s["folder"] for s in shares[1]["stages"]] == whole["rows"][1]["stages"]
    assert kstore("sweep", *argv[:2], "--shard=2/3").strip().endswith("0 shared by several rows")


def test_rows_of_one_world_draw_its_people_once(monkeypatch, tmp_path):
    drawn = []
    draw = data.draw_people
    monkeypatch.setattr(data, "draw_people", lambda *a: drawn.append(a) or draw(*a))
    data._everyone.cache_clear()
    worlds = [{"people": 30}, {"people": 30}, {"people": 40, "celebrities": 5}]
    experiments = [parse({"world": world, "seed": i}) for i, world in enumerate(worlds)]
    graphs, _ = sweep.plan_sweep(tmp_path, experiments, None)
    assert [len(graph.data.everyone) for graph in graphs] == [30, 30, 45]
    assert [len(graph.data.people) for graph in graphs] == [30, 30, 40]
    assert len(drawn) == 2


def test_a_run_says_that_it_leaves_the_sweep_out(config_file, copied, tmp_path, capsys):
    argv = [f"--config={config_file}", f"--workdir={tmp_path / 'new'}", "--dry-run", "--json"]
    argv += [f"--cache={copied / 'stages'}"]
    assert cli.main(["run", *argv]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)["rows"]
    assert row["name"] == "multi5+permute, seed 0"
    assert captured.err == (
        "note: the sweep in --config (rows: 2) is left out; run computes what its rows start from "
        "(multi5+permute, seed 0), kstore sweep every row\n"
    )
    assert cli.main(["run", *argv, "--config.data.variant=single"]) == 0
    assert capsys.readouterr().err == ""


def test_a_dry_run_says_that_it_measures_and_that_compilation_is_not_in_it(
    config_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(training_bench, "step_seconds", lambda _: 100.0)
    argv = [f"--config={config_file}", f"--workdir={tmp_path / 'new'}", "--dry-run"]
    assert cli.main(["sweep", *argv]) == 0
    captured = capsys.readouterr()
    assert captured.err == "note: measuring a step of pretraining, which is compiled first\n"
    measured = [line for line in captured.out.splitlines() if line.startswith("pretrain-")]
    assert len(measured) == 2
    assert all("about 40 min (benchmark, compilation left out)" in line for line in measured)


def test_a_stage_that_several_rows_need_is_told_once(tmp_path):
    cache = Cache(tmp_path)
    shared = a_stage("pretrain", model={}, training={"steps": 3})
    own = [a_stage("finetune", shared, training={"steps": steps}) for steps in (1, 2)]
    stages = {stage.folder: stage.spec for stage in (shared, *own)}
    rows = tuple((f"row {i}", (shared.folder, one.folder)) for i, one in enumerate(own))
    plan = Plan(cache, rows, stages)
    assert [stage.rows for stage in plan.progress()] == [2, 1, 1]
    assert "3 stages: 3 waiting; 1 shared" in PlanStatus(plan, plan.progress()).format(False)


def test_a_step_is_measured_on_this_machine(finished):
    first = json.loads((finished / "config.json").read_text())["rows"][0]
    assert 0 < training_bench.step_seconds(parse(first)) < 60


def test_the_status_is_told_from_files_by_anyone(copied, kstore):
    assert "14 stages: 14 done; 0 shared" in kstore("status", copied)
    undone(copied, "q_probe")
    folders = sorted(path.name for path in copied.glob("stages/q_probe-*"))
    cache = Cache(copied / "stages")
    for folder in folders:
        os.chmod(cache.lock(folder).lock_file, 0o444)
    before = contents(copied)
    with cache.lock(folders[0]):
        status_json = json.loads(kstore("status", copied, "--json"))
    stages = {stage["folder"]: stage for stage in status_json["stages"]}
    assert [stages[folder]["state"] for folder in folders] == ["running", "stopped"]
    assert [(stages[f]["step"], stages[f]["steps"]) for f in folders] == [(24, 24)] * 2
    assert status_json["seconds_left"] == 0.0
    assert " running " not in kstore("status", copied)
    assert contents(copied) == before


def test_asking_whether_a_stage_is_held_disturbs_nobody(tmp_path):
    cache = Cache(tmp_path)
    assert not cache.is_locked("stage-0")
    assert list(tmp_path.iterdir()) == []
    with cache.lock("stage-0"):
        assert cache.is_locked("stage-0")
        assert cache.is_locked("stage-0")
    assert not cache.is_locked("stage-0")
    with cache.lock("stage-0").acquire(timeout=0):
        pass


def test_status_of_no_sweep_is_refused(tmp_path, capsys):
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "plan.json: no such file" in capsys.readouterr().err
    (tmp_path / "plan.json").write_text('{"rows": 3}')
    assert cli.main(["status", str(tmp_path)]) == 1
    assert "plan.json: damaged" in capsys.readouterr().err


def test_a_row_added_to_a_finished_sweep_computes_only_its_own_stages(
    copied, config_file, tmp_path, capsys
):
    more = tmp_path / "more.py"
    added = 'row("short", q_probe__steps=4, data__variant="single")'
    sweep_line = 'config.sweep = product(data__variant=["single", "multi2+permute"])'
    text = config_file.read_text()
    assert sweep_line in text
    text = text.replace("import product", "import chain, product, row")
    more.write_text(f"{text.rstrip().removesuffix('return config')}")
    with more.open("a") as file:
        file.write(f"config.sweep = chain({added}, config.sweep)\n    return config\n")
    before, found = contents(copied / "stages"), rows(copied)
    argv = ["sweep", f"--config={more}", f"--workdir={copied}", "--workers=1"]
    assert cli.main(argv) == 0
    after = contents(copied / "stages")
    assert {path: after[path] for path in before} == before
    new = {pathlib.Path(path).parts[-2] for path in after.keys() - before.keys()}
    kinds = {name.split("-")[0] for name in new if name.startswith(("q_", "p_", "pre", "fine"))}
    assert kinds == {"q_probe"}
    short, *others = rows(copied)
    assert others == found
    assert short["name"] == "short"
    assert {k: v for k, v in short.items() if k not in ("name", "q_probe")} == {
        k: v for k, v in found[0].items() if k not in ("name", "q_probe")
    }
    assert "single (short" in (copied / "report.html").read_text()
    capsys.readouterr()
    assert cli.main(["sweep", f"--config={config_file}", f"--workdir={copied}"]) == 2
    assert "was made by another configuration" in capsys.readouterr().err


def test_the_last_of_several_tasks_writes_the_results(copied, finished, kstore):
    undone(copied, "qa")
    (copied / "report.html").unlink()
    share = f"--workdir={copied}", "--workers=1"
    output = kstore("sweep", *share, "--shard=1/2")
    assert "rows of other tasks are not done" in output
    assert len(list(copied.glob(f"stages/qa-*/{RESULT}"))) == 1
    assert not (copied / "results.json").exists()
    assert kstore("sweep", *share, "--shard=0/2").strip() == str(copied / "report.html")
    assert rows(copied) == rows(finished)


def test_processes_that_are_at_one_sweep_together_end_well(copied, finished, config_file):
    undone(copied, "qa")
    argv = [sys.executable, "-m", "kstore_jax.cli", "sweep", f"--config={config_file}"]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    together = [
        subprocess.Popen(
            [*argv, f"--workdir={copied}", "--workers=1", *share],
            **dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment),
        )
        for share in ([], ["--shard=0/2"], ["--shard=1/2"])
    ]
    output = [process.communicate(timeout=300) for process in together]
    assert [process.returncode for process in together] == [0, 0, 0], output
    assert rows(copied) == rows(finished)
    assert len(list(copied.glob("stages/qa-*/provenance-*.json"))) == 4  # one attempt more each


@given(st.integers(1, 50), st.integers(1, 20))
def test_shards_have_every_row_once(count, many):
    shards = [sweep.RowShard.parse(f"{i}/{many}") for i in range(many)]
    every = [i for shard in shards for i in range(count)[shard.index :: shard.count]]
    assert sorted(every) == list(range(count))


@pytest.mark.parametrize("name", ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"])
def test_a_shard_is_numbered_by_the_environment(name):
    assert sweep.RowShard.parse("auto/8", {name: "3"}) == (3, 8)


@pytest.mark.parametrize(
    "text", ["", "1", "2/2", "-1/2", "1/0", "a/b", "auto/2", "auto/4", "1/2/3"]
)
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=r"^shard: "):
        sweep.RowShard.parse(text, {"SLURM_ARRAY_TASK_ID": "x"} if text == "auto/4" else {})


def a_stage(kind: str, *parents: Stage, **config) -> Stage:
    return Stage(kind, 1, config, parents)


def nothing(folder: pathlib.Path) -> dict:
    """The computation of a stage without a result of its own."""
    return {}


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.01, 1e5))
def test_time_is_told_in_proportion_to_the_steps_of_a_stage_like_it(
    tmp_path_factory, steps, others, seconds
):
    def pretrain(steps, width=8, **more):
        return a_stage("pretrain", model={"width": width}, training={"steps": steps, **more})

    cache = Cache(tmp_path_factory.mktemp("cache"))
    before = pretrain(others, learning_rate=0.1)
    cache.ensure(before, nothing)
    (cache.folder(before) / RESULT).write_text(json.dumps({"seconds": seconds}))
    like, unlike = pretrain(steps, learning_rate=0.2), pretrain(steps, width=16)
    child = a_stage("finetune", unlike, training={"steps": 1})
    stages = {s.folder: s.spec for s in (before, like, unlike, child)}
    plan = Plan(cache, (("row", tuple(stages)),), stages)
    progress = {stage.folder: stage for stage in plan.progress()}
    assert progress[like.folder].left == pytest.approx(seconds * steps / others)
    assert progress[unlike.folder].left is None
    assert PlanStatus(plan, [*progress.values()]).time_left[1] == 2


def test_gc_removes_what_no_kept_sweep_needs_after_showing_it(copied, tmp_path, kstore):
    cache = pathlib.Path(shutil.move(copied / "stages", tmp_path / "cache"))
    workdirs = [tmp_path / "one", tmp_path / "two"]
    for workdir, steps in zip(workdirs, (24, 4), strict=True):
        share = f"--workdir={workdir}", f"--cache={cache}", "--workers=1"
        kstore("sweep", *share, "--config.data.variant=single", f"--config.q_probe.steps={steps}")
    before = contents(cache)
    there = {path.name for path in cache.iterdir() if path.is_dir()}
    needed = {folder for workdir in workdirs for folder in Plan.read(workdir).stages}
    assert len(there - needed) == 7  # those of multi2+permute

    output = kstore("gc", cache, f"--keep={workdirs[0]},{workdirs[1]}")
    listed = {pathlib.Path(line.split()[-1]).name for line in output.splitlines() if "-" in line}
    assert there - needed <= listed
    assert not needed & listed
    assert "nothing was removed" in output
    assert contents(cache) == before

    output = kstore("gc", cache, f"--keep={workdirs[0]}", "--remove")
    assert "removed 8 of them" in output
    left = {path.name for path in cache.iterdir() if path.is_dir()}
    assert left == set(Plan.read(workdirs[0]).stages)
    assert "14 stages" not in kstore("status", workdirs[1])
    kstore("sweep", f"--workdir={workdirs[0]}", f"--cache={cache}", "--config.data.variant=single")


def test_gc_keeps_what_is_at_work_and_what_the_sweep_beside_it_needs(copied, tmp_path):
    cache, alone = Cache(copied / "stages"), tmp_path / "alone"
    assert gc.unneeded_stages(cache.root, [copied]) == []
    shutil.copytree(copied / "stages", alone / "stages")
    shutil.copy(copied / "plan.json", tmp_path / "plan.json")
    (tmp_path / "keep").mkdir()
    none = {"cache": "../alone/stages", "rows": [], "stages": {}}
    (tmp_path / "keep" / "plan.json").write_text(json.dumps(none))
    keep = [tmp_path / "keep"]
    assert gc.unneeded_stages(copied / "stages", []) == []  # its own workdir's plan is beside it
    alone = Cache(alone / "stages")
    everything = {folder.name for folder, _ in gc.unneeded_stages(alone.root, keep)}
    assert len(everything) == 14
    probe = next(alone.root.glob("p_probe-*")).name
    with alone.lock(probe):
        found = {folder.name for folder, _ in gc.unneeded_stages(alone.root, keep)}
        assert {name.split("-")[0] for name in everything - found} == {
            "p_probe",
            "pretrain",
            "shards",
        }
        assert gc.remove_stages([alone.root / probe]) == []
    assert (alone.root / probe / RESULT).exists()
    assert gc.remove_stages([alone.root / probe]) == [alone.root / probe]
    assert list(alone.root.glob(f"*{probe}*")) == []


def test_while_locks_are_removed_nobody_is_at_a_stage_beside_another(tmp_path, monkeypatch):
    cache, folder, inside = Cache(tmp_path), tmp_path / "pretrain-0123456789ab", []

    def work(*_):
        inside.append(1)
        time.sleep(0.0005)
        assert inside == [1]
        inside.pop()

    def remove():
        for _ in range(300):
            folder.mkdir(exist_ok=True)
            gc.remove_stages([folder])

    def compute():
        for _ in range(100):
            with cache.lock(folder.name).acquire(poll_interval=0.0001, timeout=60):
                work()

    monkeypatch.setattr(shutil, "rmtree", work)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for each in [pool.submit(act) for act in (remove, compute, compute, compute)]:
            each.result()


def test_gc_killed_in_between_leaves_no_stage_and_the_next_removes_the_rest(tmp_path, monkeypatch):
    cache = Cache(tmp_path / "stages")
    stage, needed = a_stage("pretrain", x=1), a_stage("pretrain", x=2)
    for one in (stage, needed):
        cache.ensure(one, nothing)
    Plan(cache, (("needed", (needed.folder,)),), {needed.folder: needed.spec}).write(tmp_path)

    def killed(folder):
        (folder / "config.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            gc.remove_stages([cache.folder(stage)])
    assert cache.result(stage) is None
    assert [*cache.specs()] == [needed.folder]
    (rest,) = (folder for folder, _ in gc.unneeded_stages(cache.root, []))
    cache.ensure(stage, nothing)
    found = [folder for folder, _ in gc.unneeded_stages(cache.root, [])]
    assert found == [cache.folder(stage), rest]
    assert gc.remove_stages(found) == found
    assert [path for path in cache.root.iterdir() if path.is_dir()] == [cache.folder(needed)]


def test_a_stage_that_is_removed_while_it_is_read_is_none(tmp_path):
    cache, stage = Cache(tmp_path), a_stage("pretrain", x=1)
    cache.ensure(stage, nothing)
    (cache.folder(stage) / "config.json").unlink()
    assert cache.specs() == {}


def test_tasks_that_claim_a_workdir_at_the_same_time_both_get_it(tmp_path, monkeypatch):
    plan, rows = Plan(Cache(tmp_path / "stages"), (), {}), [parse({})]
    listed = pathlib.Path.iterdir

    def claimed_by_another(path):
        monkeypatch.setattr(pathlib.Path, "iterdir", listed)
        sweep.claim_workdir(path, plan, rows)
        return listed(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", claimed_by_another)
    sweep.claim_workdir(tmp_path, plan, rows)
    assert (tmp_path / "plan.json").exists()


@pytest.mark.parametrize("way", [".", "LINK", "STAGES"])
def test_gc_keeps_the_workdir_that_the_cache_lies_in_however_it_is_named(
    copied, tmp_path, monkeypatch, way
):
    other = tmp_path / "other"
    other.mkdir()
    dataclasses.replace(Plan.read(copied), rows=(), stages={}).write(other)
    (tmp_path / "link").symlink_to(copied / "stages")
    monkeypatch.chdir(copied / "stages")
    ways = {"LINK": tmp_path / "link", "STAGES": copied / "stages"}
    assert gc.unneeded_stages(pathlib.Path(ways.get(way, way)), [other]) == []


def test_gc_refuses_to_keep_the_sweep_of_another_cache(copied, tmp_path, capsys):
    cache = pathlib.Path(shutil.copytree(copied / "stages", tmp_path / "cache"))
    before = contents(cache)
    assert cli.main(["gc", str(cache), f"--keep={copied}", "--remove"]) == 2
    assert capsys.readouterr().err.startswith(f"kstore: --keep: the stages of {copied} are in ")
    assert contents(cache) == before


def test_a_stage_that_does_not_say_what_it_depends_on_is_named(copied, capsys):
    path = next(copied.glob("stages/pretrain-*/stage.json"))
    path.write_text("{}")
    for command in (["status", copied], ["gc", copied / "stages", f"--keep={copied}"]):
        assert cli.main([*map(str, command)]) == 1
        expected = f"kstore: {path}: damaged; remove {path.parent} and run again\n"
        assert capsys.readouterr().err == expected


def test_gc_without_a_kept_sweep_is_refused(copied, tmp_path, capsys):
    assert cli.main(["gc", str(copied / "stages")]) == 2
    assert "--keep is missing" in capsys.readouterr().err
    assert cli.main(["gc", str(copied / "stages"), f"--keep={tmp_path}"]) == 2
    assert "plan.json: no such file" in capsys.readouterr().err
    assert cli.main(["gc", str(tmp_path / "nowhere"), f"--keep={copied}"]) == 2
    assert "no such folder" in capsys.readouterr().err
