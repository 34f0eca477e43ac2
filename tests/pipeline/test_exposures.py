"""The length of pretraining in exposures: steps follow from the tokens of the people's texts and
their share of the windows."""

import json
import pathlib

import pytest

from kstore_jax.cli import main as cli
from kstore_jax.corpus import fresh
from kstore_jax.errors import UserError
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.mixture import exposures, pretraining_windows, windows_per_exposure
from kstore_jax.pipeline.results import read_graphs
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache

NOWHERE = Cache(pathlib.Path("nowhere"))


def experiment(people: int = 30, **sections) -> Experiment:
    pretrain = {"batch_size": 4, "seq_len": 32, "warmup_steps": 0, "checkpoint_every": 1000}
    values = {"world": {"people": people}, "data": {"variant": "single"}, "pretrain": pretrain}
    for name, fields in sections.items():
        values[name] = {**values.get(name, {}), **fields}
    return parse(values)


MIXTURES = {
    "alone": {},
    "several texts": {"data": {"variant": "multi2+permute"}},
    "fresh": {"data": {"variant": "fresh"}},
    "questions": {"data": {"qa_share": 0.8}},
    "real text": {"data": {"text": "story.txt", "text_share": 0.5}},
    "all": {
        "world": {"celebrities": 8},
        "data": {"celebrity_share": 0.25, "qa_share": 0.2, "text": "story.txt", "text_share": 0.3},
    },
    "celebrities among the others": {"world": {"celebrities": 8}},
}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_windows_of_an_exposure_state_everybody_once(mixture, tmp_path, monkeypatch):
    """Counted before anything is written, and again by the texts that pretraining reads."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("story.txt").write_text("Once upon a time, " * 40)
    one = experiment(**MIXTURES[mixture])
    graph = ExperimentGraph(one, Cache(tmp_path))
    runner = Runner(graph)
    for stage in graph.datasets.values():
        runner.ensure(stage)
    windows = pretraining_windows(graph.data, runner.context.read_corpus, one.tasks, 32, one.seed)
    counted = windows_per_exposure(graph.data, 32)
    assert exposures(graph.data, windows, 1) == pytest.approx(1 / counted)


def test_the_first_block_of_fresh_text_counts_for_the_others(tmp_path, monkeypatch):
    one = experiment(data={"variant": "fresh"})
    graph = ExperimentGraph(one, Cache(tmp_path))
    exact = windows_per_exposure(graph.data, 32)
    monkeypatch.setattr(fresh, "PEOPLE_PER_BLOCK", 20)  # of 30 people
    assert windows_per_exposure(graph.data, 32) == pytest.approx(exact, rel=0.05)
    context = Runner(graph).context
    windows = pretraining_windows(graph.data, context.read_corpus, one.tasks, 32, one.seed)
    counted = exposures(graph.data, windows, 1)  # reads no dataset: none is written
    assert counted == pytest.approx(1 / windows_per_exposure(graph.data, 32))


def test_the_size_of_blocks_is_in_the_key_of_pretraining_that_reads_several(monkeypatch):
    def key(variant: str) -> str:
        return ExperimentGraph(experiment(data={"variant": variant}), NOWHERE).pretrain.key

    whole = {variant: key(variant) for variant in ("fresh", "single")}
    keys = {whole["fresh"]}
    for size in (30, 20, 10):  # of 30 people
        monkeypatch.setattr(fresh, "PEOPLE_PER_BLOCK", size)
        assert key("single") == whole["single"]
        keys.add(key("fresh"))
    assert len(keys) == 3


def steps(**pretrain) -> int:
    graph = ExperimentGraph(experiment(pretrain={"exposures": 60.0, **pretrain}), NOWHERE)
    return graph.experiment.pretrain.steps


def test_steps_are_rounded_to_whole_calls():
    exact = steps()
    assert 0.9 < exact / (60 * 30 * 68 / (4 * 32)) < 1.1  # a text has about 68 tokens
    for call in (7, 50):
        of_call = steps(steps_per_call=call, checkpoint_every=call)
        assert of_call % call == 0
        assert abs(of_call - exact) <= call / 2 + 1
    assert steps(exposures=0.01, steps_per_call=5) == 5


def test_questions_take_the_windows_of_more_steps():
    mixed = ExperimentGraph(
        experiment(pretrain={"exposures": 12.0}, data={"qa_share": 0.8}), NOWHERE
    )
    assert mixed.experiment.pretrain.steps == steps()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"exposures": 0.1, "warmup_steps": 100},
            "pretrain.warmup_steps: expected less than steps = 2, got 100 (0.1 exposures need 2 ",
        ),
        ({"exposures": 1e9}, "pretrain.exposures: expected at most 2147483647 steps, got 1e+09 "),
    ],
)
def test_a_length_that_cannot_be_is_refused_in_one_line(fields, message):
    with pytest.raises(UserError) as error:
        steps(**fields)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def keys(one: Experiment) -> dict[str, str]:
    return {stage.kind: stage.key for stage in ExperimentGraph(one, NOWHERE).stages}


def test_exposures_change_keys_only_where_they_are_set():
    """The key of the default's pretraining is the one before the field existed."""
    default = ExperimentGraph(Experiment(), NOWHERE).pretrain
    assert "exposures" not in default.config["training"]
    by_exposures = experiment(pretrain={"exposures": 60.0})
    by_steps = experiment(pretrain={"steps": steps()})
    of_exposures, of_steps = keys(by_exposures), keys(by_steps)
    assert of_exposures["shards"] == of_steps["shards"]
    assert all(of_exposures[kind] != of_steps[kind] for kind in of_steps if kind != "shards")
    of_others = keys(experiment(pretrain={"exposures": 61.0}))
    assert of_others["pretrain"] != of_exposures["pretrain"]


