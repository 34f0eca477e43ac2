"""`kstore eval` scores the models of a finished run and shows some of their answers."""

import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest

from kstore_jax.cli.main import main
from kstore_jax.errors import UserError
from kstore_jax.pipeline.evaluation import evaluate, format_evaluation
from kstore_jax.pipeline.results import read_graphs, result_row, select_graphs
from kstore_jax.readouts.base import READOUTS
from kstore_jax.readouts.measured import find
from kstore_jax.world.language import load_language
from kstore_jax.world.pools import load_pools
from kstore_jax.world.schema import BUNDLED_WORLD
from tests.pipeline.runners import full_names
from tests.world.bundled import ATTRIBUTES


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("evaluated")


@pytest.fixture(scope="module")
def evaluated(finished, out) -> list[dict]:
    return [*evaluate(finished, None, 3, 8, out)]


def test_every_evaluation_has_its_cases_beside_it(evaluated, out):
    assert [folder.name for folder in sorted(out.iterdir())] == ["row-0", "row-1"]
    for number, row in enumerate(evaluated):
        folder = out / f"row-{number}"
        assert json.loads((folder / "evaluation.json").read_text()) == row
        with np.load(folder / "cases.npz") as cases:
            measured = READOUTS["qa"].measurements(dict(cases))
        shares = {share.path: share for share in READOUTS["qa"].shares(row["scores"])}
        found = {(m.metric, m.attribute, m.position): m.right.mean() for m in measured}
        compared = [share for share in shares.values() if share.attribute in ATTRIBUTES]
        compared = [share for share in compared if "baseline" not in share.metric]
        assert {share.metric for share in compared} >= {"extraction.test.beam"}
        for share in compared:
            at = share.metric, share.attribute, share.position
            assert found[at] == pytest.approx(find(row["scores"], share.path))


def test_scores_equal_the_results_of_the_run(finished, evaluated):
    rows = json.loads((finished / "results.json").read_text())["rows"]
    variants = [row["config"]["data"]["variant"] for row in rows]
    assert [row["dataset"] for row in evaluated] == variants
    for ours, theirs in zip(evaluated, rows, strict=True):
        expected = theirs["readouts"]["qa"]["extraction"]
        ours = ours["scores"]["extraction"]
        for half, kind in itertools.product(("train", "test"), ("exact", "first")):
            assert ours[half][kind] == pytest.approx(expected[half][kind])
        assert ours["baseline"] == pytest.approx(expected["baseline"])
        assert ours["test"]["beam"].keys() == {"mean", *ATTRIBUTES}


def test_answers_shown_are_about_held_out_people(finished, evaluated):
    for graph, row in zip(read_graphs(finished), evaluated, strict=True):
        held_out = graph.data.people.take(np.flatnonzero(~graph.data.qa_train_mask))
        names = full_names(graph.data.language.pools, held_out)
        assert len(row["shown"]) == 8
        for shown in row["shown"]:
            assert any(name in shown["question"] for name in names)
            assert shown["question"].endswith("? Answer:")
            assert shown["truth"] not in shown["question"]
            assert shown["right"] == (shown["answer"] == shown["truth"])
        text = format_evaluation(row)
        assert all(shown["truth"] in text for shown in row["shown"])
        assert f"{100 * row['scores']['extraction']['test']['exact']['mean']:.1f}" in text


@pytest.mark.parametrize(
    ("row", "dataset"),
    [
        ("0", "single"),
        ("single", "single"),
        ("multi2+permute", "multi2+permute"),
        ("multi", "multi2+permute"),
        ("multi2+permute, seed 0", "multi2+permute"),
    ],
)
def test_a_row_is_chosen_by_number_or_name(finished, row, dataset):
    ((number, graph),) = select_graphs(finished, row).items()
    assert graph.experiment.data.variant == dataset
    assert read_graphs(finished)[number].experiment == graph.experiment


