"""Rows of a sweep: product, zip, chain and names."""

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


def test_the_examples_of_the_docstrings_run():
    assert doctest.testmod(rows).failed == 0
    assert doctest.testmod(rows).attempted >= 5


@given(fields("abc"))
def test_a_product_has_every_combination_once_in_order(three):
    expected = [tuple(itertools.chain(*rows)) for rows in itertools.product(*three)]
    assert list(product(*three)) == expected
    assert product(product(*three[:2]), three[2]) == product(three[0], product(*three[1:]))


@given(fields("abc"))
def test_a_product_over_a_chain_is_the_chain_of_the_products(three):
    a, b, c = three
    assert product(chain(a, b), c) == chain(product(a, c), product(b, c))


@given(fields("ab"))
def test_zip_merges_row_by_row_and_refuses_other_lengths(two):
    a, b = two
    if len(a) != len(b):
        with pytest.raises(ValueError, match=f"expected equal lengths, got {len(a)}, {len(b)}"):
            zipped(a, b)
        return
    assert zipped(a, b) == tuple(x + y for x, y in zip(a, b, strict=True))


@given(fields("ab"))
def test_identities_of_chain_and_product(two):
    """No rows for chain, one empty row for product."""
    a, b = two
    assert chain(a, chain(), b) == chain(a, b)
    assert product(a, product(), b) == product(a, b)
    assert product() == ((),)


@pytest.mark.parametrize("values", [3, "single", None])
@pytest.mark.parametrize("combine", [product, zipped])
def test_the_values_of_a_field_must_be_a_list(combine, values):
    message = rf"^data\.variant: expected a list of values, got {values!r}"
    with pytest.raises(ValueError, match=message):
        combine(data__variant=values)


@pytest.mark.parametrize("combine", [product, zipped])
def test_a_field_needs_a_value(combine):
    with pytest.raises(ValueError, match=r"^data\.variant: expected at least one value"):
        combine(data__variant=[])


def test_names_are_joined_and_other_fields_may_be_set_once():
    wide, twice = row("wide", model__width=64), row("twice as long", pretrain__steps=200)
    (both,) = product(wide, twice, seed=[3])
    assert dict(both) == {
        "name": "wide, twice as long",
        "model.width": 64,
        "pretrain.steps": 200,
        "seed": 3,
    }
    for combine in (product, zipped):
        with pytest.raises(ValueError, match=r"model\.width is set twice, to 64 and 8"):
            combine(wide, model__width=[8])
