"""Draws are pure functions of their indices, and uniform."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.world import random
from tests.chi_square import assert_uniform

SEEDS = st.integers(-(2**70), 2**70)
INDICES = st.lists(st.integers(0, 2**40), min_size=1, max_size=8)


@given(n=st.integers(1, 3000), seed=SEEDS)
def test_permute_index_is_a_bijection(n, seed):
    assert np.array_equal(np.sort(random.permute_index(n, seed, "p", np.arange(n))), np.arange(n))


@pytest.mark.parametrize("n", [4**8 - 1, 4**8, 4**8 + 1, 100_003])
def test_permute_index_is_a_bijection_around_a_power_of_four(n):
    assert np.array_equal(np.sort(random.permute_index(n, 1, "p", np.arange(n))), np.arange(n))


def test_permute_index_is_uniform_in_a_large_domain():
    # As many full names as the bundled pools make; four rounds are too few on a handful of items.
    n = 160_000_000
    images = np.array([random.permute_index(n, seed, "p", [0, 1]) for seed in range(1500)])
    for of_index in (*images.T, (images[:, 1] - images[:, 0]) % n):
        assert_uniform(np.bincount(of_index * 50 // n, minlength=50))


@given(n=st.integers(1, 10**8), seed=SEEDS, data=st.data())
def test_permute_index_does_not_depend_on_the_other_indices(n, seed, data):
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=6)))
    together = random.permute_index(n, seed, "p", index)
    alone = [random.permute_index(n, seed, "p", int(i)) for i in index]
    assert [image.shape for image in alone] == [()] * len(index)
    assert together.tolist() == alone
    assert np.array_equal(random.permute_index(n, seed, "p", index[:, None])[:, 0], together)


@given(seed=SEEDS, rows=INDICES, columns=INDICES)
def test_draws_do_not_depend_on_the_shape_of_the_indices(seed, rows, columns):
    table = random.randint(1000, seed, "p", np.array(rows)[:, None], np.array(columns))
    assert table.shape == (len(rows), len(columns))
    assert table.tolist() == [
        [random.randint(1000, seed, "p", r, c) for c in columns] for r in rows
    ]
    across = random.randint(1000, seed, "p", np.array(rows), columns[0])
    assert np.array_equal(across, table[:, 0])


@given(seed=SEEDS)
def test_seed_purpose_index_and_their_order_each_change_the_draw(seed):
    drawn = {
        int(bits)
        for bits in (
            random.bits(seed, "p", 1, 2),
            random.bits(seed + 1, "p", 1, 2),
            random.bits(seed, "q", 1, 2),
            random.bits(seed, "p", 2, 1),
            random.bits(seed, "p", 1, 3),
            random.bits(seed, "p", 1),
            random.bits(seed, "p", 1, 2, 0),
        )
    }
    assert len(drawn) == 7


@pytest.mark.parametrize(("n", "cells"), [(2, 2), (3, 3), (1000, 1000), (2**31 - 1, 1000)])
def test_randint_is_uniform(n, cells):
    drawn = random.randint(n, 0, "p", np.arange(200_000))
    assert drawn.min() >= 0
    assert drawn.max() < n
    assert_uniform(np.bincount(drawn * cells // n, minlength=cells))


def test_neighbouring_draws_are_independent():
    drawn = random.randint(10, 0, "p", np.arange(100)[:, None], np.arange(1000))
    for first, second in ((drawn[:, :-1], drawn[:, 1:]), (drawn[:-1], drawn[1:])):
        assert_uniform(np.bincount((first * 10 + second).ravel(), minlength=100))


@given(n=st.integers(1, 500), seed=SEEDS, index=st.integers(0, 2**40))
def test_a_permutation_is_a_pure_function(n, seed, index):
    order = random.permutation(n, seed, "p", index)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, random.permutation(n, seed, "p", index))


def test_permutations_differ_by_seed_purpose_and_index():
    orders = [(0, "p", 0), (1, "p", 0), (0, "q", 0), (0, "p", 1)]
    assert len({tuple(random.permutation(50, *key)) for key in orders}) == 4


def test_permutations_are_uniform():
    orders = np.array([random.permutation(8, 0, "p", index) for index in range(2000)])
    for at_position in orders.T:
        assert_uniform(np.bincount(at_position, minlength=8))
