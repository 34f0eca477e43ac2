"""A stage is named by what it depends on, computed once, and finished when its result exists."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from kstore_jax.errors import DamagedFileError
from kstore_jax.pipeline import stages
from kstore_jax.pipeline.stages import RESULT, Cache, NotFinished, Stage


def stage(config=None, parents=(), kind="stage", version=1) -> Stage:
    return Stage(kind, version, {"a": 1, "b": {"c": 2}} if config is None else config, parents)


def empty_result(folder: pathlib.Path) -> dict:
    """Computes a stage without a result of its own."""
    return {}


def test_the_same_configuration_gives_the_same_key():
    assert stage().key == stage().key
    assert stage({"b": {"c": 2}, "a": 1}).key == stage().key


def test_any_change_of_kind_version_configuration_or_parents_gives_another_key():
    parent, other = stage({"x": 1}), stage({"x": 2})
    different = [
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
    assert len({one.key for one in different}) == len(different)


FILES = ("checkpoints/10/trainable/d/a", "checkpoints/10/trainable/b", "cases.npz")


def with_files(folder: pathlib.Path) -> dict:
    """Computes a stage with two checkpoints and the cases of a readout."""
    for name in (*FILES, "checkpoints/9/trainable/b", "checkpoints/10/optimizer/b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")
    return {}


def test_a_result_has_the_digests_of_the_files_that_others_read(tmp_path):
    result = Cache(tmp_path).ensure(stage(), with_files)
    assert set(result["digests"]) == {"checkpoints/10/trainable", "cases.npz"}
    assert Cache(tmp_path).ensure(stage(kind="other"), empty_result)["digests"] == {}
    Cache(tmp_path).check_files(stage())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"Content", None])
def test_a_changed_or_missing_file_of_a_finished_stage_is_found(tmp_path, name, content):
    cache = Cache(tmp_path)
    cache.ensure(stage(), with_files)
    path = cache.folder(stage()) / name
    path.write_bytes(content) if content else path.unlink()
    folder = cache.folder(stage())
    with pytest.raises(DamagedFileError, match=rf": damaged; remove {folder} and run again$"):
        cache.check_files(stage())


def test_files_are_checked_once_a_process(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    cache.ensure(stage(), with_files)
    cache.check_files(stage())
    monkeypatch.setattr(stages, "sha256", lambda path: pytest.fail(f"{path} is read again"))
    cache.check_files(stage())


def test_other_processes_than_the_first_read_no_files(tmp_path, monkeypatch):
    Cache(tmp_path).ensure(stage(), with_files)
    monkeypatch.setattr(stages, "is_first", lambda: False)
    monkeypatch.setattr(stages, "sha256", lambda path: pytest.fail(f"{path} is read"))
    Cache(tmp_path).check_files(stage())
    Cache(tmp_path).ensure(stage(kind="other"), lambda folder: {})


def test_a_result_without_digests_is_accepted(tmp_path):
    cache = Cache(tmp_path)
    cache.ensure(stage(), with_files)
    path = cache.folder(stage()) / RESULT
    path.write_text(json.dumps({"seconds": 1.0}))
    cache.check_files(stage())


def test_a_result_exists_only_when_the_stage_is_finished(tmp_path):
    cache, one = Cache(tmp_path), stage()
    attempts = []

    def compute(folder):
        attempts.append([path.name for path in folder.iterdir()])
        if len(attempts) == 1:
            (folder / "checkpoint").touch()
            raise RuntimeError
        return {"answer": 7}

    with pytest.raises(RuntimeError):
        cache.ensure(one, compute)
    assert cache.result(one) is None
    with pytest.raises(NotFinished, match=r"stage stage is not finished; `kstore sweep` or"):
        cache.require(one)
    assert not (cache.folder(one) / RESULT).exists()
    assert cache.ensure(one, compute)["answer"] == 7
    assert "checkpoint" in attempts[1]
    assert RESULT not in attempts[1]
    assert cache.require(one)["answer"] == 7
    assert json.loads((cache.folder(one) / "config.json").read_text()) == one.config
    cache.ensure(one, compute)
    assert len(attempts) == 2


def test_a_kill_before_the_result_is_renamed_leaves_the_stage_unfinished(tmp_path, monkeypatch):
    cache = Cache(tmp_path)

    def killed(source, target):
        if pathlib.Path(target).name == RESULT:
            raise KeyboardInterrupt
        pathlib.Path(source).rename(target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.ensure(stage(), empty_result)
    assert cache.result(stage()) is None
    assert "seconds" in cache.ensure(stage(), empty_result)


def test_a_stage_whose_parent_is_not_finished_is_refused(tmp_path):
    cache, top = Cache(tmp_path), stage(kind="top")
    bottom = stage(kind="bottom", parents=(top,))
    with pytest.raises(NotFinished, match="stage top is not finished"):
        cache.ensure(bottom, empty_result)
    assert list(tmp_path.iterdir()) == []
    cache.ensure(top, empty_result)
    cache.ensure(bottom, empty_result)
    spec = cache.specs()[bottom.folder]
    assert (spec.kind, spec.version, spec.config) == ("bottom", 1, bottom.config)
    assert spec.parents == [top.folder]


ENSURE = """
import pathlib, sys, time
from kstore_jax.pipeline.stages import Cache, Stage

