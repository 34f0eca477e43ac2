"""Missing and damaged results end in one line."""

import json
import sys

import pytest

from kstore_jax.errors import UserError
from kstore_jax.pipeline.results import SCHEMA
from kstore_jax.report import page as report
from tests.report.runs import CONTRAST, SINGLE, a_config, a_run, changed, text_of, without


def written(row: dict, **more) -> str:
    """`results.json` of one row."""
    return json.dumps({"schema": SCHEMA, "rows": [row], **more})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no results here; run `kstore run` first"),
        (json.dumps({"rows": [SINGLE]}), "schema 1, expected 2; `kstore sweep` with the"),
        (json.dumps({"rows": []}), "no results here; run `kstore run` first"),
        ("", "damaged"),
        ('{"schema": 2, "rows": [', "damaged"),
        ("[]", "damaged"),
        ('{"schema": 2, "rows": 3}', "damaged"),
        ('{"schema": 2, "rows": [3]}', "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (
            written(without("readouts")),
            "damaged (readouts is missing)",
        ),
        (
            json.dumps(
                {
                    "schema": SCHEMA,
                    "rows": [changed(SINGLE, "qa", "extraction", "test", "exact", mean=1.5)],
                }
            ),
            "share from 0 to 1, got 1.5",
        ),
        (
            written(changed(SINGLE, "qa", "extraction", test={})),
            "damaged (exact is missing)",
        ),
        (written(without("mixed")), "damaged (mixed is missing)"),
        (written(changed(SINGLE, "recall", whole=3)), "damaged"),
        (
            json.dumps(
                {"schema": SCHEMA, "rows": [changed(SINGLE, "recall", "whole", mean=float("nan"))]}
            ),
            "recall",
        ),
        (written(changed(SINGLE, "q_probe", first=3)), "damaged"),
        (
            written({**SINGLE, "code": [3]}),
            "code: expected text, got 3",
        ),
        (written(SINGLE, stages=3), "damaged"),
        (written({**SINGLE, "mixed": 3}), "damaged"),
        (
            written({**SINGLE, "mixed": {"text": ""}}),
            "text_share is missing",
        ),
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
    configs = [a_config(row) for row in CONTRAST]
    for config in configs:
        config["plugins"] = ["no_such_plugin"]
        config[section]["strange"] = {"width": 3}
    configs[1]["model"]["architecture"] = "strange" if section == "model" else "transformer"
    rows = [changed(row, "strange", width={"mean": 3.0}) for row in CONTRAST]
    text = text_of(
        report.write([a_run(tmp_path, rows, configs, metrics=False)], tmp_path).read_text()
    )
    line = "plugins: no_such_plugin: no such module; its results are in results.json only"
    assert capsys.readouterr().err == f"note: {line}\n"
    assert text.count(line) == 1
    assert "Answers about people held out" in text
    assert ("Every setting" in text) == (section != "model")


def test_a_page_is_not_written_where_a_plugin_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "a_bad_plugin.py").write_text("1 / 0\n")
    plugins = {"plugins": ["a_bad_plugin"], "plugin_folders": [str(tmp_path)]}
    run = a_run(tmp_path / "run", [SINGLE], [a_config(SINGLE) | plugins], metrics=False)
    with pytest.raises(UserError, match=r"^plugins: a_bad_plugin: ZeroDivisionError"):
        report.write([run], run)
    assert not (run / "report.html").exists()
