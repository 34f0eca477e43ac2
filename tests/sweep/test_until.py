"""Stages that are left out: `--until`, and readouts that are not enabled."""

import json
import pathlib

import pytest

from kstore_jax.cli.main import main
from tests.sweep.sweeps import contents, rows

TRAINED = ["shards", "pretrain"]
OF_PRETRAINED = ["capacity", "p_probe", "q_probe", "recall"]


@pytest.fixture
def sweep_from(config_file, finished, tmp_path):
    """`(*flags) -> workdir` of a sweep over the stages of the finished one; it computes no
    stage."""

    def sweep(*flags: str) -> pathlib.Path:
        before = contents(finished / "stages")
        folders = [f"--workdir={tmp_path / 'run'}", f"--cache={finished / 'stages'}"]
        assert main(["sweep", f"--config={config_file}", *folders, *flags]) == 0
        assert contents(finished / "stages") == before
        return tmp_path / "run"

    return sweep


def kinds(workdir: pathlib.Path) -> set[str]:
    return {
        folder.split("-")[0] for folder in json.loads((workdir / "plan.json").read_text())["stages"]
    }


@pytest.mark.parametrize(
    ("until", "stages"),
    [("pretrain", TRAINED), ("finetune", [*TRAINED, "finetune", *OF_PRETRAINED])],
)
def test_until_leaves_out_what_comes_later(sweep_from, finished, until, stages):
    workdir = sweep_from(f"--until={until}")
    assert kinds(workdir) == {*stages}
    readouts = [name for name in OF_PRETRAINED if name in stages]
    page = (workdir / "report.html").read_text()
    for row, config in zip(
        rows(workdir), json.loads((workdir / "config.json").read_text())["rows"], strict=True
    ):
        assert config["until"] == until
        assert sorted(row["readouts"]) == readouts
        assert row["exposures"] > 0
    assert 'id="losses"' in page
    assert 'id="qa"' not in page
    assert ('id="p_probe"' in page) == ("p_probe" in readouts)
    assert rows(sweep_from()) == rows(finished)
    assert 'id="qa"' in (workdir / "report.html").read_text()


def test_a_disabled_readout_has_no_stage_no_columns_and_no_section(sweep_from, finished):
    workdir = sweep_from("--config.readouts.p_probe.enabled=False")
    assert kinds(finished) - kinds(workdir) == {"p_probe"}
    assert [sorted(row["readouts"]) for row in rows(workdir)] == [
        ["capacity", "examples", "q_probe", "qa", "recall"]
    ] * 2
    pages = [(folder / "report.html").read_text() for folder in (finished, workdir)]
    for letter, present in (("P", [True, False]), ("Q", [True, True])):
        section, column = f'id="{letter.lower()}_probe"', f">{letter}-probe</th>"
        assert [section in page for page in pages] == present
        assert [column in page for page in pages] == present
        assert [f"figures/{letter.lower()}-probing" in page for page in pages] == present
