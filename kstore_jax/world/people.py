"""What is true: person i has a unique name and six attributes (Part 3.1, section 2.1).

Everything about person i is computed from `(seed, i)`; it does not depend on how many people the
world holds, and costs no memory for the others.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from kstore_jax.errors import UserError
from kstore_jax.world import random

ATTRIBUTES = ("birth_date", "birth_city", "university", "major", "company", "company_city")
PRONOUNS = ("she", "he", "they")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
YEARS = range(1900, 2100)
DAYS = range(1, 29)
T = TypeVar("T")
BUNDLED_POOLS = pathlib.Path(__file__).parent / "pools"


def read_lines(path: pathlib.Path) -> tuple[str, ...]:
    """The lines of a text file of one entry a line; refuses what is missing, empty or doubled."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    if not lines:
        raise UserError(f"{path}: is empty; expected one entry a line")
    first_seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{path}:{number}: empty line; expected one entry a line")
        if line in first_seen:
            raise UserError(f"{path}:{number}: {line!r} stands already on line {first_seen[line]}")
        first_seen[line] = number
    return tuple(lines)


def _read_values(path: pathlib.Path) -> tuple[str, ...]:
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        _check_value(line, f"{path}:{number}")
    return lines


def _check_value(value: str, where: str) -> None:
    if not (value[:1].isalnum() and value[-1:].isalnum()):
        raise UserError(f"{where}: {value!r} must begin and end with a letter or a digit")
    if "{" in value or "}" in value or "  " in value:
        raise UserError(f"{where}: {value!r} must hold no braces and no double spaces")


@dataclasses.dataclass(frozen=True, eq=False)
class Pools:
    """The values people are drawn from.

    `values[attribute]` lists every value of that attribute; people hold indices into it.
    `headquarters[c]` is the index into `values["company_city"]` of the city of company c: the
    work city is a function of the employer.
    """

    first_names: tuple[str, ...]
    middle_names: tuple[str, ...]
    last_names: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    headquarters: np.ndarray

    @property
    def full_name_count(self) -> int:
        """How many different full names there are."""
        return len(self.first_names) * len(self.middle_names) * len(self.last_names)


@functools.cache
def load_pools(folder: str = "", value_fraction: float = 1.0, name_fraction: float = 1.0) -> Pools:
    """A share of the values and of the first, middle and last names in `folder`, the bundled ones
    when empty; all months.

    Raises:
      UserError: a line is not what it should be; names the file and line.
    """
    path = pathlib.Path(folder).expanduser() if folder else BUNDLED_POOLS
    if not path.is_dir():
        raise UserError(f"world.pools: {path} is not a folder")
    companies, cities = [], []
    for number, line in enumerate(read_lines(path / "companies.txt"), 1):
        company, separator, city = line.partition("; ")
        where = f"{path / 'companies.txt'}:{number}"
        if not separator or not city:
            raise UserError(f"{where}: {line!r} has no city; expected 'Company; City, ST'")
        if company in companies:
            raise UserError(f"{where}: company {company!r} stands there already")
        _check_value(company, where)
        _check_value(city, where)
        companies.append(company)
        cities.append(city)
    companies, cities = (
        _evenly_spaced(companies, value_fraction),
        _evenly_spaced(cities, value_fraction),
    )
    distinct = tuple(dict.fromkeys(cities))
    years, days = _evenly_spaced(YEARS, value_fraction), _evenly_spaced(DAYS, value_fraction)
    names = (f"{which}_names" for which in ("first", "middle", "last"))
    dates = tuple(f"{month} {day}, {year}" for year in years for month in MONTHS for day in days)
    return Pools(
        **{
            name: _evenly_spaced(_read_values(path / f"{name}.txt"), name_fraction)
            for name in names
        },
        values={
            "birth_date": dates,
            "birth_city": _evenly_spaced(_read_values(path / "birth_cities.txt"), value_fraction),
            "university": _evenly_spaced(_read_values(path / "universities.txt"), value_fraction),
            "major": _evenly_spaced(_read_values(path / "majors.txt"), value_fraction),
            "company": companies,
            "company_city": distinct,
        },
        headquarters=np.array([distinct.index(city) for city in cities]),
    )


def _evenly_spaced(pool: Sequence[T], share: float) -> tuple[T, ...]:
    """A share of a pool, evenly from all over it, two at least."""
    count = min(len(pool), max(2, round(share * len(pool))))
    return tuple(pool[i * len(pool) // count] for i in range(count))


@dataclasses.dataclass(frozen=True)
class People:
    """Some people, as columns of N rows.

    ids (N,); names (N, 3) indices into first, middle and last names; pronouns (N,) indices into
    PRONOUNS; values (N, 6) indices into `pools.values`, in the order of ATTRIBUTES; all int64.
    """

    ids: np.ndarray
    names: np.ndarray
    pronouns: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: np.ndarray) -> "People":
        """Some of these people, by their place here."""
        return People(*(getattr(self, f.name)[which] for f in dataclasses.fields(self)))


def check_people_count(pools: Pools, size: int) -> None:
    """Raises UserError where the pools do not make `size` different full names."""
    if size > pools.full_name_count:
        raise UserError(
            f"world.people: {size} people, but the pools make {pools.full_name_count} full names"
        )


def draw_people(pools: Pools, seed: int, ids: np.ndarray) -> People:
    """The people numbered `ids` (N,), in that order.

    Names are unique over the whole space of full names: a keyed permutation of the index, so there
    is no rejection. Attributes are uniform and independent, the work city follows the employer.

    Raises:
      UserError: an index lies beyond the number of full names.
    """
    ids = np.asarray(ids, np.int64)
    check_people_count(pools, int(ids.max(initial=-1)) + 1)
    place = random.permute_index(pools.full_name_count, seed, "name", ids)
    place, last = np.divmod(place, len(pools.last_names))
    first, middle = np.divmod(place, len(pools.middle_names))
    values = np.stack(
        [random.randint(len(pools.values[a]), seed, a, ids) for a in ATTRIBUTES], axis=1
    )
    values[:, ATTRIBUTES.index("company_city")] = pools.headquarters[
        values[:, ATTRIBUTES.index("company")]
    ]
    return People(
        ids=ids,
        names=np.stack([first, middle, last], axis=1),
        pronouns=random.randint(len(PRONOUNS), seed, "pronoun", ids),
        values=values,
    )


def in_train_half(seed: int, ids: np.ndarray) -> np.ndarray:
    """Whether each person belongs to P_train (bool, the shape of `ids`); the rest are P_test.

    Of every two people 2k and 2k + 1 a keyed bit sends one to each half, so the halves are equal
    and a person's half does not depend on the size of the world.
    """
    ids = np.asarray(ids, np.int64)
    pair_bit = random.randint(2, seed, "half", ids >> 1)
    return (pair_bit ^ (ids & 1)).astype(bool)
