"""A workdir belongs to the rows of one sweep."""

import json
import pathlib
import shutil

import pytest

from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.results import read_graphs
from kstore_jax.pipeline.stages import Cache
from kstore_jax.sweep.plan import Plan
from kstore_jax.sweep.workdir import claim_workdir
from tests.sweep.sweeps import contents, sweep_again


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.seed=1", "rows.0.seed: 0 in the workdir, 1 in the configuration"),
        (
            "--config.finetune.steps=48",
            "rows.0.finetune.steps: 24 in the workdir, 48 in the configuration",
        ),
        ("--config.data.variant=single", "rows: "),
    ],
)
def test_a_workdir_of_another_configuration_is_refused(
    copied, config_file, capsys, override, message
):
    before = contents(copied)
    assert sweep_again(config_file, copied, override) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"kstore: {copied} was made by another configuration ({message}")
    assert contents(copied) == before


def test_a_run_older_than_a_readout_is_read_without_it_and_resumed_with_it(copied, config_file):
    path = copied / "config.json"
    config = json.loads(path.read_text())
    for row in config["rows"]:
        del row["readouts"]["capacity"]
    path.write_text(json.dumps(config))
    stages = {folder.name for folder in (copied / "stages").glob("capacity-*")}
    for name in stages:
        shutil.rmtree(copied / "stages" / name)
    graphs = read_graphs(copied)
    assert all(graph.done and "capacity" not in graph.readouts for graph in graphs)
    assert sweep_again(config_file, copied) == 0
    assert {folder.name for folder in (copied / "stages").glob("capacity-*")} == stages
    assert all("capacity" in graph.readouts for graph in read_graphs(copied))


def test_a_folder_of_something_else_is_refused(tmp_path, config_file, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert sweep_again(config_file, tmp_path) == 2
    assert "is not empty and holds no run;" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_tasks_may_claim_a_workdir_at_the_same_time(tmp_path, monkeypatch):
    plan, rows = Plan(Cache(tmp_path / "stages"), (), {}), [parse({})]
    listed = pathlib.Path.iterdir

    def claimed_by_another(path):
        monkeypatch.setattr(pathlib.Path, "iterdir", listed)
        claim_workdir(path, plan, rows)
        return listed(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", claimed_by_another)
    claim_workdir(tmp_path, plan, rows)
    assert (tmp_path / "plan.json").exists()
