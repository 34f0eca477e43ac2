"""Removal of the stages that no kept sweep needs."""

import concurrent.futures
import dataclasses
import json
import pathlib
import shutil
import time

import pytest

from kstore_jax.cli import main as cli
from kstore_jax.pipeline.stages import RESULT, Cache
from kstore_jax.sweep import gc
from kstore_jax.sweep.plan import Plan
from tests.sweep.sweeps import contents, empty_result, make_stage


def test_gc_lists_and_removes_unneeded_stages(copied, tmp_path, kstore):
    cache = pathlib.Path(shutil.move(copied / "stages", tmp_path / "cache"))
    workdirs = [tmp_path / "one", tmp_path / "two"]
    for workdir, steps in zip(workdirs, (24, 4), strict=True):
        argv = f"--workdir={workdir}", f"--cache={cache}", "--workers=1"
        kstore(
            "sweep",
            *argv,
            "--config.data.variant=single",
            f"--config.readouts.q_probe.steps={steps}",
        )
    before = contents(cache)
    stages = {path.name for path in cache.iterdir() if path.is_dir()}
    needed = {folder for workdir in workdirs for folder in Plan.read(workdir).stages}
    assert len(stages - needed) == 9  # the stages of multi2+permute

    output = kstore("gc", cache, f"--keep={workdirs[0]},{workdirs[1]}")
    listed = {pathlib.Path(line.split()[-1]).name for line in output.splitlines() if "-" in line}
    assert stages - needed <= listed
    assert not needed & listed
    assert "nothing was removed" in output
    assert contents(cache) == before

    output = kstore("gc", cache, f"--keep={workdirs[0]}", "--remove")
    assert "removed 10 of them" in output
    left = {path.name for path in cache.iterdir() if path.is_dir()}
    assert left == set(Plan.read(workdirs[0]).stages)
    assert "18 stages" not in kstore("status", workdirs[1])
    kstore("sweep", f"--workdir={workdirs[0]}", f"--cache={cache}", "--config.data.variant=single")


def test_gc_keeps_running_stages_and_the_sweep_around_the_cache(copied, tmp_path):
    assert gc.unneeded_stages(copied / "stages", [copied]) == []
    alone = Cache(tmp_path / "alone" / "stages")
    shutil.copytree(copied / "stages", alone.root)
    shutil.copy(copied / "plan.json", tmp_path / "plan.json")
    (tmp_path / "keep").mkdir()
    no_rows = {"cache": "../alone/stages", "rows": [], "stages": {}}
    (tmp_path / "keep" / "plan.json").write_text(json.dumps(no_rows))
    keep = [tmp_path / "keep"]
    assert gc.unneeded_stages(copied / "stages", []) == []  # the plan of its workdir is beside it
    everything = {folder.name for folder, _ in gc.unneeded_stages(alone.root, keep)}
    assert len(everything) == 18
    probe = next(alone.root.glob("p_probe-*")).name
    with alone.lock(probe):
        unneeded = {folder.name for folder, _ in gc.unneeded_stages(alone.root, keep)}
        running = {name.split("-")[0] for name in everything - unneeded}
        assert running == {"p_probe", "pretrain", "shards"}
        assert gc.remove_stages([alone.root / probe]) == []
    assert (alone.root / probe / RESULT).exists()
    assert gc.remove_stages([alone.root / probe]) == [alone.root / probe]
    assert list(alone.root.glob(f"*{probe}*")) == []


def test_removal_of_locks_never_lets_two_processes_into_a_stage(tmp_path, monkeypatch):
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
        for task in [pool.submit(act) for act in (remove, compute, compute, compute)]:
            task.result()


def test_a_killed_gc_leaves_no_stage_and_the_next_removes_the_rest(tmp_path, monkeypatch):
    cache = Cache(tmp_path / "stages")
    stage, needed = (make_stage("pretrain", x=x, model={}) for x in (1, 2))
    for one in (stage, needed):
        cache.ensure(one, empty_result)
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
    cache.ensure(stage, empty_result)
    unneeded = [folder for folder, _ in gc.unneeded_stages(cache.root, [])]
    assert unneeded == [cache.folder(stage), rest]
    assert gc.remove_stages(unneeded) == unneeded
    assert [path for path in cache.root.iterdir() if path.is_dir()] == [cache.folder(needed)]


@pytest.mark.parametrize("way", [".", "LINK", "STAGES"])
def test_gc_keeps_the_workdir_around_the_cache_by_any_path(copied, tmp_path, monkeypatch, way):
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


def test_gc_without_a_kept_sweep_is_refused(copied, tmp_path, capsys):
    assert cli.main(["gc", str(copied / "stages")]) == 2
    assert "--keep is missing" in capsys.readouterr().err
    assert cli.main(["gc", str(copied / "stages"), f"--keep={tmp_path}"]) == 2
    assert "plan.json: no such file" in capsys.readouterr().err
    assert cli.main(["gc", str(tmp_path / "nowhere"), f"--keep={copied}"]) == 2
    assert "no such folder" in capsys.readouterr().err