def test_rows_with_the_same_name_are_told_apart_by_number(finished, tmp_path):
    config = json.loads((finished / "config.json").read_text())
    first, second = config["rows"]
    wide = {**first, "model": {**first["model"], "layers": 2}}
    other_seed = {**first, "seed": 1}
    (tmp_path / "config.json").write_text(json.dumps({"rows": [first, wide, other_seed, second]}))
    several = r"--row: several rows have the name 'single'; expected one of 0 \(single, seed 0; "
    with pytest.raises(UserError, match=several + r"model.layers=1\), 1 .*layers=2\), 2 \(single"):
        select_graphs(tmp_path, "single")
    assert [*select_graphs(tmp_path, "single, seed 1")] == [2]
    assert [*select_graphs(tmp_path, "single, seed 0; model.layers=2")] == [1]
    with pytest.raises(UserError, match=r"--row: no row has the name 'multi9'; expected one of 0 "):
        select_graphs(tmp_path, "multi9")
    with pytest.raises(UserError, match=r"--row: expected less than 4, got 99999999999"):
        select_graphs(tmp_path, "99999999999")


def test_one_row_as_json(finished, capsys):
    assert main(["eval", str(finished), "--row=1", "--beam=1", "--show=0", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["dataset"] == "multi2+permute"
    assert row["shown"] == []
    assert "beam" not in row["scores"]["extraction"]["test"]


def test_an_error_is_one_line_on_stderr(finished, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished, unfinished)
    for result in unfinished.glob("stages/finetune-*/result.json"):
        result.unlink()
    for arguments, message in (
        ([str(tmp_path)], f"{tmp_path}/config.json: no configuration of a run"),
        ([str(finished), "--row=2"], "--row: expected less than 2, got 2"),
        ([], "eval: expected one folder of a run"),
        ([str(unfinished)], f"{unfinished}: row 0: finetune is not finished; run it first"),
    ):
        assert main(["eval", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.strip().endswith(message)
        assert err.count("\n") == 1


def test_an_unfinished_row_is_skipped_with_a_note(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    first, second = read_graphs(run)
    stage = next(iter(first.finetune.values()))
    (first.cache.folder(stage) / "result.json").unlink()
    assert main(["eval", str(run), "--beam=1", "--show=0", "--json"]) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)["rows"]
    assert row["dataset"] == second.experiment.data.variant
    assert err == f"note: {run}: row 0 is skipped: finetune is not finished; run it first\n"
    assert main(["eval", str(run), "--row=0"]) == 2


def test_a_run_whose_world_changed_says_so(finished, tmp_path, capsys):
    world, run = tmp_path / "world", tmp_path / "run"
    shutil.copytree(BUNDLED_WORLD, world)
    config = json.loads((finished / "config.json").read_text())
    for row in config["rows"]:
        row["world"]["folder"] = str(world)
    shutil.copytree(finished, run)
    (run / "config.json").write_text(json.dumps(config))
    assert main(["eval", str(run), "--row=0", "--beam=1", "--show=0"]) == 0
    capsys.readouterr()
    majors = world / "pools" / "majors.txt"
    majors.write_text(majors.read_text() + "Alchemy\n")
    load_language.cache_clear()
    load_pools.cache_clear()
    changed = "the world (the files of world.folder) changed since it was computed; undo that or"
    assert main(["eval", str(run), "--row=0"]) == 2
    assert f"row 0: {changed} run it again" in capsys.readouterr().err
    assert main(["export", str(run), "--row=0", f"--out={tmp_path / 'out'}"]) == 2
    assert changed in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_intervals_are_at_the_paths_of_the_shares_and_hold_them(finished):
    row = result_row(read_graphs(finished)[1])

    def found(intervals, result, path=()):
        if isinstance(intervals, dict) and "low" in intervals:
            assert intervals["low"] <= result <= intervals["high"], path
            yield ".".join(map(str, path))
        else:
            keys = intervals if isinstance(intervals, dict) else range(len(intervals))
            for key in keys:
                if intervals[key] is not None:
                    yield from found(intervals[key], result[key], (*path, key))

    paths = set(found(row.intervals, row.readouts))
    assert {
        *("qa.extraction.test.exact.mean", "qa.extraction.train.first.major"),
        *("recall.whole.mean", "p_probe.first.major.0", "q_probe.first.company.0"),
    } <= paths
