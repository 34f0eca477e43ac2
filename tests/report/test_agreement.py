"""Ranks of ours against the paper's."""

import dataclasses
import html
import json
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.report import agreement, groups, page
from kstore_jax.sweep import run as sweep
from kstore_jax.world.biographies import FIG3_VARIANTS
from tests.report.runs import (
    SINGLE,
    a_row,
    a_run,
    changed,
    csv_of,
    published,
    with_seed,
    write_page,
)
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
        row.readouts["q_probe"]["first"] = {a: [scale * theirs.q_first[a]] for a in ATTRIBUTES}
        rows.append(row)
    return rows


def correlations(rows):
    found = agreement.of_all_datasets(groups.groups(rows))
    return {name: correlation["spearman"] for name, correlation in found.items()}


def test_sixteen_datasets_that_rank_as_the_paper_s():
    assert correlations(sixteen()) == {
        "qa_mean": pytest.approx(1),
        "q_first_mean": pytest.approx(1),
    }
    assert correlations(sixteen(scale=0.0)) == {"qa_mean": None, "q_first_mean": None}


def test_the_interval_of_a_correlation_is_of_a_bootstrap_over_datasets():
    points = tuple(float(i) for i in range(16))
    noisy = tuple(x + 6 * (-1) ** i for i, x in enumerate(points))
    labels = tuple(map(str, points))
    alike, apart = (agreement.Agreement("qa_mean", labels, points, x) for x in (points, noisy))
    assert alike.interval == (pytest.approx(1), pytest.approx(1))
    assert apart.interval is not None
    low, high = apart.interval
    assert low < apart.correlation["spearman"] < high
    both = np.array([points, noisy])
    ranks = [agreement.spearman(*both[:, drawn].tolist()) or 0.0 for drawn in draws(16, 400)]
    assert (low, high) == pytest.approx(np.percentile(ranks, (2.5, 97.5)), abs=0.06)
    flat = agreement.Agreement("qa_mean", labels, (0.5,) * 16, points)
    assert flat.correlation == {"spearman": None, "low": None, "high": None, "datasets": 16}


def draws(count: int, times: int) -> np.ndarray:
    """Numbers drawn with replacement, (times, count)."""
    return np.random.default_rng(5).integers(count, size=(times, count))


def test_seeds_count_as_their_mean():
    rows = sixteen()
    answers = [row.readouts["qa"]["extraction"]["test"]["exact"]["mean"] for row in rows]
    against = [
        with_seed(changed(row, "qa", "extraction", "test", "exact", mean=1 - 2 * x), 1)
        for row, x in zip(rows, answers, strict=True)
    ]
    assert correlations([*rows, *against])["qa_mean"] == pytest.approx(-1)


def test_fewer_datasets_and_other_models_have_no_correlation():
    rows = sixteen()
    assert correlations(rows[1:]) == {}
    assert (
        correlations([a_row(FIG3_VARIANTS[0], model__direction="bidirectional"), *rows[1:]]) == {}
    )
    assert correlations([a_row(FIG3_VARIANTS[0], data__qa_share=0.8), *rows[1:]]) == {}


def test_the_furthest_apart_are_first():
    swapped = ("single", "multi5+permute")
    answers, probed = agreement.agreements(groups.groups(sixteen(swapped=swapped)))
    assert {label for label, _, _ in answers.misses()[:2]} == set(swapped)
    assert {label for label, _, _ in probed.misses()[:2]} == set(swapped)
    assert all(ours == theirs for _, ours, theirs in answers.misses()[2:])
    assert answers.spearman is not None
    assert -1 < answers.spearman < 1


def test_two_datasets_are_too_few():
    rows = [a_row("single"), a_row("multi5"), a_row("multi3")]
    assert agreement.agreements(groups.groups(rows)) == []
    three = groups.groups([*rows, a_row("multi2")])
    assert [each.labels for each in agreement.agreements(three)] == [
        ("single", "multi5", "multi2")
    ] * 2


def test_a_sweep_over_all_datasets_writes_the_correlations(finished, monkeypatch, tmp_path):
    assert "spearman" not in json.loads((finished / "results.json").read_text())
    rows = sixteen()
    graphs: Any = [types.SimpleNamespace(row=row) for row in rows]
    monkeypatch.setattr(sweep, "result_row", lambda graph: graph.row)
    monkeypatch.setattr(page, "write", lambda *paths: paths[0])
    plan: Any = types.SimpleNamespace(cache_path_from=lambda workdir: "stages", stages=())
    sweep._write_report(tmp_path, graphs, plan, failed=())
    written = json.loads((tmp_path / "results.json").read_text())["spearman"]
    assert written == agreement.of_all_datasets(groups.groups(rows))
    assert written["qa_mean"]["datasets"] == 16


def test_ours_stand_against_the_paper_s_from_three_datasets_on(tmp_path, page):
    assert "Ours against the paper" not in page
    rows = [SINGLE, a_row("multi2", qa=0.95), a_row("multi5+permute", qa=0.9)]
    text = write_page(a_run(tmp_path, rows))
    assert "Spearman’s ρ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.500" in text
    apart = "Furthest apart: multi2 (rank 3, the paper's 2), multi5+permute (rank 2, the paper's 3)"
    assert apart in html.unescape(text)
    _, first, *_ = csv_of(text, "agreement-qa-mean")
    assert first == ["multi2", "95.0", "41.1", "3", "2"]


def test_a_dataset_in_two_settings_does_not_count_twice(tmp_path):
    rows = [SINGLE, a_row("multi2", qa=0.95), a_row("multi5+permute", qa=0.9)]
    longer = dataclasses.replace(a_row(finetune__steps=50_010), name="longer")
    text = write_page(a_run(tmp_path, [*rows, longer]))
    assert "single (finetune.steps" in text
    assert "Spearman" not in text
