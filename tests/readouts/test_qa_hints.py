"""The tables of a task with hints."""

import pytest

from kstore_jax.readouts.measured import Measured
from kstore_jax.readouts.qa_hints import answer_tables


def measured(**more) -> Measured:
    exact = {"mean": 0.6, "luck": 0.3, "luck_with_hint": 0.9}
    result = {
        "train": {"exact": {**exact, "luck": 0.5}},
        "test": {"exact": exact, "hint": {"mean": 0.8, "luck_with_hint": 0.8}},
        "baseline": {"mean": 0.15, "luck": 0.1, "luck_with_hint": 0.2},
        **more,
    }
    interval = {"low": 0.25, "high": 0.35, "people": 20, "cases": 20}
    intervals = {"test": {"exact": {"luck": interval}}}
    return Measured(0, "multi5", "five texts", (0,), (result,), intervals=(intervals,))


def test_the_columns_of_hints_are_questions_and_the_law_is_beside_what_is_seen():
    answers, hints = answer_tables(", classification", [measured()], {})
    assert answers.title == "Answers, classification"
    assert [line.name for line in answers.bodies[0].lines] == [
        "trained on",
        "held out",
        "majority guess",
    ]
    lines = {line.name: line for line in hints.bodies[0].lines}
    assert {name: dict(line.shares) for name, line in lines.items()} == {
        "without a hint": {"luck": 0.3},
        "with a hint": {"luck": 0.9},
        "hint right": {"luck": 0.8},
        "predicted with a hint": {"luck": pytest.approx(0.8 + 0.2 * 0.2)},
        "majority guess": {"luck": 0.2},
    }
    assert lines["without a hint"].ends == {"luck": (0.25, 0.35)}
    assert "84.0" in hints.html


def test_without_hints_there_is_no_table_of_them_and_people_held_back_are_a_line():
    plain = measured(test={"exact": {"mean": 0.3, "luck": 0.3}}, held_back={"exact": {"luck": 0.4}})
    answers, hints = answer_tables(", classification", [plain], {})
    assert hints.html == ""
    assert [line.name for line in answers.bodies[0].lines][1] == "of the trained half, held back"
