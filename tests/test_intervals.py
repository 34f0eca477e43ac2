"""Intervals are of a bootstrap over people, and depend on the cases alone."""

import numpy as np
import pytest

from kstore_jax import intervals as module
from kstore_jax.intervals import intervals, intervals_by_column, intervals_by_group
from kstore_jax.readouts.measured import BOOTSTRAP, SEEDS, Measured
from kstore_jax.tasks.base import accuracy_by_column, accuracy_by_group


def cases(people: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Answers about people whom a model mostly remembers or forgets: ids, and hits (N, 3)."""
    rng = np.random.default_rng(seed)
    remembered = rng.random(people) < 0.7
    hits = np.repeat(remembered, each)[:, None] ^ (rng.random((people * each, 3)) < 0.1)
    return np.repeat(np.arange(people), each), hits


def resampled_one_by_one(person: np.ndarray, hits: np.ndarray, times: int = 4000) -> np.ndarray:
    """The ends of the intervals by the definition, of the columns and of their mean: people are
    drawn with all their cases."""
    rng, ids = np.random.default_rng(1), np.unique(person)
    rows = [np.flatnonzero(person == one) for one in ids]
    shares = []
    for _ in range(times):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(ids), size=len(ids))])
        shares.append([*hits[drawn].mean(0), hits[drawn].mean()])
    return np.percentile(shares, (2.5, 97.5), axis=0)


def test_an_interval_is_that_of_people_drawn_with_all_their_cases():
    person, hits = cases(people=60, each=8)
    of_columns, of_mean = intervals(person, hits)
    expected = resampled_one_by_one(person, hits)
    ends = np.array([[one["low"], one["high"]] for one in (*of_columns, of_mean) if one]).T
    np.testing.assert_allclose(ends, expected, atol=0.012)
    naive = resampled_one_by_one(np.arange(len(person)), hits, 500)
    assert ((ends[1] - ends[0]) > 2 * (naive[1] - naive[0])).all()
    assert of_mean is not None
    assert (of_mean["people"], of_mean["cases"]) == (60, 60 * 8 * 3)


def test_resamples_in_parts_are_those_in_one(monkeypatch):
    person, hits = cases(people=60, each=8)
    whole = intervals(person, hits)
    monkeypatch.setattr(module, "_MOST_DRAWS", 5000)
    assert intervals(person, hits) == whole


def test_a_column_that_some_resamples_lack_is_left_out_of_their_mean():
    person, hits = np.arange(6), np.array([[True, True]] * 3 + [[False, True]] * 3)
    scored = np.array([[True, i < 2] for i in range(6)])
    (_, second), mean = intervals(person, hits, scored)
    assert second == {"low": 1.0, "high": 1.0, "people": 2, "cases": 2}
    assert mean is not None
    assert 0.0 <= mean["low"] < 0.75 < mean["high"] <= 1.0


def test_intervals_hold_the_share_and_are_at_its_names():
    person, hits = cases(people=40, each=5)
    names = ["a", "b", "c"]
    found, shares = intervals_by_column(person, hits, names), accuracy_by_column(hits, names)
    assert found.keys() == shares.keys()
    groups = np.arange(len(person)) % 2
    by_group = intervals_by_group(person, hits[:, 0], groups, names)
    of_groups = accuracy_by_group(hits[:, 0], groups, names)
    assert by_group.keys() == of_groups.keys() == {"mean", "a", "b"}
    for intervals_, of in ((found, shares), (by_group, of_groups)):
        for name, share in of.items():
            assert intervals_[name]["low"] < share < intervals_[name]["high"]


def test_the_order_of_cases_does_not_count():
    person, hits = cases(people=30, each=4)
    order = np.random.default_rng(2).permutation(len(person))
    assert intervals(person, hits) == intervals(person[order], hits[order])


def test_cases_that_are_not_scored_do_not_count():
    person, hits = cases(people=30, each=4)
    scored = np.zeros_like(hits)
    scored[::4, 0] = True  # one case of each person
    (first, *others), of_mean = intervals(person, hits, scored)
    assert others == [None, None]
    assert first == of_mean
    assert first is not None
    assert (first["people"], first["cases"]) == (30, 30)
    assert intervals(person, hits, np.zeros_like(hits)) == ([None] * 3, None)


def test_more_people_make_an_interval_narrower():
    def width(people: int) -> float:
        (one, *_), _ = intervals(*cases(people, 3))
        assert one is not None
        return one["high"] - one["low"]

    assert width(1600) == pytest.approx(width(100) / 4, rel=0.3)


def measured(*shares: float) -> Measured:
    interval = {"low": 0.4, "high": 0.6, "people": 50, "cases": 300}
    return Measured(
        which=0,
        label="single",
        wording="",
        seeds=tuple(range(len(shares))),
        results=tuple({"qa": {"mean": share, "other": [share, None]}} for share in shares),
        intervals=tuple({"qa": {"mean": interval}} for _ in shares),
    )


def test_one_seed_has_its_interval_and_several_their_range():
    one, several = measured(0.5).spread("qa", "mean"), measured(0.3, 0.5).spread("qa", "mean")
    assert one is not None
    assert several is not None
    assert (one.low, one.high, one.kind) == (0.4, 0.6, BOOTSTRAP)
    assert (several.low, several.high, several.kind) == (0.3, 0.5, SEEDS)
    assert (several.people, several.cases) == (one.people, one.cases) == (50, 300)


def test_a_share_without_an_interval_has_no_spread():
    assert measured(0.5).spread("qa", "other", 0) is None
    assert measured(0.5, 0.7).spread("qa", "other", 1) is None
    assert measured(0.5).spread("nothing") is None
    lone = measured(0.5, 0.7).spread("qa", "other", 0)
    assert lone is not None
    assert (lone.low, lone.high, lone.people) == (0.5, 0.7, 0)
    assert set(measured(0.5).part("qa").spreads()) == {"mean"}