@pytest.fixture(scope="module")
def finished_by_exposures(config_file, tmp_path_factory) -> pathlib.Path:
    """A finished run of two seeds that are as long as 3.1 exposures."""
    folder = tmp_path_factory.mktemp("exposures")
    config = folder / "config.py"
    config.write_text(
        config_file.read_text().replace(
            "    return config\n",
            "    config.pretrain.update(steps=0, exposures=3.1, steps_per_call=2)\n"
            '    config.sweep = product(data__variant=["single"], seed=[0, 1])\n'
            "    for name in config.readouts:\n"
            '        config.readouts[name].enabled = name == "recall"\n'
            "    return config\n",
        )
    )
    argv = ["sweep", f"--config={config}", f"--workdir={folder / 'run'}", "--workers=1"]
    assert cli.main(argv) == 0
    assert cli.main(argv) == 0  # the workdir is of the same configuration
    return folder


def test_steps_and_exposures_are_in_the_results(finished_by_exposures, capsys):
    run = finished_by_exposures / "run"
    rows = json.loads((run / "results.json").read_text())["rows"]
    for row, graph in zip(rows, read_graphs(run), strict=True):
        count, of_row = row["config"]["pretrain"]["steps"], row["config"]["pretrain"]["exposures"]
        assert count == graph.experiment.pretrain.steps > 0
        assert count % 2 == 0
        assert of_row == 3.1
        assert row["exposures"] == pytest.approx(3.1, abs=3.1 / count)
        (metrics,) = run.glob(f"stages/{graph.pretrain.folder}/metrics.jsonl")
        assert json.loads(metrics.read_text().splitlines()[-1])["step"] == count
    page = (run / "report.html").read_text()
    assert "<dt>pretraining</dt>" in page
    assert f"{rows[0]['config']['pretrain']['steps']:,} steps" in page
    assert page.count("<h2") > 0
    capsys.readouterr()
    argv = [f"--config={finished_by_exposures / 'config.py'}", f"--workdir={run}", "--dry-run"]
    assert cli.main(["sweep", *argv, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["rows"]
    for row, plan in zip(rows, planned, strict=True):
        assert plan["steps"] == row["config"]["pretrain"]["steps"]
        assert plan["exposures"] == pytest.approx(row["exposures"], abs=0.01)
        assert plan["parameters"] == row["parameters"]
        assert plan["done"]


def test_seeds_are_one_group_though_their_steps_differ(finished_by_exposures):
    from kstore_jax.pipeline.row import Row
    from kstore_jax.report.groups import groups

    rows = json.loads((finished_by_exposures / "run" / "results.json").read_text())["rows"]
    rows[1]["config"]["pretrain"]["steps"] += 2
    (group,) = groups([Row.from_json(row) for row in rows])
    assert [row.seed for row in group.rows] == [0, 1]
    for row in rows:
        row["config"]["pretrain"]["exposures"] = 0.0
    assert len(groups([Row.from_json(row) for row in rows])) == 2
