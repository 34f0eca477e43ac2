"""The results of a run as lines: every share, and every single measurement."""

import collections
import json
import shutil
import sys
from typing import Any

import pytest

import kstore_jax
from kstore_jax.api.records import Records
from kstore_jax.errors import UserError
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts.shares import measurements_of, shares_of

Place = tuple[Any, ...]


@pytest.fixture(scope="module")
def run(finished) -> kstore_jax.Run:
    return kstore_jax.load(finished)


def place(line: dict[str, Any]) -> Place:
    return line["row"], line["metric"], line["attribute"], line["position"]


def numbers(value: Any) -> list[float]:
    """Every number of nested dictionaries and lists, except `training` of a probe."""
    if isinstance(value, dict):
        return [x for key, part in value.items() if key != "training" for x in numbers(part)]
    if isinstance(value, list):
        return [x for part in value for x in numbers(part)]
    return [] if value is None else [value]


def test_rows_have_names_seeds_varied_fields_and_whether_they_are_done(run):
    assert [row.name for row in run.rows] == [*run.names]
    assert [row.varied for row in run.rows] == [
        {"data.variant": "single"},
        {"data.variant": "multi2+permute"},
    ]
    assert [(row.seed, row.done) for row in run.rows] == [(0, True)] * 2


def test_the_table_has_every_share_of_the_results_once(run, finished):
    table = run.table()
    rows = json.loads((finished / "results.json").read_text())["rows"]
    for name, row in zip(run.names, rows, strict=True):
        values = [line["value"] for line in table if line["row"] == name]
        del row["readouts"]["examples"]  # texts, which have no shares
        assert collections.Counter(values) == collections.Counter(numbers(row["readouts"]))
    assert len({place(line) for line in table}) == len(table)
    names = ["metric", "attribute", "position", "value", "low", "high", "n"]
    assert [*table.columns] == ["row", "seed", "data.variant", *names]
    (mean,) = (
        line
        for line in table
        if place(line)[1:] == ("qa.extraction.test.exact", "mean", None)
        and line["data.variant"] == "multi2+permute"
    )
    interval = rows[1]["intervals"]["qa"]["extraction"]["test"]["exact"]["mean"]
    assert (mean["low"], mean["high"], mean["n"]) == (interval["low"], interval["high"], 10)
    assert mean["value"] == rows[1]["readouts"]["qa"]["extraction"]["test"]["exact"]["mean"]


def test_cases_are_of_the_shares_in_the_table(run):
    right = collections.defaultdict(list)
    for line in run.cases():
        right[place(line)].append(line["right"])
    shares = {place(line): line for line in run.table()}
    compared = shares.keys() & right.keys()
    for at in compared:
        assert sum(right[at]) / len(right[at]) == pytest.approx(shares[at]["value"], abs=1e-6)
        assert shares[at]["n"] is not None
    without_cases = {metric for _, metric, *_ in shares.keys() - compared}
    assert {metric for metric in without_cases if not metric.startswith("capacity.")} <= {
        "recall.whole", "recall.first", *(f"{probe}_probe.{level}.{kind}" for probe in "pq"
        for level in ("baseline", "ceiling") for kind in ("first", "whole")),
        *(f"qa.extraction.{name}" for name in ("baseline", "baseline_first")),
        *(f"qa.extraction.{half}.{kind}" for half in ("train", "test")
          for kind in ("exact", "first")),
        *(f"qa.extraction.wordings.{half}" for half in ("train", "test")),
    }  # fmt: skip
    left = [
        at
        for at in shares.keys() - compared
        if "baseline" not in at[1] and not at[1].startswith("capacity.")
    ]
    assert {attribute for _, metric, attribute, _ in left if "ceiling" not in metric} == {"mean"}
    whole_values = [at for at in compared if at[1:] == ("recall.whole", "major", None)]
    assert [len(right[at]) for at in sorted(whole_values)] == [40, 20]  # multi2 has two texts each


def test_cases_name_people_and_their_texts(run):
    cases = [line for line in run.cases() if line["metric"] == "recall.whole"]
    texts = {(line["row"], line["person"], line["item"]) for line in cases}
    assert len(texts) == 20 + 40
    assert {line["person"] for line in cases} == {*range(20)}
    questions = [line for line in run.cases() if line["metric"] == "qa.extraction.test.exact"]
    world = run.world()
    assert not any(world[line["person"]].in_train for line in questions)
    assert len({(line["row"], line["item"]) for line in questions}) == len(questions) == 2 * 10 * 6


def test_rows_that_are_not_finished_are_left_out(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("checkpoints", "dataset"))
    (folder / "results.json").unlink()
    graph = kstore_jax.load(folder)._graphs[1]
    shutil.rmtree(Cache(folder / "stages").folder(graph.readouts["q_probe"]))
    run = kstore_jax.load(folder)
    assert [row.done for row in run.rows] == [True, False]
    for lines in (run.table(), run.cases()):
        assert {line["row"] for line in lines} == {"single, seed 0"}
    (folder / "stages").rename(tmp_path / "elsewhere")
    assert [row.done for row in run.rows] == [False, False]
    assert [len(run.table()), len(run.cases())] == [0, 0]


def test_lines_are_a_sequence_of_dictionaries():
    records = Records({"seed": [0, 1, 2], "value": [0.5, None, 0.25]})
    assert [*records] == [records[0], records[1], records[-1]]
    assert records[-1] == {"seed": 2, "value": 0.25}
    assert [*records[1:]] == [*records][1:]
    with pytest.raises(IndexError):
        _ = records[3]
    assert repr(records) == "<3 lines: seed, value>"
    assert [*Records({})] == []


def test_a_missing_pandas_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        UserError, match=r"^to_pandas: needs pandas; `pip install pandas` brings it$"
    ):
        Records({"seed": [0]}).to_pandas()


def test_a_data_frame_has_the_lines(run):
    pytest.importorskip("pandas")
    for records in (run.table(), run.cases()):
        frame = records.to_pandas()
        assert [*frame.columns] == [*records.columns]
        assert len(frame) == len(records)
        assert frame.position.dtype == float  # NaN where there is no position
        assert frame.iloc[-1]["row"] == records[-1]["row"]


def test_shares_and_measurements_of_a_plug_in_are_found_without_its_help():
    result = {"layer 1": {"mean": 0.5, "major": 0.25}, "all": 0.75, "notes": ["x", True, None]}
    found = [(share.metric, share.attribute, share.position) for share in shares_of(result)]
    assert found == [("layer 1", "mean", None), ("layer 1", "major", None), ("all", "", None)]
    assert measurements_of({}) == []
