"""The files of `docs/extending.md`, in an empty folder, as a user writes them."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.stages import Cache
from kstore_jax.tasks.base import TASKS
from kstore_jax.world.people import draw_people, full_names, in_train_half, value_texts
from tests import recipes
from tests.report.runs import csv_of, text_of
from tests.sweep.sweeps import newest, wait_until
from tests.world import worlds

SWEEP = ("sweep", "--config=films.py", "--workdir=runs/films", "--workers=2")
OFTEN = ("--config.pretrain.steps_per_call=2", "--config.pretrain.checkpoint_every=2")
FIELDS = ("--config.model.canon.width=3", "--config.readouts.lens.texts=500")


def start(folder: pathlib.Path, *arguments: str) -> subprocess.Popen:
    """`kstore` in a folder, which finds the package and nothing of the tests."""
    command = [sys.executable, "-P", "-m", "kstore_jax.cli", *arguments]
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(recipes.PAGE.parents[1])}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True
    )


def kstore(folder: pathlib.Path, *arguments: str) -> str:
    """The output of a command that succeeds."""
    process = start(folder, *arguments)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    assert "Traceback" not in errors
    return output


def complaint(folder: pathlib.Path, *arguments: str) -> str:
    """The one line of a command that fails with status 2."""
    process = start(folder, *arguments)
    output, errors = process.communicate(timeout=400)
    assert (process.returncode, output) == (2, ""), errors[-3000:]
    (line,) = errors.splitlines()
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """The files of the page, and the run of `films.py` in `runs/films`, which was killed while it
    pretrained, and started again."""
    folder = tmp_path_factory.mktemp("extending")
    recipes.write_files(folder)
    (folder / "queue.py").write_text("1 / 0  # hides no module of Python\n")
    process = start(folder, *SWEEP, *OFTEN, *FIELDS)

    def interrupted() -> list[pathlib.Path]:
        assert process.poll() is None, process.communicate()
        stages = [*folder.glob("runs/films/stages/pretrain-*")]
        begun = [stage for stage in stages if newest(stage / "checkpoints") > 2]
        return [stage for stage in begun if not (stage / "result.json").exists()]

    try:
        wait_until(interrupted)
    finally:
        process.kill()
        process.communicate()
    assert not (folder / "runs" / "films" / "results.json").exists()
    time.sleep(1)  # its workers end when it is gone
    kstore(folder, *SWEEP, *OFTEN, *FIELDS)
    return folder


@pytest.fixture(scope="module")
def rows(folder) -> list[dict]:
    return json.loads((folder / "runs" / "films" / "results.json").read_text())["rows"]


def test_all_five_are_in_the_results(folder, rows):
    assert [row["config"]["seed"] for row in rows] == [0, 1]
    for row in rows:
        attributes = ["director", "year", "country", "archived"]
        assert list(row["attributes"]) == attributes
        assert row["attributes"]["year"] == "year of release"
        lens, qa = row["readouts"]["lens"], row["readouts"]["qa"]
        assert list(lens) == ["layer 1", "layer 2"]
        assert lens["layer 1"] != lens["layer 2"] == row["readouts"]["recall"]["first"]
        assert list(qa["earlier"]["test"]["exact"]) == ["mean", "archived"]
        assert len(qa["earlier"]["wordings"]["test"]) == 1
        interval = row["intervals"]["lens"]["layer 2"]["mean"]
        assert interval["low"] <= lens["layer 2"]["mean"] <= interval["high"]
        assert list(qa["extraction"]["test"]["exact"]) == ["mean", *attributes]
    configs = json.loads((folder / "runs" / "films" / "config.json").read_text())["rows"]
    for config in configs:
        assert config["plugins"] == ["canon", "lion", "earlier", "lens"]
        assert config["plugin_folders"] == [str(folder)]
        assert (config["model"]["architecture"], config["model"]["canon"]) == (
            "canon",
            {"width": 3},
        )
        assert config["pretrain"]["optimizer"] == "lion"
        assert config["pretrain"]["lion"] == {"b1": 0.9, "b2": 0.99}
        assert "adamw" not in config["pretrain"]
        assert config["tasks"]["earlier"] == {"partners": 2}
        assert config["readouts"]["lens"] == {"enabled": True, "texts": 500}


def test_the_killed_run_repeated_no_step(folder):
    attempts = []
    for stage in folder.glob("runs/films/stages/pretrain-*"):
        lines = (stage / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == [*range(steps[0], 101, steps[0])]
        attempts.append(len([*stage.glob("provenance-*.json")]))
    assert max(attempts) == 2


def test_all_five_are_on_the_page(folder):
    page = (folder / "runs" / "films" / "report.html").read_text()
    text = " ".join(text_of(page).split())
    for shown in (
        "year of release",
        "Logit lens First tokens of the values in biographies",
        "First tokens of the answers, earlier",
        "model.architecture canon model.canon.width 3",
        "pretrain.optimizer lion pretrain.lion.b1 0.9",
        "world.folder films",
    ):
        assert shown in text
    _, *lines = csv_of(page, "rows")
    shares = [(line[6], line[7]) for line in lines]
    for share in (("lens.layer 1", "year"), ("qa.earlier.test.exact", "archived")):
        assert shares.count(share) == 2


def test_the_commands_know_them(folder):
    stages = json.loads(kstore(folder, "status", "runs/films", "--json"))
    kinds = [stage["folder"].split("-")[0] for stage in stages["stages"]]
    assert kinds.count("lens") == 2
    assert all(row["done"] for row in stages["rows"])
    assert "0 stages" in kstore(folder, "gc", "runs/films/stages", "--keep=runs/films")
    assert "earlier" in kstore(folder, "eval", "runs/films", "--row=0", "--beam=1", "--json")
    assert "seed 1" in kstore(folder, "ask", "runs/films")
    message = complaint(folder, "export", "runs/films", "--row=0", "--out=model")
    assert message.endswith("expected transformer for an exchange with Hugging Face, got canon")
    assert not (folder / "model").exists()


def test_kstore_config_documents_them(folder):
    lens = kstore(folder, "config", "readouts.lens", "--config=films.py")
    assert lens.startswith("readouts.lens: First tokens of values, predicted ")
    assert "  readouts.lens.texts              1000                 int, at least 1\n" in lens
    plugins = "--config.plugins=earlier,canon,lion"
    assert "People that each person" in kstore(folder, "config", "tasks.earlier.partners", plugins)
    everything = kstore(folder, "config", plugins)
    assert (
        "\n  pretrain.optimizer               'adamw'              adamw | lion | muon\n"
        in everything
    )
    assert "\n  model.canon.width                4 " in everything
    assert "lens" not in everything


def test_a_page_finds_the_modules_from_another_folder(folder, tmp_path):
    kstore(tmp_path, "report", str(folder / "runs" / "films"), "--out=page")
    assert "Logit lens" in (tmp_path / "page" / "report.html").read_text()


def test_modules_are_found_beside_the_configuration_file_and_fields_follow_them(folder, tmp_path):
    plain = "from kstore_jax.pipeline.experiment import default as get_config\n"
    (folder / "plain.py").write_text(plain)
    config = f"--config={folder / 'plain.py'}"
    plugins = ("--config.plugins=('lens',)", "--config.readouts.lens.texts=0")
    assert "readouts.lens.texts: expected at least 1, got 0" in complaint(
        tmp_path, "show", config, *plugins
    )
    assert "--config.readouts.lens.texts: no such field" in complaint(
        tmp_path, "show", config, plugins[1]
    )
    assert "plugins: lens: no such module" in complaint(tmp_path, "config", plugins[0])


@pytest.fixture
def without_lens(folder) -> Iterator[pathlib.Path]:
    """The folder without `lens.py`."""
    content = (folder / "lens.py").read_text()
    (folder / "lens.py").unlink()
    yield folder
    (folder / "lens.py").write_text(content)


def test_a_page_without_a_module_leaves_its_results_out_and_says_so(without_lens, tmp_path):
    results = (without_lens / "runs" / "films" / "results.json").read_bytes()
    out = tmp_path / "page"
    process = start(without_lens, "report", "runs/films", f"--out={out}")
    output, errors = process.communicate(timeout=400)
    assert (process.returncode, output) == (0, f"{out / 'report.html'}\n"), errors
    line = "plugins: lens: no such module; its results are in results.json only"
    assert errors == f"note: {line}\n"
    text = " ".join(text_of((out / "report.html").read_text()).split())
    assert line in text
    assert "Logit lens" not in text
    assert "First tokens of the answers, earlier" in text
    assert "model.canon.width 3" in text
    assert (without_lens / "runs" / "films" / "results.json").read_bytes() == results


def test_a_failing_module_is_one_line(without_lens):
    (without_lens / "lens.py").write_text("from second import X\n")
    (without_lens / "second.py").write_text("from lens import Y\nX = 1\n")
    message = "plugins: lens: ImportError: cannot import name 'Y' from partially initialized"
    for command in (["report", "runs/films"], ["show", "--config=films.py"]):
        assert message in complaint(without_lens, *command)


def test_pairs_of_earlier_are_within_one_half_and_its_answers_right(table):
    language = table.language
    people = draw_people(language.pools, 7, np.arange(60))
    with recipes.plugin("A task", TASKS) as module:
        task, config = TASKS["earlier"], module.EarlierConfig(partners=3)
        first, again = (task.items(table, people, config, 7, 0) for _ in range(2))
        other = task.items(table, people, config, 7, 1)
        assert list(task.group_names(config, language)) == ["birth_date"]
    np.testing.assert_array_equal(first.texts.tokens, again.texts.tokens)
    np.testing.assert_array_equal(first.people, other.people)
    assert 170 < len(first) <= 180
    halves = in_train_half(7, people.ids)[first.people]
    assert (halves[:, 0] == halves[:, 1]).all()
    assert 0.3 < first.classes.mean() < 0.7
    names, values = full_names(language.pools, people), value_texts(language.pools, people)
    for i, (pair, answer) in enumerate(zip(first.people, first.classes, strict=True)):
        times = [time.strptime(values[person][0], "%B %d, %Y") for person in pair]
        assert times[answer] == min(times) < max(times)
        texts = (first.texts, other.texts)
        begin, end = ((t.offsets[i], t.offsets[i + 1]) for t in texts)
        decoded = [
            table.tokenizer.decode(t.tokens[a:b])
            for t, (a, b) in zip(texts, (begin, end), strict=True)
        ]
        a, b = (names[person] for person in pair)
        expected = f"Of {a} and {b}, whose birth date is earlier? Answer: {names[pair[answer]]}"
        assert decoded[0] == expected
        expected = f"Whose birth date comes first, {a}'s or {b}'s? Answer: {names[pair[answer]]}"
        assert decoded[1] == expected


def test_earlier_refuses_a_world_without_dates(tmp_path):
    folder = worlds.films(tmp_path / "films")
    with recipes.plugin("A task", TASKS):
        fields = {"world": {"folder": str(folder), "people": 6}, "data": {"variant": "single"}}
        experiment = parse({**fields, "finetune": {"tasks": ["earlier"]}})
        message = r"^tasks\.earlier: expected a world with dates"
        with pytest.raises(UserError, match=message):
            ExperimentGraph(experiment, Cache(tmp_path / "stages"))
        unused = dataclasses.replace(experiment, finetune=parse(fields).finetune)
        ExperimentGraph(unused, Cache(tmp_path / "stages"))
