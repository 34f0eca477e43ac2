"""The commands of `docs/your-facts.md`, from a table to the page, at the smallest size."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.report.runs import text_of

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "your-facts.md"
SMALL = [
    f"--config.{field}"
    for field in (
        *("model.layers=1", "model.heads=2", "model.width=32", "pretrain.exposures=4"),
        *("pretrain.steps_per_call=2", "pretrain.checkpoint_every=4", "pretrain.warmup_steps=1"),
        *("finetune.steps=4", "finetune.steps_per_call=2", "finetune.embedding_rank=4"),
        *("readouts.p_probe.steps=5", "readouts.q_probe.steps=5"),
        *("readouts.p_probe.batch_size=4", "readouts.q_probe.batch_size=4"),
    )
]


def kstore(folder: pathlib.Path, *arguments: str) -> str:
    """The output of a command that succeeds."""
    environment = {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "kstore_jax.cli", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A folder with the table, after the first two commands of the page."""
    folder = tmp_path_factory.mktemp("facts")
    rows = [f"Land {i},Town {i},{'AB'[i % 2]};{'CD'[i % 2]},{1900 + i}" for i in range(24)]
    table = "\n".join(["name,capital,languages,founded", "Chile,Santiago,A,1818", *rows])
    (folder / "countries.csv").write_text(table)
    facts, sweep, _ = commands()
    kstore(folder, *facts)
    sweep = [word.replace("configs/", f"{ROOT}/configs/") for word in sweep]
    kstore(folder, *sweep, *SMALL)
    return folder


def commands() -> list[list[str]]:
    """The words of the three commands, without `kstore`."""
    block = re.findall(r"^```\n(.*?)^```$", PAGE.read_text(), re.M | re.S)[0]
    return [shlex.split(line)[1:] for line in block.splitlines()]


def test_the_page_has_the_models_of_the_table(folder):
    results = json.loads((folder / "runs" / "countries" / "results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert [*rows] == ["one text", "five wordings", "one text, questions"]
    for row in rows.values():
        assert (row["noun"], row["config"]["world"]["people"]) == ("country", 25)
        assert row["attributes"] == {x: x for x in ("capital", "languages", "founded")}
        assert {"recall", "qa", "p_probe", "q_probe"} <= set(row["readouts"])
    text = text_of((folder / "runs" / "countries" / "report.html").read_text())
    assert "capital" in text
    assert "Land " in text


def test_the_third_command_asks_the_models(folder):
    printed = kstore(folder, *commands()[2])
    assert printed.count("\n") >= 3
