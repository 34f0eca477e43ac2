"""Stages are named by what they depend on, computed once, and done when their result is there."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from kstore_jax.config.rows import product
from kstore_jax.model.hf_checkpoint import to_config
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline import cores
from kstore_jax.pipeline.cores import cgroup_cpu_limit, usable_cores
from kstore_jax.pipeline.experiment import Experiment, Finetune
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import RESULT, Cache, NotFinished, Stage
from kstore_jax.world.config import World
from kstore_jax.world.language import BUNDLED_TEMPLATES
from kstore_jax.world.people import BUNDLED_POOLS


def stage(config=None, parents=(), kind="stage", version=1) -> Stage:
    return Stage(kind, version, {"a": 1, "b": {"c": 2}} if config is None else config, parents)


def nothing(folder: pathlib.Path) -> dict:
    """The computation of a stage that has no result of its own."""
    return {}


def test_the_same_configuration_gives_the_same_key():
    assert stage().key == stage().key
    assert stage({"b": {"c": 2}, "a": 1}).key == stage().key


def test_any_change_of_kind_version_configuration_or_parents_gives_another_key():
    parent, other = stage({"x": 1}), stage({"x": 2})
    every = [
        stage(),
        stage({"a": 1, "b": {"c": 3}}),
        stage({"a": 1}),
        stage({"a": 1.0, "b": {"c": 2}}),
        stage({"a": "1", "b": {"c": 2}}),
        stage(kind="another"),
        stage(version=2),
        stage(parents=(parent,)),
        stage(parents=(other,)),
        stage(parents=(parent, other)),
        stage(parents=(other, parent)),
        stage(parents=(stage(parents=(parent,)),)),
        stage(parents=(stage(parents=(other,)),)),
    ]
    assert len({s.key for s in every}) == len(every)


def fields(part, path=()):
    """Every field of a configuration, as the path to it."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        inner = dataclasses.is_dataclass(value)
        if field.name == "rewritten":
            continue  # what it changes depends on the texts in that folder
        yield from fields(value, (*path, field.name)) if inner else [(*path, field.name)]


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict:
    """Another valid value of a field where the double of the default is none."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(BUNDLED_POOLS, elsewhere / "pools")
    shutil.copytree(BUNDLED_TEMPLATES, elsewhere / "templates")
    (elsewhere / "book.txt").write_text("Call me Ishmael.")
    (elsewhere / "pools" / "first_names.txt").write_text("Ada\n")
    (elsewhere / "templates" / "major.txt").write_text("{name} studied {value}.\n")
    words = {"variant": "single", "vocabulary": "compact", "dtype": "bfloat16"}
    words |= {"tokenizer": "word", "celebrity_variant": "single", "optimizer": "muon"}
    words["text"] = str(elsewhere / "book.txt")
    parts = {
        "final_lr_ratio": 0.5,
        "b1": 0.5,
        "b2": 0.5,
        "rotary_pct": 0.5,
        "heads": 6,
        "width": 384,
    }
    parts |= {"value_fraction": 0.5, "name_fraction": 0.5, "keep_checkpoint_every": 50_000}
    parts |= {
        "method": "full",
        "embedding_side": "both",
        "grid": product(rank=[1, 2]),
        "validation": 0.1,
        "celebrity_share": 0.5,
        "qa_share": 0.25,
        "text_share": 0.25,
        "people": 50,
    }
    (elsewhere / "init_from").mkdir()
    described = to_config(Shape.of(Experiment().model, vocabulary=128))
    (elsewhere / "init_from" / "config.json").write_text(json.dumps(described))
    (elsewhere / "init_from" / "model.safetensors").touch()
    folders = ("pools", "templates", "init_from")
    return words | parts | {name: str(elsewhere / name) for name in folders}


def changed(part, path, others):
    """The configuration with another value in one field."""
    name, *rest = path
    if name == "optimizer" and isinstance(part, Finetune):
        part = dataclasses.replace(part, method="full")  # muon has nothing to do in LoRA
    value = getattr(part, name)
    if rest:
        new = changed(value, rest, others)
    elif name == "schedule":
        new = "linear" if value == "cosine" else "cosine"
    elif name in ("steps_per_call", "grad_accum_steps"):
        new = {"steps_per_call": 5, "grad_accum_steps": 2}[name]
    elif name == "dropout":
        new = 0.25
    elif isinstance(value, str):
        new = others.get(name, "elsewhere")
    else:
        new = others[name] if name in others else value * 2 + 2
    return dataclasses.replace(part, **{name: new})


ALL = ("shards", "pretrain", "recall", "finetune", "qa", "p_probe", "q_probe")
AFTER = {
    ("world",): ALL,
    ("world", "celebrities"): ALL[1:],
    ("data",): ALL[1:],
    ("data", "variant"): ALL,
    ("data", "tokenizer"): ALL,
    ("name",): (),
    ("seed",): ALL[1:],
    ("model",): ALL[1:],
    ("pretrain",): ALL[1:],
    ("finetune",): ("finetune", "qa"),
    ("qa",): ("qa",),
    ("p_probe",): ("p_probe",),
    ("q_probe",): ("q_probe",),
    ("mesh",): (),
    ("telemetry",): (),
    ("finetune", "validation"): (),
}
SAVING = (
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoint_every",
)  # of whichever training


@pytest.mark.parametrize("path", list(fields(Experiment())), ids=".".join)
def test_a_field_changes_the_stages_that_depend_on_it_and_no_other(path, others):
    def keys(experiment):
        return {
            s.kind: s.key
            for s in ExperimentGraph(experiment, Cache(pathlib.Path("nowhere"))).stages
        }

    start = dataclasses.replace(Experiment(), world=World(people=20, celebrities=5))
    before, after = keys(start), keys(changed(start, path, others))
    expected = () if path[-1] in SAVING else AFTER.get(path, AFTER.get(path[:1]))
    assert tuple(name for name in ALL if before[name] != after[name]) == expected


def test_a_result_is_there_only_when_the_stage_is_complete(tmp_path):
    cache = Cache(tmp_path)
    seen = []

    def compute(folder):
        seen.append([path.name for path in folder.iterdir()])
        if len(seen) == 1:
            (folder / "left").touch()
            raise RuntimeError
        return {"found": 7}

    broken = stage()
    with pytest.raises(RuntimeError):
        cache.ensure(broken, compute)
    assert cache.result(broken) is None
    with pytest.raises(NotFinished, match=r"stage stage is not finished; `kstore sweep` or"):
        cache.require(broken)
    assert not (cache.folder(broken) / RESULT).exists()
    assert cache.ensure(broken, compute)["found"] == 7
    assert "left" in seen[1]
    assert RESULT not in seen[1]
    assert cache.require(broken)["found"] == 7
    assert json.loads((cache.folder(broken) / "config.json").read_text()) == broken.config
    cache.ensure(broken, compute)
    assert len(seen) == 2


def test_half_a_result_is_no_result(tmp_path, monkeypatch):
    """A kill between writing the file and renaming it leaves the stage undone."""
    cache = Cache(tmp_path)

    def killed(source, target):
        if pathlib.Path(target).name == RESULT:
            raise KeyboardInterrupt
        pathlib.Path(source).rename(target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.ensure(stage(), nothing)
    assert cache.result(stage()) is None
    assert "seconds" in cache.ensure(stage(), nothing)


def test_a_stage_whose_parent_is_not_finished_is_refused(tmp_path):
    cache, top = Cache(tmp_path), stage(kind="top")
    bottom = stage(kind="bottom", parents=(top,))
    with pytest.raises(NotFinished, match="stage top is not finished"):
        cache.ensure(bottom, nothing)
    assert list(tmp_path.iterdir()) == []
    cache.ensure(top, nothing)
    cache.ensure(bottom, nothing)
    found = cache.specs()[bottom.folder]
    assert (found.kind, found.version, found.config) == ("bottom", 1, bottom.config)
    assert found.parents == [top.folder]


def test_a_runner_computes_parents_first_and_each_once(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(Runner, "compute", lambda _, one, folder: order.append(one.kind) or {})
    graph = ExperimentGraph(Experiment(world=World(people=20)), Cache(tmp_path))
    Runner(graph).ensure(graph.qa)
    assert order == ["shards", "pretrain", "finetune", "qa"]
    Runner(graph).run()
    assert order == ["shards", "pretrain", "finetune", "qa", "recall", "p_probe", "q_probe"]


ASKING = """
import pathlib, sys, time
from kstore_jax.pipeline.stages import Cache, Stage

