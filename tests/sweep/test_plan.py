"""The stages of a sweep and their progress, read from files."""

import dataclasses
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.cli import main as cli
from kstore_jax.pipeline.stages import RESULT, Cache
from kstore_jax.sweep.plan import Plan, PlanStatus, StageProgress
from tests.sweep.sweeps import contents, empty_result, make_stage, mark_unfinished


def test_a_stage_of_several_rows_is_listed_once(tmp_path):
    cache = Cache(tmp_path)
    shared = make_stage("pretrain", model={}, training={"steps": 3})
    own = [make_stage("finetune", shared, training={"steps": steps}) for steps in (1, 2)]
    stages = {stage.folder: stage.spec for stage in (shared, *own)}
    rows = tuple((f"row {i}", (shared.folder, one.folder)) for i, one in enumerate(own))
    plan = Plan(cache, rows, stages)
    assert [stage.rows for stage in plan.progress()] == [2, 1, 1]
    status = PlanStatus(plan, plan.progress())
    assert "3 stages: 3 waiting; 1 shared" in status.format(False)
    names = [line.split("-")[0] for line in status.format(False, by_stage=True).splitlines()]
    assert names[1:4] == ["pretrain", "finetune", "finetune"]


def progress(kind: str, state: str, left: float | None, step: int | None = None) -> StageProgress:
    return StageProgress(f"{kind}-0", kind, 1, state, step, step and 100, 1.0, left, "")


def test_a_row_has_a_line_with_its_stage_and_the_time_left(tmp_path):
    stages = {
        "a": progress("pretrain", "done", 0.0),
        "b": progress("qa", "running", 9000.0, 40),
        "c": progress("recall", "waiting", 60.0),
        "d": progress("qa", "stopped", 250_000.0),
        "e": progress("p_probe", "waiting", None),
    }
    stages = {name: dataclasses.replace(one, folder=name) for name, one in stages.items()}
    rows = ("single", ("a", "c", "b")), ("multi5", ("a", "d", "e")), ("x", ("a",)), ("y", ("e",))
    plan = Plan(Cache(tmp_path), rows, {})
    status = PlanStatus(plan, [*stages.values()])
    assert status.format(False).splitlines() == [
        "row  name    stage             done  time left",
        "0    single  qa 40 %, running  1/3   3 h",
        "1    multi5  qa, stopped       1/3   3 d",
        "2    x       done              1/1",
        "3    y       p_probe           0/1   ?",
        "",
        "5 stages: 1 done, 1 running, 1 stopped, 2 waiting; 0 shared by several rows",
        "left: about 3 d for one worker, and 1 stage without an estimate",
    ]
    shard = dataclasses.replace(plan, rows=rows[1::2], of_shard=(1, 2))
    lines = PlanStatus(shard, [*stages.values()]).format(False).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["row", "1", "3"]
    row = json.loads(status.format(True))["rows"][0]
    assert (row["stage"], row["stages_done"], row["seconds_left"]) == (
        "qa 40 %, running",
        1,
        9060.0,
    )


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.01, 1e5))
def test_time_is_proportional_to_the_steps_of_a_similar_stage(
    tmp_path_factory, steps, others, seconds
):
    def pretrain(steps, width=8, **more):
        return make_stage("pretrain", model={"width": width}, training={"steps": steps, **more})

    cache = Cache(tmp_path_factory.mktemp("cache"))
    before = pretrain(others, learning_rate=0.1)
    cache.ensure(before, empty_result)
    (cache.folder(before) / RESULT).write_text(json.dumps({"seconds": seconds}))
    like, unlike = pretrain(steps, learning_rate=0.2), pretrain(steps, width=16)
    child = make_stage("finetune", unlike, training={"steps": 1})
    stages = {s.folder: s.spec for s in (before, like, unlike, child)}
    plan = Plan(cache, (("row", tuple(stages)),), stages)
    progress = {stage.folder: stage for stage in plan.progress()}
    assert progress[like.folder].left == pytest.approx(seconds * steps / others)
    assert progress[unlike.folder].left is None
    assert PlanStatus(plan, [*progress.values()]).time_left[1] == 2


def test_readouts_that_train_have_steps_of_work(copied):
    specs = Plan.read(copied).stages
    steps = {spec.kind: spec.config.get("training", {}).get("steps") for spec in specs.values()}
    assert {kind for kind, count in steps.items() if count} == {
        "pretrain", "finetune", "p_probe", "q_probe",
    }  # fmt: skip


def test_status_reads_files_alone(copied, kstore):
    assert "18 stages: 18 done; 0 shared" in kstore("status", copied)
    mark_unfinished(copied, "q_probe")
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


def test_checking_a_lock_disturbs_no_process(tmp_path):
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


def test_a_stage_removed_during_reading_is_skipped(tmp_path):
    cache, stage = Cache(tmp_path), make_stage("pretrain", x=1)
    cache.ensure(stage, empty_result)
    (cache.folder(stage) / "config.json").unlink()
    assert cache.specs() == {}
