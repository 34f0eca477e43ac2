"""The stages of a sweep and their progress, read from files."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.cli import main as cli
from kstore_jax.pipeline.stages import RESULT, Cache
from kstore_jax.sweep.plan import Plan, PlanStatus
from tests.sweep.sweeps import contents, empty_result, make_stage, mark_unfinished


def test_a_stage_of_several_rows_is_listed_once(tmp_path):
    cache = Cache(tmp_path)
    shared = make_stage("pretrain", model={}, training={"steps": 3})
    own = [make_stage("finetune", shared, training={"steps": steps}) for steps in (1, 2)]
    stages = {stage.folder: stage.spec for stage in (shared, *own)}
    rows = tuple((f"row {i}", (shared.folder, one.folder)) for i, one in enumerate(own))
    plan = Plan(cache, rows, stages)
    assert [stage.rows for stage in plan.progress()] == [2, 1, 1]
    assert "3 stages: 3 waiting; 1 shared" in PlanStatus(plan, plan.progress()).format(False)


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
    assert "14 stages: 14 done; 0 shared" in kstore("status", copied)
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