def compute(folder):
    with (folder / "computed").open("a") as file:
        print("once", file=file)
    if sys.argv[2] == "hang":
        time.sleep(600)
    time.sleep(1)
    return {"by": sys.argv[2]}

pathlib.Path(sys.argv[1], sys.argv[2] + ".asks").touch()
print(Cache(pathlib.Path(sys.argv[1])).ensure(Stage("stage", 1, {}), compute)["by"])
"""


@pytest.fixture
def asking(tmp_path):
    """`(name) -> Popen` of a process that asks for a stage; none of them survives the test."""
    started = []

    def start(name: str) -> subprocess.Popen:
        command = [sys.executable, "-c", ASKING, str(tmp_path), name]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(path: pathlib.Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


def test_a_stage_is_computed_once_and_taken_over_from_a_process_that_was_killed(tmp_path, asking):
    plain = stage({})
    note = Cache(tmp_path).folder(plain) / "computed"
    hanging = asking("hang")
    wait_for(note)
    waiting = [asking(name) for name in ("one", "two")]
    for name in ("one", "two"):
        wait_for(tmp_path / f"{name}.asks")
    time.sleep(0.5)
    assert all(process.poll() is None for process in waiting)
    assert note.read_text() == "once\n"
    hanging.send_signal(signal.SIGKILL)
    hanging.communicate()
    said = [process.communicate(timeout=120)[0].strip() for process in waiting]
    assert said in (["one", "one"], ["two", "two"])
    assert note.read_text() == "once\nonce\n"  # by the one killed, and by one of the two
    assert Cache(tmp_path).require(plain)["by"] == said[0]


def test_of_stages_computed_together_those_done_and_those_others_are_at_are_left_out(tmp_path):
    cache = Cache(tmp_path)
    done, held, *left = [stage({"x": i}) for i in range(4)]
    cache.ensure(done, nothing)
    given = []

    def compute(stages):
        given.extend(stages)
        assert [cache.is_locked(one.folder) for one in left] == [True, True]
        return [{"found": one.config["x"]} for one in stages]

    with cache.lock(held.folder):
        cache.ensure_together([done, held, *left], compute)
    assert given == left
    assert cache.result(held) is None
    assert [cache.result(one)["found"] for one in left] == [2, 3]
    cache.ensure_together([done, *left], compute)
    assert given == left


@pytest.mark.parametrize(
    ("own", "limits", "granted"),
    [
        (
            "0::/",
            {"": "150000 100000"},
            1.5,
        ),  # a container sees its own as the root
        ("0::/jobs/7", {"": None, "jobs": "400000 100000", "jobs/7": "max 100000"}, 4.0),
        ("3:cpuset:/\n0::/jobs/7", {"jobs": "800000 100000", "jobs/7": "50000 100000"}, 0.5),
        ("0::/jobs/7", {"jobs/8": "50000 100000"}, math.inf),
        ("1:cpu:/", {"": "150000 100000"}, math.inf),
        (None, {}, math.inf),
    ],
)
def test_no_more_cores_are_used_than_the_cgroups_grant_the_time_of(
    tmp_path, monkeypatch, own, limits, granted
):
    root = tmp_path / "cgroup"
    (tmp_path / "self").mkdir()
    if own is not None:
        (tmp_path / "self" / "cgroup").write_text(f"{own}\n")
    for group, limit in limits.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        if limit:
            (root / group / "cpu.max").write_text(f"{limit}\n")
    assert cgroup_cpu_limit(tmp_path, root) == granted
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 4, 7, 8, 9}, raising=False)
    monkeypatch.setattr(cores, "cgroup_cpu_limit", lambda: granted)
    usable = usable_cores()
    assert len(usable) == {1.5: 1, 0.5: 1, 4.0: 4}.get(granted, 5)
    assert usable == sorted({*usable} & {2, 4, 7, 8, 9})


def test_gc_may_have_a_stage_until_it_is_locked(tmp_path, monkeypatch):
    lock = Cache.lock

    def taken_after_gc(cache, folder):
        shutil.rmtree(cache.root / folder, ignore_errors=True)
        return lock(cache, folder)

    monkeypatch.setattr(Cache, "lock", taken_after_gc)
    cache = Cache(tmp_path / "new" / "stages")
    alone, together = stage({"x": 1}), stage()
    assert cache.ensure(alone, lambda folder: {"there": folder.is_dir()})["there"]
    cache.ensure_together([together], lambda stages: [{"there": cache.folder(stages[0]).is_dir()}])
    assert cache.result(together)["there"]
