"""Missing and damaged results end in one line."""

import json

import pytest

from kstore_jax.errors import UserError
from kstore_jax.report import page as report
from tests.report.runs import SINGLE, changed, without


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no results here; run `kstore run` first"),
        (json.dumps({"rows": []}), "no results here; run `kstore run` first"),
        ("", "damaged"),
        ('{"rows": [', "damaged"),
        ("[]", "damaged"),
        ('{"rows": 3}', "damaged"),
        ('{"rows": [3]}', "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (json.dumps({"rows": [without("readouts")]}), "damaged (readouts is missing)"),
        (
            json.dumps({"rows": [changed(SINGLE, "qa", "extraction", "test", "exact", mean=1.5)]}),
            "share from 0 to 1, got 1.5",
        ),
        (
            json.dumps({"rows": [changed(SINGLE, "qa", "extraction", test={})]}),
            "damaged (exact is missing)",
        ),
        (json.dumps({"rows": [changed(SINGLE, "recall", whole=3)]}), "damaged"),
        (json.dumps({"rows": [changed(SINGLE, "recall", "whole", mean=float("nan"))]}), "recall"),
        (json.dumps({"rows": [changed(SINGLE, "q_probe", first=3)]}), "damaged"),
        (json.dumps({"rows": [{**SINGLE, "code": [3]}]}), "code: expected text, got 3"),
        (json.dumps({"rows": [SINGLE], "stages": 3}), "damaged"),
        (json.dumps({"rows": [{**SINGLE, "mixed": 3}]}), "damaged"),
        (json.dumps({"rows": [{**SINGLE, "mixed": {"text": ""}}]}), "text_share is missing"),
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
