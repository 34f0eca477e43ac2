"""Worlds unlike the bundled one, from their files to the page."""

import json
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest

from kstore_jax.cli.main import main
from tests.report.runs import csv_of, text_of
from tests.world.worlds import drawn, films

CONFIG = """
from kstore_jax.pipeline.experiment import default


def get_config():
    config = default()
    config.world.folder = {folder!r}
    config.world.people = 20
    config.data.vocabulary = "compact"
    config.model.update(layers=1, heads=2, width=16, dtype="float32")
    few = dict(steps=2, steps_per_call=1, batch_size=4)
    config.pretrain.update(seq_len=32, warmup_steps=1, evaluate_every=1, **few)
    config.finetune.update(rank=2, embedding_rank=2, **few)
    config.readouts.p_probe.update(**few)
    config.readouts.q_probe.update(embedding_rank=2, **few)
    config.sweep = {rows!r}
    return config
"""
MIXED = (("data.qa_share", 0.5), ("finetune.steps", 0))
PAIRS = (("data.variant", "couple2"),)
REVERSED = (("data.variant", "multi2+reverse2"), ("model.direction", "bidirectional"))
PERMUTED = (("data.variant", "multi2+permute"), *MIXED)
OF_THE_PAPER = re.compile("universit|birth|compan|major(?!ity)|the paper", re.IGNORECASE)


def film_world(folder: pathlib.Path) -> pathlib.Path:
    """Twenty films."""
    with (films(folder) / "films.csv").open("a") as table:
        for i in range(14):
            table.write(f"Film {i},Director {i % 4},{1950 + i % 5},Country {i % 3}\n")
    return folder


def one_fact(folder: pathlib.Path) -> pathlib.Path:
    """A world of one attribute, two-part names and no pronouns."""
    drawn(folder, attributes=1, parts=2)
    (folder / "pools" / "part1.txt").write_text("".join(f"Q{i}\n" for i in range(8)))
    return folder


WORLDS = {
    "films": (
        film_world,
        [PAIRS, REVERSED],
        {"director": "director", "year": "year of release", "country": "country"},
    ),
    "one fact": (one_fact, [PERMUTED], {"fact_0": "fact 0"}),
}


@pytest.fixture(scope="module", params=WORLDS)
def run(request, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path, dict[str, str]]:
    """A finished run of a world, its configuration file, and the labels of its attributes."""
    write, rows, labels = WORLDS[request.param]
    folder = tmp_path_factory.mktemp("world")
    config, workdir = folder / "config.py", folder / "run"
    config.write_text(CONFIG.format(folder=str(write(folder / "world")), rows=rows))
    command = [sys.executable, "-m", "kstore_jax.cli", "sweep", f"--config={config}"]
    subprocess.run(
        [*command, f"--workdir={workdir}", "--workers=1"],
        check=True,
    )
    return workdir, config, labels


def test_results_and_page_have_the_world_s_attributes(run):
    workdir, _, labels = run
    for row in json.loads((workdir / "results.json").read_text())["rows"]:
        assert row["attributes"] == labels
        readouts = row["readouts"]
        assert set(readouts["recall"]["whole"]) == {"mean", *labels}
        assert set(readouts["qa"]["extraction"]["test"]["exact"]) == {"mean", *labels}
        for probe in ("p_probe", "q_probe"):
            assert set(readouts[probe]["first"]) == set(readouts[probe]["whole"]) == set(labels)
    page = (workdir / "report.html").read_text()
    assert all(label in text_of(page) for label in labels.values())
    assert "while it was pretrained" in text_of(page)
    _, *lines = csv_of(page, "rows.csv")
    for metric in ("recall.whole", "qa.extraction.test.exact"):
        assert {line[7] for line in lines if line[6] == metric} == {"mean", *labels}
    for chart, before in (
        ("p-probing-1", ["whose", "before the"]),
        ("q-probing", ["shares"]),
        ("answers", ["shares", "mean"]),
    ):
        assert csv_of(page, chart)[0] == ["dataset", *before, *labels.values()]


def test_the_page_says_nothing_about_the_paper_s_world(run):
    page = (run[0] / "report.html").read_text()
    assert not OF_THE_PAPER.search(text_of(page))
    for content in re.findall(r"data:text/csv[^,]*,([^\"]*)", page):
        assert not OF_THE_PAPER.search(urllib.parse.unquote(content))


def test_the_models_of_a_world_are_evaluated(run, capsys):
    workdir, _, labels = run
    assert main(["eval", str(workdir), "--beam=1", "--show=3"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in labels)


def test_people_pools_and_speed_of_a_world_are_shown(run, capsys):
    _, config, labels = run
    row = "--config.data.variant=multi2+permute"
    assert main(["show", f"--config={config}", "--person=1", row]) == 0
    assert "person 1" in capsys.readouterr().out
    assert main(["show", f"--config={config}", "--person=1", "--json", row]) == 0
    assert set(json.loads(capsys.readouterr().out)["person"]["attributes"]) == set(labels)
    assert main(["show", f"--config={config}", "--pools"]) == 0
    assert "paper" not in capsys.readouterr().out
    assert main(["bench", "qa", f"--config={config}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 20 * len(labels)
