"""A dry run prints the stages and their time, and writes nothing."""

import json
import pathlib
import re

import pytest

from kstore_jax.bench import train as training_bench
from kstore_jax.cli import main as cli
from kstore_jax.pipeline import data
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.stages import Cache
from kstore_jax.sweep.run import plan_sweep
from tests.sweep.sweeps import contents


def test_a_dry_run_lists_the_stages_and_writes_nothing(copied, tmp_path, kstore, monkeypatch):
    before = contents(copied)
    workdir = tmp_path / "new"
    monkeypatch.setattr(training_bench, "step_seconds", lambda _: 100.0)
    longer = "--config.finetune.steps=48"
    argv = f"--workdir={workdir}", f"--cache={copied / 'stages'}", "--dry-run", longer
    status = json.loads(kstore("sweep", *argv, "--json"))
    states = {
        kind: {stage["state"] for stage in status["stages"] if stage["kind"] == kind}
        for kind in ("pretrain", "finetune", "qa", "p_probe")
    }
    done, waiting = {"done"}, {"waiting"}
    assert states == {"pretrain": done, "finetune": waiting, "qa": waiting, "p_probe": done}
    assert [row["done"] for row in status["rows"]] == [False, False]
    cache = Cache(copied / "stages")
    seconds = [cache.seconds(path.name) or 0.0 for path in cache.root.glob("finetune-*")]
    for stage in status["stages"]:
        if stage["kind"] == "finetune":  # twice the steps of the two in the cache
            assert stage["left"] == pytest.approx(sum(seconds))
            assert stage["measured"] == "2 like it"
    lines = kstore("sweep", *argv, "--stages").splitlines()
    assert len([line for line in lines if " waiting " in line]) == 6
    assert lines[-2].startswith("18 stages: 12 done, 6 waiting; 0 shared")
    no_cache = json.loads(kstore("sweep", f"--workdir={workdir}", "--dry-run", "--json"))["stages"]
    by_benchmark = [s["left"] for s in no_cache if s["measured"] == "benchmark"]
    assert by_benchmark == [24 * 100.0] * 2
    assert {s["kind"] for s in no_cache if s["left"] is None} == {"shards"}
    by_tokens = {s["kind"] for s in no_cache if s["measured"].startswith("its tokens")}
    assert by_tokens == {"recall", "finetune", "capacity", "examples", "qa", "p_probe", "q_probe"}
    assert contents(copied) == before
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--workdir=TMP/others"], "TMP/others is not empty and holds no run;"),
        (["--workdir=TMP/run", "--config.seed=1"], "TMP/run was made by another configuration"),
        (["--workdir="], "--workdir has no value; expected folder of the run"),
        (["--workdir=TMP/new", "--cache="], "--cache has no value; expected folder of the stages"),
        (["--workdir=TMP/file"], "--workdir: TMP/file is not a folder"),
        (["--workdir=TMP/file/new"], "--workdir: TMP/file is not a folder"),
        (["--workdir=TMP/new", "--cache=TMP/file"], "--cache: TMP/file is not a folder"),
        (["--workdir=TMP/new", "--shard=2/2"], "--shard: expected a number from 0 to 1"),
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
    for dry_run in ([], ["--dry-run"]):
        assert cli.main(["sweep", *argv, *dry_run]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"kstore: {message.replace('TMP', str(tmp_path))}")
        assert captured.err.count("\n") == 1
    assert contents(tmp_path) == before


def test_notes_name_rows_that_differ_from_the_file(copied, tmp_path, config_file, capsys):
    argv = ["sweep", f"--workdir={tmp_path / 'new'}", f"--cache={copied / 'stages'}", "--dry-run"]
    assert cli.main([*argv, f"--config={config_file}"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main([*argv, f"--config={config_file}", "--config.data.variant=single"]) == 0
    assert capsys.readouterr().err == (
        "note: the command line sets data.variant in every row of the sweep\n"
        "note: 1 of 2 rows of the sweep repeat an earlier row, which is computed once\n"
    )


def test_a_run_notes_that_it_ignores_the_sweep(config_file, copied, tmp_path, capsys):
    argv = [f"--config={config_file}", f"--workdir={tmp_path / 'new'}", "--dry-run", "--json"]
    argv += [f"--cache={copied / 'stages'}"]
    assert cli.main(["run", *argv]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)["rows"]
    assert row["name"] == "multi5+permute, seed 0"
    assert captured.err == (
        "note: kstore run ignores the sweep in --config (rows: 2) and computes the experiment its "
        "rows start from (multi5+permute, seed 0); kstore sweep computes every row\n"
    )
    assert cli.main(["run", *argv, "--config.data.variant=single"]) == 0
    assert capsys.readouterr().err == ""


def test_a_dry_run_notes_that_it_times_a_step_without_compilation(
    config_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(training_bench, "step_seconds", lambda _: 100.0)
    argv = [f"--config={config_file}", f"--workdir={tmp_path / 'new'}", "--dry-run"]
    assert cli.main(["sweep", *argv, "--stages"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "note: timing a step of pretraining, which is compiled first\n"
    measured = [line for line in captured.out.splitlines() if line.startswith("pretrain-")]
    assert len(measured) == 2
    assert all("about 40 min (benchmark, compilation left out)" in line for line in measured)


def test_without_measure_nothing_is_timed(config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training_bench, "step_seconds", lambda _: 1 / 0)
    argv = [f"--config={config_file}", f"--workdir={tmp_path / 'new'}", "--dry-run"]
    assert cli.main(["sweep", *argv, "--no-measure"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    memory = [line for line in lines if " MB" in line]
    assert re.fullmatch(r"memory of pretraining: at most \d\.\d\d MB on one device", memory[0])
    assert re.match(r"  parameters 0\.05, gradients 0\.05, optimizer 0\.11, residuals ", memory[1])
    assert lines == [
        "row  name                    stage   done  time left",
        "0    single, seed 0          shards  0/9   ?",
        "1    multi2+permute, seed 0  shards  0/9   ?",
        "",
        "pretraining: 24 steps, 2.29 to 2.3 exposures, 13,552 parameters",
        "facts to know: 0.108 bits a parameter",
        *memory,
        "18 stages: 18 waiting; 0 shared by several rows",
        "left: 18 stages without an estimate",
    ]
    with pytest.raises(ZeroDivisionError):
        cli.main(["sweep", *argv])


def test_a_step_is_measured_on_this_machine(finished):
    first = json.loads((finished / "config.json").read_text())["rows"][0]
    assert 0 < training_bench.step_seconds(parse(first)) < 60


def test_a_dry_run_of_sixteen_rows_fits_on_a_screen(capsys):
    config = pathlib.Path(__file__).parents[2] / "configs" / "datasets.py"
    argv = [f"--config={config}", "--workdir=nowhere", "--dry-run", "--no-measure"]
    assert cli.main(["sweep", *argv]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if line[:1].isdecimal()]) == 17


def test_rows_of_one_world_draw_its_people_once(monkeypatch, tmp_path):
    drawn = []
    draw = data.draw_people
    monkeypatch.setattr(data, "draw_people", lambda *a: drawn.append(a) or draw(*a))
    data._everyone.cache_clear()
    worlds = [{"people": 30}, {"people": 30}, {"people": 40, "celebrities": 5}]
    experiments = [parse({"world": world, "seed": i}) for i, world in enumerate(worlds)]
    graphs, _ = plan_sweep(tmp_path, experiments, None)
    assert [len(graph.data.everyone) for graph in graphs] == [30, 30, 45]
    assert [len(graph.data.people) for graph in graphs] == [30, 30, 40]
    assert len(drawn) == 2
