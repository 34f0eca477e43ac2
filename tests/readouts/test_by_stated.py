"""P-probing by what was stated before: shares, intervals and measurements are of the same cases."""

import numpy as np
import pytest

from kstore_jax.intervals import intervals
from kstore_jax.readouts import by_stated
from kstore_jax.readouts.base import READOUTS
from kstore_jax.readouts.measured import Measured, find

PEOPLE, EACH = 40, 3


@pytest.fixture(scope="module")
def cases() -> dict[str, np.ndarray]:
    """Three texts about each person with a pair `a`, `b` in this order, and `c` before or after it;
    `b` is known mostly after `a`."""
    rng = np.random.default_rng(0)
    texts = PEOPLE * EACH
    first = rng.random(texts) < 0.5  # whether c is first
    orders = np.where(first[:, None], [2, 0, 1], [0, 1, 2])
    stated = np.zeros((texts, 3, 3), bool)
    for q in range(3):
        for before in range(q):
            stated[np.arange(texts), q, orders[:, before]] = True
    right = np.repeat(rng.random(PEOPLE) < 0.5, EACH)[:, None, None] & ~stated
    right[:, :, 1] |= stated[:, :, 0]
    right ^= rng.random(right.shape) < 0.1
    return {
        "person": np.repeat(np.arange(PEOPLE), EACH),
        "text": np.arange(texts),
        "active": ~stated,
        "hits": right,
        "stated": stated,
        "pairs": np.array([["a", "b"]]),
        "names": np.array(["a first", "b first", "c first"]),
    }


@pytest.fixture(scope="module")
def result(cases) -> dict:
    return by_stated.scores(cases)


def test_cells_are_by_the_set_of_attributes_stated_before(cases, result):
    assert result["pairs"] == [["a", "b"]]
    cells = {tuple(c["stated"]): c for c in result["by_stated"]["first"]["b"]}
    assert {*cells} == {(), ("a",), ("c",), ("a", "c")}
    for stated, cell in cells.items():
        codes = [name in stated for name in "abc"]
        read = (cases["stated"] == codes).all(-1) & cases["active"][:, :, 1]
        assert cell["readings"] == read.sum()
        assert cell["right"] == pytest.approx(cases["hits"][:, :, 1][read].mean())
    assert cells["a",]["right"] > 0.7 > 0.6 > cells[()]["right"]


def test_every_share_has_its_interval_over_people_and_its_measurements(cases, result):
    found = by_stated.cell_intervals(cases)
    single = {(m.metric, m.attribute): m for m in by_stated.measurements(cases)}
    shares = by_stated.shares(result)
    assert len(shares) == len({(s.metric, s.attribute) for s in shares}) == len(single) == 2 + 4 + 3
    for share in shares:
        value, interval = find(result, share.path), find(found, share.path)
        of = single[share.metric, share.attribute]
        assert of.right.mean() == pytest.approx(value)
        (expected,), _ = intervals(of.person, of.right[:, None])
        assert interval == expected
        assert interval["low"] < value < interval["high"]
        assert interval["people"] == len(np.unique(of.person))
    assert "by_stated.first after a and c" in {share.metric for share in shares}


def test_the_table_of_pairs_has_the_interval_of_all_readings_of_a_side(cases, result):
    found = {"by_pair": by_stated.cell_intervals(cases)["by_pair"]}
    group = Measured(0, "couple", "", (0,), (result,), intervals=(found,))
    before, after = by_stated.pair_lines(group)
    assert set(before.ends) == {"mean", "a", "b"}
    assert set(after.ends) == {"mean", "b"}  # the first of a pair is never read after the second
    for line, side in ((before, False), (after, True)):
        read = cases["active"][:, :, 1] & (cases["stated"][:, :, 0] == side)
        right = cases["hits"][:, :, 1]
        assert line.shares["b"] == pytest.approx(right[read].mean())
        person = cases["person"][np.nonzero(read)[0]]
        (expected,), _ = intervals(person, right[read][:, None])
        assert expected is not None
        assert line.ends["b"] == pytest.approx((expected["low"], expected["high"]), abs=0.02)
        low, high = line.ends["mean"]
        mean = line.shares["mean"]
        assert mean is not None
        assert low < mean < high


def test_several_seeds_have_their_range_in_the_table_of_pairs(cases, result):
    other = by_stated.scores({**cases, "hits": ~cases["hits"]})
    group = Measured(0, "couple", "", (0, 1), (result, other), intervals=({}, {}))
    _, after = by_stated.pair_lines(group)
    shares = [by_stated.pair_lines(Measured(0, "", "", (0,), (r,)))[1] for r in (result, other)]
    assert after.ends["b"] == tuple(sorted(line.shares["b"] or 0.0 for line in shares))


def test_probes_of_other_texts_have_none(cases):
    plain = {name: x for name, x in cases.items() if name not in ("stated", "pairs")}
    assert set(READOUTS["p_probe"].intervals(plain)) == {"first", "whole"}
    metrics = {m.metric for m in READOUTS["p_probe"].measurements(plain)}
    assert metrics == {"first"}
    both = {m.metric for m in READOUTS["p_probe"].measurements(cases)}
    assert both > metrics
