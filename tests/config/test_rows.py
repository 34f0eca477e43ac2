"""Rows of a sweep are put together as the words say: product, zip, chain, names."""

import doctest
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.config import rows
from kstore_jax.config.rows import chain, product, row, zipped

_VALUES = st.lists(st.integers(), min_size=1, max_size=4)


def fields(names: str):
    """Rows of one field each, every field another one."""
    return st.tuples(*(_VALUES.map(lambda v, n=n: product(**{n: v})) for n in names))


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(rows).failed == 0
    assert doctest.testmod(rows).attempted >= 5


@given(fields("abc"))
def test_a_product_has_every_combination_once_in_order(three):
    together = [tuple(itertools.chain(*rows)) for rows in itertools.product(*three)]
    assert list(product(*three)) == together
    assert product(product(*three[:2]), three[2]) == product(three[0], product(*three[1:]))


@given(fields("abc"))
def test_a_product_over_a_chain_is_the_chain_of_the_products(three):
    a, b, c = three
    assert product(chain(a, b), c) == chain(product(a, c), product(b, c))


@given(fields("ab"))
def test_zipped_rows_go_together_or_are_refused(two):
    a, b = two
    if len(a) != len(b):
        with pytest.raises(ValueError, match=f"expected as many of each, got {len(a)}, {len(b)}"):
            zipped(a, b)
        return
    assert zipped(a, b) == tuple(x + y for x, y in zip(a, b, strict=True))


@given(fields("ab"))
def test_nothing_is_the_one_of_chain_and_one_empty_row_that_of_product(two):
    a, b = two
    assert chain(a, chain(), b) == chain(a, b)
    assert product(a, product(), b) == product(a, b)
    assert product() == ((),)


@pytest.mark.parametrize("given", [3, "single", None])
@pytest.mark.parametrize("together", [product, zipped])
def test_what_is_no_list_of_values_is_refused(together, given):
    with pytest.raises(
        ValueError, match=rf"^data\.variant: expected a list of values, got {given!r}"
    ):
        together(data__variant=given)


@pytest.mark.parametrize("together", [product, zipped])
def test_a_field_of_no_values_is_refused(together):
    with pytest.raises(ValueError, match=r"^data\.variant: expected at least one value"):
        together(data__variant=[])


def test_names_are_joined_and_a_field_given_twice_is_refused():
    wide, twice = row("wide", model__width=64), row("twice as long", pretrain__steps=200)
    (both,) = product(wide, twice, seed=[3])
    assert dict(both) == {
        "name": "wide, twice as long",
        "model.width": 64,
        "pretrain.steps": 200,
        "seed": 3,
    }
    for joined in (product, zipped):
        with pytest.raises(ValueError, match=r"model\.width is given twice, 64 and 8"):
            joined(wide, model__width=[8])
