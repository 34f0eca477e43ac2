"""Missing and damaged results end in one line."""

import copy
import dataclasses
import functools
import json
import math
import re
import sys
from typing import Any

import pytest

from kstore_jax.errors import UserError
from kstore_jax.pipeline.row import SCHEMA, Row
from kstore_jax.report import page as report
from tests.report.runs import CONTRAST, SHUFFLED, SINGLE, a_run, text_of, without


def written(row: Any, **more) -> str:
    """`results.json` of one row."""
    return json.dumps({"schema": SCHEMA, "rows": [row], **more})


def with_field(*path, value) -> str:
    """`results.json` with a value at a path of keys of its row."""
    row: Any = copy.deepcopy(SINGLE.to_json())
    part = row
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return written(row)


def deep(levels: int) -> str:
    """`results.json` with a list in a list in ... a row."""
    nested = f'"exposures": {"[" * levels}{"]" * levels}'
    return written(SINGLE.to_json()).replace('"exposures": 287.4', nested)


EXACT = ("readouts", "qa", "extraction", "test", "exact")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no results here; run `kstore run` first"),
        (json.dumps({"rows": [{}]}), "schema 1, expected 3; `kstore sweep` with the"),
        (written(SINGLE.to_json(), schema=2), "schema 2, expected 3; `kstore sweep` with the"),
        (json.dumps({"rows": []}), "no results here; run `kstore run` first"),
        ("", "damaged"),
        ('{"schema": 3, "rows": [', "damaged"),
        ("[]", "damaged"),
        ('{"schema": 3, "rows": 3}', "damaged"),
        (written(3), "damaged (row 0: expected an object, got 3)"),
        (b"\xff\xfe\x00", "damaged"),
        *(
            (written(without(field.name)), f"damaged (row 0: {field.name} is missing)")
            for field in dataclasses.fields(Row)
            if field.default is dataclasses.MISSING
        ),
        (
            with_field(*EXACT, "mean", value=1.5),
            "mean: expected a share from 0 to 1, got 1.5",
        ),
        (with_field(*EXACT[:-1], value={}), "damaged (row 0: exact is missing)"),
        (with_field(*EXACT, "mean", value="1"), "exact.mean: expected a number, got '1'"),
        (with_field("readouts", "recall", "whole", value=3), "damaged (row 0: "),
        (with_field("readouts", "q_probe", "first", value=3), "damaged (row 0: "),
        (
            with_field("readouts", "recall", "whole", "mean", value=math.nan),
            "readouts.recall.whole.mean: expected a number, got nan",
        ),
        (
            with_field("intervals", "recall", "whole", "mean", "low", value=math.inf),
            "intervals.recall.whole.mean.low: expected a number, got inf",
        ),
        (with_field("code", value=[3]), "code.0: expected text, got 3"),
        (with_field("seconds", value=True), "seconds: expected a number, got True"),
        (with_field("parameters", value=1.5), "parameters: expected a whole number, got 1.5"),
        (with_field("goodput", value=1.5), "goodput: expected a share from 0 to 1, got 1.5"),
        (with_field("losses", 3, value={"step": 1}), "losses.3.exposures is missing"),
        (with_field("config", "seed", value="0"), "config.seed: expected a whole number, got '0'"),
        (with_field("config", "data", value={}), "config.data.variant is missing"),
        (
            with_field("config", "finetune", "grid", value="8"),
            "config.finetune.grid: expected a list, got '8'",
        ),
        (deep(100), "exposures: expected a number"),
        (deep(100_000), "damaged (nested too deep)"),
        (
            with_field("readouts", "q", value={"x": functools.reduce(lambda x, _: [x], range(99))}),
            "damaged (row 0: readouts: nested too deep)",
        ),
        (with_field("readouts", "strange", value=3), "readouts.strange: expected an object, got 3"),
    ],
)
def test_bad_results_are_one_line_and_nothing_is_written(tmp_path, content, text):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "results.json").write_bytes(data)
    with pytest.raises(UserError) as error:
        report.write([tmp_path], tmp_path / "out")
    assert text in str(error.value)
    assert "results.json: " in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nowhere", "a_file"])
def test_a_path_that_is_no_run(tmp_path, name):
    (tmp_path / "a_file").touch()
    with pytest.raises(UserError, match="no results here"):
        report.write([tmp_path / name], tmp_path / "out")


@pytest.mark.parametrize("section", ["readouts", "tasks", "model"])
def test_a_page_without_a_plugin_names_it_and_shows_the_rest(tmp_path, capsys, section):
    rows = []
    for row in CONTRAST:
        config = copy.deepcopy(row.config)
        config[section]["strange"] = {"width": 3}
        if section == "model":
            config["model"]["architecture"] = "strange"
        readouts = {**row.readouts, "strange": {"width": {"mean": 3.0}}}
        rows.append(
            dataclasses.replace(row, config=config, readouts=readouts, plugins=["no_such_plugin"])
        )
    text = text_of(report.write([a_run(tmp_path, rows)], tmp_path).read_text())
    line = "plugins: no_such_plugin: no such module; its results are in results.json only"
    assert capsys.readouterr().err == f"note: {line}\n"
    assert text.count(line) == 1
    assert "Answers about people held out" in text
    assert re.search(rf"{section}\S*\.strange\.width\s+3", text.partition("Every setting")[2])


def test_a_page_is_not_written_where_a_plugin_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "a_bad_plugin.py").write_text("1 / 0\n")
    plugins = {"plugins": ["a_bad_plugin"], "plugin_folders": [str(tmp_path)]}
    run = a_run(tmp_path / "run", [dataclasses.replace(SINGLE, **plugins)])
    with pytest.raises(UserError, match=r"^plugins: a_bad_plugin: ZeroDivisionError"):
        report.write([run], run)
    assert not (run / "report.html").exists()


def test_a_row_is_read_as_it_was_written():
    row = json.loads(json.dumps(SHUFFLED.to_json()))
    assert Row.from_json(row) == SHUFFLED


def test_fields_that_are_newer_than_a_row_have_their_defaults():
    row = SINGLE.to_json()
    newer = copy.deepcopy(row["config"])
    del newer["finetune"]["refit"], newer["readouts"]["q_probe"]["steps"]
    newer["of_yesterday"] = 1
    read = Row.from_json({**row, "config": newer}).config
    assert read == {**SINGLE.config, "of_yesterday": 1}
