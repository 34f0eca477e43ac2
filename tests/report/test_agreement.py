"""Ranks of ours against the paper's."""

import json
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.pipeline.experiment import parse
from kstore_jax.report import agreement, groups, page
from kstore_jax.sweep import run as sweep
from kstore_jax.world.biographies import FIG3_VARIANTS
from tests.report.runs import SINGLE, a_config, a_row, a_run, changed, csv_of, published, write_page
from tests.world.bundled import ATTRIBUTES

ties = st.integers(0, 6)
pairs = st.lists(st.tuples(ties, ties), min_size=2, max_size=20)


@given(pairs)
def test_the_correlation_is_symmetric_and_none_for_equal_values(points):
    x, y = zip(*points, strict=True)
    rho = agreement.spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert rho is None
    else:
        assert rho is not None
        assert -1.0001 < rho < 1.0001
        assert rho == pytest.approx(agreement.spearman(y, x))
        assert -rho == pytest.approx(agreement.spearman(x, [-value for value in y]))


def sixteen(scale=0.5, swapped=()):
    """Rows that rank as the paper's, except two datasets that have each other's numbers."""
    swap = dict(zip(swapped, reversed(swapped), strict=True))
    rows = []
    for dataset in FIG3_VARIANTS:
        theirs = published(swap.get(dataset, dataset))
        row = a_row(dataset, qa=scale * theirs.qa["mean"])
        row["readouts"]["q_probe"]["first"] = {a: [scale * theirs.q_first[a]] for a in ATTRIBUTES}
        rows.append(row)
    return rows


def correlations(rows):
    return agreement.of_all_datasets(groups.groups(rows, None))


def test_sixteen_datasets_that_rank_as_the_paper_s():
    assert correlations(sixteen()) == {
        "qa_mean": pytest.approx(1),
        "q_first_mean": pytest.approx(1),
    }
    assert correlations(sixteen(scale=0.0)) == {"qa_mean": None, "q_first_mean": None}


def test_seeds_count_as_their_mean():
    rows = sixteen()
    answers = [row["readouts"]["qa"]["extraction"]["test"]["exact"]["mean"] for row in rows]
    against = [
        {**changed(row, "qa", "extraction", "test", "exact", mean=1 - 2 * x), "seed": 1}
        for row, x in zip(rows, answers, strict=True)
    ]
    assert correlations([*rows, *against])["qa_mean"] == pytest.approx(-1)


def test_fewer_datasets_and_other_models_have_no_correlation():
    rows = sixteen()
    assert correlations(rows[1:]) == {}
    assert correlations([{**rows[0], "direction": "bidirectional"}, *rows[1:]]) == {}
    assert correlations([{**rows[0], "mixed": {"qa_share": 0.8}}, *rows[1:]]) == {}


def test_the_furthest_apart_are_first():
    swapped = ("single", "multi5+permute")
    answers, probed = agreement.agreements(groups.groups(sixteen(swapped=swapped), None))
    assert {label for label, _, _ in answers.misses()[:2]} == set(swapped)
    assert {label for label, _, _ in probed.misses()[:2]} == set(swapped)
    assert all(ours == theirs for _, ours, theirs in answers.misses()[2:])
    assert answers.spearman is not None
    assert -1 < answers.spearman < 1


def test_two_datasets_are_too_few():
    rows = [a_row("single"), a_row("multi5"), a_row("multi3")]
    assert agreement.agreements(groups.groups(rows, None)) == []
    three = groups.groups([*rows, a_row("multi2")], None)
    assert [each.labels for each in agreement.agreements(three)] == [
        ("single", "multi5", "multi2")
    ] * 2


def test_a_sweep_over_all_datasets_writes_the_correlations(finished, monkeypatch, tmp_path):
    assert "spearman" not in json.loads((finished / "results.json").read_text())
    rows = sixteen()
    graphs: Any = [types.SimpleNamespace(experiment=parse(a_config(row)), row=row) for row in rows]
    monkeypatch.setattr(sweep, "result_row", lambda graph: graph.row)
    monkeypatch.setattr(page, "write", lambda *paths: paths[0])
    plan: Any = types.SimpleNamespace(cache_path_from=lambda workdir: "stages", stages=())
    sweep._write_report(tmp_path, graphs, plan, failed=())
    assert json.loads((tmp_path / "results.json").read_text())["spearman"] == correlations(rows)


def test_ours_stand_against_the_paper_s_from_three_datasets_on(tmp_path, page):
    assert "Ours against the paper" not in page
    rows = [SINGLE, a_row("multi2", qa=0.95), a_row("multi5+permute", qa=0.9)]
    text = write_page(a_run(tmp_path, rows, metrics=False))
    assert "Spearman’s ρ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.500" in text
    assert "Furthest apart: multi2 (rank 3, the paper&#x27;s 2), multi5+permute (rank 2" in text
    _, first, *_ = csv_of(text, "agreement-qa-mean")
    assert first == ["multi2", "95.0", "41.1", "3", "2"]


def test_a_dataset_in_two_settings_does_not_count_twice(tmp_path):
    rows = [SINGLE, a_row("multi2", qa=0.95), a_row("multi5+permute", qa=0.9)]
    configs = [a_config(row) for row in (*rows, SINGLE)]
    configs[-1]["finetune"]["steps"] += 10
    text = write_page(
        a_run(tmp_path, [*rows, {**SINGLE, "name": "longer"}], configs, metrics=False)
    )
    assert "single (finetune.steps" in text
    assert "Spearman" not in text
