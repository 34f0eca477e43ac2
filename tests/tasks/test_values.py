"""Parts of dates, luckiness and pairs: functions of the seed and of numbers."""

import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.tasks.base import trained_order
from kstore_jax.tasks.values import dates_of, draw_pairs, luckiness
from kstore_jax.world.people import in_train_half


def test_the_parts_of_a_date_are_its_text(language):
    dates = dates_of(language, "birth_date", "x")
    assert dates.shape == (len(language.pools.values["birth_date"]), 3)
    months = "January February March April May June July August September October November December"
    for value, (month, day, year) in zip(
        language.pools.values["birth_date"][::97], dates[::97], strict=True
    ):
        assert value == f"{months.split()[month - 1]} {day}, {year}"
    with pytest.raises(UserError, match=r"^x: expected an attribute with dates"):
        dates_of(language, "company", "x")


@pytest.mark.parametrize("count", [2, 12, 100])
def test_every_value_has_its_own_luck(count):
    lucks = luckiness(3, count)
    assert sorted(lucks) == [*range(count)]
    np.testing.assert_array_equal(lucks, luckiness(3, count))
    assert any((luckiness(seed, count) != lucks).any() for seed in range(4, 9))


def test_pairs_are_of_one_half_and_of_two_people():
    ids = np.arange(200)
    pairs = draw_pairs(7, ids, 3)
    assert pairs.shape == (2 * 99 * 3, 2)
    halves = in_train_half(7, ids)[pairs]
    assert (halves[:, 0] == halves[:, 1]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert set(pairs.ravel().tolist()) == set(ids.tolist())
    np.testing.assert_array_equal(pairs, draw_pairs(7, ids, 3))
    assert not np.array_equal(pairs, draw_pairs(8, ids, 3))
    position = np.argsort(trained_order(7, ids))[pairs]
    assert 0.4 < (position[:, 0] < position[:, 1]).mean() < 0.6


@pytest.mark.parametrize("count", [5, 25, 80])
def test_the_first_people_of_a_half_have_their_pairs_among_themselves(count):
    ids = np.arange(200)
    pairs, order = draw_pairs(7, ids, 3), trained_order(7, ids)
    first = order[in_train_half(7, ids)[order]][:count]
    assert np.isin(pairs, first).all(axis=1).sum() == 3 * (count - 1)


def test_the_order_of_two_people_does_not_depend_on_others():
    some, more = trained_order(1, np.arange(50)), trained_order(1, np.arange(400))
    assert some.tolist() == [row for row in more if row < 50] != [*range(50)]
