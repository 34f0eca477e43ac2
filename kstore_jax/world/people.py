"""People: each has a unique full name, a pronoun and six attributes (Part 3.1, section 2.1).

Person i is a pure function of `(seed, i)`: independent of the number of people in the world, and
computed without the others.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

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
    """Returns the lines of a UTF-8 text file with one entry a line.

    Raises:
      UserError: the file is missing, unreadable or empty, or has an empty or repeated line.
    """
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
            raise UserError(f"{path}:{number}: {line!r} repeats line {first_seen[line]}")
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
    """The values that people are drawn from.

    Attributes:
      first_names: the first names; `middle_names` and `last_names` likewise.
      values: all values of each attribute. People hold indices into them.
      headquarters: (companies,) the index into `values["company_city"]` of each company's city: the
        work city is a function of the employer.
    """

    first_names: tuple[str, ...]
    middle_names: tuple[str, ...]
    last_names: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    headquarters: np.ndarray

    @property
    def full_name_count(self) -> int:
        """The number of different full names."""
        return len(self.first_names) * len(self.middle_names) * len(self.last_names)


@functools.cache
def load_pools(folder: str = "", value_fraction: float = 1.0, name_fraction: float = 1.0) -> Pools:
    """Reads value pools.

    Args:
      folder: the folder of the pools, in the formats of `pools/README.md`; empty: the bundled ones.
      value_fraction: fraction of each value pool that is used, evenly spaced, at least two values;
        months are always kept.
      name_fraction: likewise of the first, middle and last names.

    Raises:
      UserError: a file is missing, or a line breaks a rule; names the file and line.
    """
    path = pathlib.Path(folder).expanduser() if folder else BUNDLED_POOLS
    if not path.is_dir():
        raise UserError(f"world.pools: {path} is not a folder")
    companies, cities = (
        _evenly_spaced(column, value_fraction) for column in _read_companies(path / "companies.txt")
    )
    distinct_cities = tuple(dict.fromkeys(cities))

    def names(which: str) -> tuple[str, ...]:
        return _evenly_spaced(_read_values(path / f"{which}_names.txt"), name_fraction)

    def values(name: str) -> tuple[str, ...]:
        return _evenly_spaced(_read_values(path / f"{name}.txt"), value_fraction)

    years, days = _evenly_spaced(YEARS, value_fraction), _evenly_spaced(DAYS, value_fraction)
    return Pools(
        first_names=names("first"),
        middle_names=names("middle"),
        last_names=names("last"),
        values={
            "birth_date": tuple(f"{m} {d}, {y}" for y in years for m in MONTHS for d in days),
            "birth_city": values("birth_cities"),
            "university": values("universities"),
            "major": values("majors"),
            "company": companies,
            "company_city": distinct_cities,
        },
        headquarters=np.array([distinct_cities.index(city) for city in cities]),
    )


def _read_companies(path: pathlib.Path) -> tuple[list[str], list[str]]:
    """The companies and the city of each, from lines `Company; City, ST`."""
    companies, cities = [], []
    for number, line in enumerate(read_lines(path), 1):
        company, separator, city = line.partition("; ")
        where = f"{path}:{number}"
        if not separator or not city:
            raise UserError(f"{where}: {line!r} has no city; expected 'Company; City, ST'")
        if company in companies:
            raise UserError(f"{where}: company {company!r} is repeated")
        _check_value(company, where)
        _check_value(city, where)
        companies.append(company)
        cities.append(city)
    return companies, cities


def _evenly_spaced(pool: Sequence[T], fraction: float) -> tuple[T, ...]:
    """A fraction of a pool, evenly spaced, at least two values."""
    count = min(len(pool), max(2, round(fraction * len(pool))))
    return tuple(pool[i * len(pool) // count] for i in range(count))


@dataclasses.dataclass(frozen=True)
class People:
    """N people as columns.

    Attributes:
      ids: (N,) int64.
      names: (N, 3) int64: indices into the first, middle and last names.
      pronouns: (N,) int64: indices into PRONOUNS.
      values: (N, 6) int64: indices into `Pools.values`, in the order of ATTRIBUTES.
    """

    ids: np.ndarray
    names: np.ndarray
    pronouns: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "People":
        """The people in these rows; `rows` are indices or a mask."""
        return People(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))


def check_people_count(pools: Pools, count: int) -> None:
    """Raises UserError where the pools do not make `count` different full names."""
    if count > pools.full_name_count:
        raise UserError(
            f"world.people: {count} people, but the pools make {pools.full_name_count} full names"
        )


def draw_people(pools: Pools, seed: int, ids: np.ndarray) -> People:
    """Returns the people numbered `ids` (N,), in that order.

    Full names are unique without rejection: a keyed bijection maps person i to a full name.
    Attributes are uniform and independent, except that the work city follows the employer.

    Raises:
      UserError: the pools do not make that many full names.
    """
    ids = np.asarray(ids, np.int64)
    check_people_count(pools, int(ids.max(initial=-1)) + 1)
    full_name = random.permute_index(pools.full_name_count, seed, "name", ids)
    full_name, last = np.divmod(full_name, len(pools.last_names))
    first, middle = np.divmod(full_name, len(pools.middle_names))
    values = np.stack(
        [random.randint(len(pools.values[a]), seed, a, ids) for a in ATTRIBUTES], axis=1
    )
    company = values[:, ATTRIBUTES.index("company")]
    values[:, ATTRIBUTES.index("company_city")] = pools.headquarters[company]
    return People(
        ids=ids,
        names=np.stack([first, middle, last], axis=1),
        pronouns=random.randint(len(PRONOUNS), seed, "pronoun", ids),
        values=values,
    )


def in_train_half(seed: int, ids: ArrayLike) -> np.ndarray:
    """Returns whether each person belongs to P_train (bool, the shape of `ids`), else to P_test.

    Of every two people 2k and 2k + 1 a random bit sends one to each half. So the halves are equal,
    and the half of a person does not depend on the number of people.
    """
    ids = np.asarray(ids, np.int64)
    pair_bit = random.randint(2, seed, "half", ids >> 1)
    return (pair_bit ^ (ids & 1)).astype(bool)
