"""Answers against the number of people whose questions are trained."""

import dataclasses

import pytest

from kstore_jax.charts.drawing import Chart
from kstore_jax.report import figures, trained_people
from kstore_jax.report.groups import groups
from tests.report.runs import a_row, a_run, write_page


def trained_on(fraction: float, accuracy: float, seed: int = 0, **fields):
    """A row of 400 people with one task, trained on a fraction of P_train."""
    row = a_row("multi5+permute", seed=seed, **fields)
    if fraction < 1:
        row.config["finetune"]["people_fraction"] = fraction
    names = {"even_month": accuracy, "luck": accuracy / 2}
    chance = {"mean": 0.3, "even_month": 0.5, "luck": 0.01}
    shares = {"exact": {"mean": 0.75 * accuracy, **names}, "first": names}
    scores = {"train": shares, "test": shares, "wordings": {"train": [], "test": []}}
    scores |= {"baseline": chance, "baseline_first": chance}
    return dataclasses.replace(row, readouts={"qa": {"classification": scores}}, intervals={})


ROWS = [trained_on(1.0, 0.9), trained_on(0.1, 0.5), trained_on(0.1, 0.7, seed=1),
        trained_on(0.5, 0.8)]  # fmt: skip


def test_the_numbers_of_people_are_of_the_trained_half():
    config = {"world": {"people": 400, "celebrities": 0}, "finetune": {"people_fraction": 0.1}}
    assert trained_people.people_trained(config) == 20
    assert trained_people.people_trained({**config, "finetune": {}}) == 200
    world = {"people": 400, "celebrities": 50}
    assert trained_people.people_trained({**config, "world": world}) == 5


def test_a_curve_has_each_question_by_people_means_over_seeds_and_chance():
    (learning,) = trained_people.of(groups(ROWS))
    assert learning.label == "multi5+permute: classification"
    assert learning.answers["even_month"] == pytest.approx({20: 0.6, 100: 0.8, 200: 0.9})
    assert learning.answers["luck"] == pytest.approx({20: 0.3, 100: 0.4, 200: 0.45})
    assert learning.chance == {"even_month": dict.fromkeys((20, 100, 200), 0.5),
                               "luck": dict.fromkeys((20, 100, 200), 0.01)}  # fmt: skip
    assert trained_people.of(groups(ROWS[:1])) == []


def test_groups_that_differ_in_more_are_curves_of_their_own():
    other = [trained_on(f, 0.4, finetune__rank=2) for f in (0.1, 1.0)]
    labels = [learning.label for learning in trained_people.of(groups([*ROWS, *other]))]
    assert labels == [
        "multi5+permute: classification (finetune.rank=8)",
        "multi5+permute: classification (finetune.rank=2)",
    ]


def asking(question: str, fraction: float, accuracy: float):
    """A row that asks one question alone."""
    row = trained_on(fraction, accuracy, tasks__classification__questions=[question])
    scores = row.readouts["qa"]["classification"]
    for half in ("train", "test"):
        scores[half] = {"exact": {"mean": accuracy, question: accuracy}}
    return row


def test_questions_that_are_finetuned_one_by_one_are_lines_of_one_chart():
    rows = [asking(q, f, a) for q, a in (("even_month", 0.8), ("luck", 0.2)) for f in (0.1, 1.0)]
    (learning,) = trained_people.of(groups(rows))
    assert learning.answers == {"even_month": {20: 0.8, 200: 0.8}, "luck": {20: 0.2, 200: 0.2}}
    together = trained_people.of(groups([*ROWS, *rows]))
    assert [len(each.answers) for each in together] == [2, 1, 1]


def test_the_page_draws_chance_dashed_on_a_logarithmic_axis(tmp_path):
    run = a_run(tmp_path, ROWS)
    chart = figures.kinds(run)["trained-people"]
    assert isinstance(chart, Chart)
    x = chart.spec["layer"][0]["encoding"]["x"]
    assert (x["scale"]["type"], x["scale"]["domain"]) == ("log", [20, 200])
    assert [row[0] for row in chart.rows] == [20, 100, 200]
    assert chart.rows[1][1:] == pytest.approx((80.0, 50.0, 40.0, 1.0))
    assert "even month, majority guess – 20 people: 50.0" in chart.svg
    assert "even month, answers – 200 people: 90.0" in chart.svg
    assert 'stroke-dasharray="5,3"' in chart.svg
    assert "people whose questions are trained" in write_page(run)
