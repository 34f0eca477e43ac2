"""People are pure functions of (seed, i), with unique names and uniform attributes."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.errors import UserError
from kstore_jax.world.people import draw_people, in_train_half
from kstore_jax.world.pools import load_pools
from kstore_jax.world.schema import BUNDLED_WORLD
from tests.chi_square import assert_uniform
from tests.world.bundled import ATTRIBUTES

MANY = 200_000


@pytest.fixture(scope="module")
def pools():
    return load_pools()


@pytest.fixture(scope="module")
def crowd(pools):
    return draw_people(pools, 0, np.arange(MANY))


def test_full_names_are_unique(crowd):
    assert len(np.unique(crowd.names, axis=0)) == MANY


def test_every_full_name_of_small_pools_belongs_to_one_person(pools_folder):
    pools = load_pools(str(pools_folder(names=7)))
    assert len(np.unique(draw_people(pools, 3, np.arange(343)).names, axis=0)) == 343


@given(
    seed=st.integers(0, 2**64),
    ids=st.lists(st.integers(0, 100_000_000), min_size=1, max_size=6),
    row=st.integers(0, 5),
)
def test_a_person_does_not_depend_on_the_others(seed, ids, row):
    pools = load_pools()  # as an argument a failure would print it in full
    row %= len(ids)
    together = draw_people(pools, seed, np.array(ids)).take(np.array([row]))
    alone = draw_people(pools, seed, np.array([ids[row]]))
    for column in ("ids", "names", "pronouns", "values"):
        assert np.array_equal(getattr(together, column), getattr(alone, column))


def test_worlds_of_two_seeds_are_independent(pools, crowd):
    other = draw_people(pools, 1, np.arange(MANY))
    same = (other.values == crowd.values).mean(axis=0)
    chance = [1 / len(pools.values[a]) for a in ATTRIBUTES[:5]]
    assert np.allclose(same[:5], chance, atol=0.002)
    assert (other.names == crowd.names).all(axis=1).sum() <= 1


def test_work_city_follows_the_company(pools, crowd):
    lines = (BUNDLED_WORLD / "pools" / "companies.txt").read_text().splitlines()
    city_of = dict(line.split("; ") for line in lines)
    for company, city in np.unique(crowd.values[:, 4:], axis=0):
        assert city_of[pools.values["company"][company]] == pools.values["company_city"][city]


@pytest.mark.parametrize("attribute", range(5))
def test_attributes_are_uniform(pools, crowd, attribute):
    size = len(pools.values[ATTRIBUTES[attribute]])
    cells = min(size, 800)  # there are 67 200 birth dates
    assert_uniform(np.bincount(crowd.values[:, attribute] * cells // size, minlength=cells))


@pytest.mark.parametrize("part", range(3))
def test_names_are_uniform(pools, crowd, part):
    size = len(pools.names[part])
    assert_uniform(np.bincount(crowd.names[:, part], minlength=size))


def test_pronouns_are_uniform_and_attributes_independent(pools, crowd):
    assert_uniform(np.bincount(crowd.pronouns, minlength=len(pools.schema.pronouns)))
    majors, birth_cities = crowd.values[:, 3], crowd.values[:, 1]
    assert_uniform(np.bincount(majors * 200 + birth_cities, minlength=100 * 200))


@given(seed=st.integers(0, 2**64), first=st.integers(0, 2**40))
def test_one_of_each_pair_is_in_the_train_half(seed, first):
    ids = 2 * first + np.arange(20)
    in_train = in_train_half(seed, ids)
    assert np.array_equal(in_train[::2], ~in_train[1::2])
    assert np.array_equal(in_train_half(seed, ids[::-1]), in_train[::-1])
    assert in_train_half(seed, int(ids[3])) == in_train[3]


def test_halves_are_independent_of_the_parity_of_the_person():
    assert_uniform(np.bincount(in_train_half(0, np.arange(0, MANY, 2)), minlength=2))


@given(fraction=st.floats(0, 1))
def test_a_fraction_of_the_values_is_evenly_spaced(fraction):
    full, some = load_pools(), load_pools(value_fraction=fraction)
    for attribute in ("birth_city", "university", "major", "company"):
        ours, theirs = some.values[attribute], full.values[attribute]
        assert len(ours) == max(2, round(fraction * len(theirs)))
        indices = [theirs.index(value) for value in ours]
        gaps = np.diff([*indices, indices[0] + len(theirs)])
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1
    headquarters, all_of_them = (p.functions["company_city"] for p in (some, full))
    for company, city in zip(some.values["company"], headquarters, strict=True):
        of_full = all_of_them[full.values["company"].index(company)]
        assert some.values["company_city"][city] == full.values["company_city"][of_full]
    assert len(set(headquarters)) == len(some.values["company_city"])
    dates = [date.replace(",", "").split() for date in some.values["birth_date"]]
    months, days, years = (len(set(words)) for words in zip(*dates, strict=True))
    assert (months, days) == (12, max(2, round(28 * fraction**0.5)))
    assert years == max(2, round(200 * fraction**0.5))
    assert len(set(some.values["birth_date"])) == months * days * years
    assert some.full_name_count == full.full_name_count


@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.2, 0.5, 1.0])
def test_a_fraction_of_the_dates_is_that_fraction_of_their_number(pools, fraction):
    some, full = (len(p.values["birth_date"]) for p in (load_pools("", fraction), pools))
    assert some / full == pytest.approx(fraction, rel=0.06)


@given(fraction=st.floats(0, 1))
def test_a_fraction_of_the_names_is_used(fraction):
    full, some = load_pools(), load_pools(name_fraction=fraction)
    for ours, theirs in zip(some.names, full.names, strict=True):
        assert len(ours) == max(2, round(fraction * len(theirs)))
        assert set(ours) <= set(theirs)
    assert some.values == full.values


@pytest.fixture
def pools_folder(tmp_path):
    """`(names=N) -> folder`: a copy of the bundled world, with N names of each kind unless None."""

    def copy(names: int | None = None):
        folder = tmp_path / "world" / "pools"
        shutil.copytree(BUNDLED_WORLD, folder.parent)
        for kind in ("first", "middle", "last") if names else ():
            path = folder / f"{kind}_names.txt"
            path.write_text("".join(path.read_text().splitlines(True)[:names]))
        return folder.parent

    return copy


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("majors.txt", "Law\n\nArt\n", 2),
        ("majors.txt", "Law\nArt\nLaw\n", 3),
        ("companies.txt", "3M; St. Paul, MN\nNike\n", 2),
        ("companies.txt", "3M; St. Paul, MN\nNike; \n", 2),
        ("companies.txt", "3M; St. Paul, MN\n3M; Dallas, TX\n", 2),
        ("last_names.txt", "Forger\nSm{th\n", 2),
        ("last_names.txt", "Forger\nSm}th\n", 2),
        ("universities.txt", " Yale University\n", 1),
        ("birth_cities.txt", "New  York, NY\n", 1),
        ("first_names.txt", "", None),
        ("first_names.txt", b"Jos\xe9\n", None),
        ("middle_names.txt", None, None),
    ],
)
def test_an_error_in_a_pool_names_the_file_and_line(pools_folder, file, content, line):
    path = pools_folder() / "pools" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        load_pools(str(path.parents[1]))
    where = f"{path}:{line}: " if line else f"{path}: "
    assert str(error.value).startswith(where)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^world\.folder: .*nowhere is not a folder"):
        load_pools(str(tmp_path / "nowhere"))


def test_more_people_than_full_names_are_refused(pools_folder):
    pools = load_pools(str(pools_folder(names=2)))
    draw_people(pools, 0, np.arange(8))
    with pytest.raises(UserError, match=r"^world\.people: 9 people, .* 8 full names"):
        draw_people(pools, 0, np.arange(9))