def compute(folder):
    with (folder / "computed").open("a") as file:
        print("once", file=file)
    if sys.argv[2] == "hang":
        time.sleep(600)
    time.sleep(1)
    return {"by": sys.argv[2]}

pathlib.Path(sys.argv[1], sys.argv[2] + ".started").touch()
print(Cache(pathlib.Path(sys.argv[1])).ensure(Stage("stage", 1, {}), compute)["by"])
"""


@pytest.fixture
def start_ensure(tmp_path):
    """`(name) -> Popen` of a process that ensures one stage and is killed after the test."""
    processes = []

    def start(name: str) -> subprocess.Popen:
        command = [sys.executable, "-c", ENSURE, str(tmp_path), name]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(path: pathlib.Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, f"no {path} after two minutes"
        time.sleep(0.01)


def test_one_of_the_waiting_processes_computes_the_stage_of_a_killed_one(tmp_path, start_ensure):
    plain = stage({})
    log = Cache(tmp_path).folder(plain) / "computed"
    hanging = start_ensure("hang")
    wait_for(log)
    waiting = [start_ensure(name) for name in ("one", "two")]
    for name in ("one", "two"):
        wait_for(tmp_path / f"{name}.started")
    time.sleep(0.5)
    assert all(process.poll() is None for process in waiting)
    assert log.read_text() == "once\n"
    hanging.send_signal(signal.SIGKILL)
    hanging.communicate()
    computed_by = [process.communicate(timeout=120)[0].strip() for process in waiting]
    assert computed_by in (["one", "one"], ["two", "two"])
    assert log.read_text() == "once\nonce\n"  # by the killed process, and by one of the two
    assert Cache(tmp_path).require(plain)["by"] == computed_by[0]


def test_finished_and_locked_stages_are_not_computed_together_with_others(tmp_path):
    cache = Cache(tmp_path)
    finished, locked, *missing = [stage({"x": i}) for i in range(4)]
    cache.ensure(finished, empty_result)
    computed = []

    def compute(stages):
        computed.extend(stages)
        assert [cache.is_locked(one.folder) for one in missing] == [True, True]
        return [{"x": one.config["x"]} for one in stages]

    with cache.lock(locked.folder):
        cache.ensure_together([finished, locked, *missing], compute)
    assert computed == missing
    assert cache.result(locked) is None
    assert [cache.require(one)["x"] for one in missing] == [2, 3]
    cache.ensure_together([finished, *missing], compute)
    assert computed == missing


def test_a_folder_that_gc_removes_before_the_stage_is_locked_is_made_again(tmp_path, monkeypatch):
    lock = Cache.lock

    def lock_after_gc(cache, folder):
        shutil.rmtree(cache.root / folder, ignore_errors=True)
        return lock(cache, folder)

    monkeypatch.setattr(Cache, "lock", lock_after_gc)
    cache = Cache(tmp_path / "new" / "stages")
    alone, together = stage({"x": 1}), stage()
    assert cache.ensure(alone, lambda folder: {"exists": folder.is_dir()})["exists"]
    cache.ensure_together([together], lambda stages: [{"exists": cache.folder(stages[0]).is_dir()}])
    assert cache.require(together)["exists"]
