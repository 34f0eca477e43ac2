"""People: each has a unique full name, a pronoun and attributes (Part 3.1, section 2.1).

Person i is a pure function of `(seed, i)`: independent of the number of people in the world, and
computed without the others.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from kstore_jax.errors import UserError
from kstore_jax.world import random
from kstore_jax.world.pools import Pools, StringValues


@dataclasses.dataclass(frozen=True)
class People:
    """N people as columns.

    Attributes:
      ids: (N,) int64.
      names: (N, P) int64: indices into the parts of names, `Pools.names`.
      pronouns: (N,) int64: indices into the pronouns of the schema; 0 where it has none.
      values: (N, A) int64: indices into `Pools.values`, in the order of the schema.
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
    if count > (most := pools.full_name_count):
        limit = f"the pools make {most} full names"
        if pools.name_rows is not None:
            limit = f"{pools.schema.table} has {most} rows"
        raise UserError(f"world.people: {count} people, but {limit}")


def draw_people(pools: Pools, seed: int, ids: np.ndarray) -> People:
    """Returns the people numbered `ids` (N,), in that order.

    Full names are unique without rejection: a keyed bijection maps person i to a full name.
    Attributes are uniform and independent, except where another attribute determines one. In a
    world with a table, person i is row i.

    Raises:
      UserError: the pools do not make that many full names.
    """
    ids = np.asarray(ids, np.int64)
    check_people_count(pools, int(ids.max(initial=-1)) + 1)
    schema, by_name = pools.schema, {}
    for name in schema.names:
        if name in pools.columns:
            by_name[name] = pools.columns[name][ids]
        elif isinstance(pool := pools.values[name], StringValues):
            by_name[name] = pool.draw(seed, name, ids)
        elif name not in pools.functions:
            by_name[name] = random.randint(len(pools.values[name]), seed, name, ids)
    for attribute in schema.attributes:
        if of := attribute.function_of:
            by_name[attribute.name] = pools.functions[attribute.name][by_name[of]]
    return People(
        ids=ids,
        names=_draw_names(pools, seed, ids),
        pronouns=random.randint(max(1, len(schema.pronouns)), seed, "pronoun", ids),
        values=np.stack([by_name[name] for name in schema.names], axis=1),
    )


def _draw_names(pools: Pools, seed: int, ids: np.ndarray) -> np.ndarray:
    """(N, P): the parts of each full name."""
    if pools.name_rows is not None:
        return pools.name_rows[ids]
    full_name = random.permute_index(pools.full_name_count, seed, "name", ids)
    return np.stack(np.unravel_index(full_name, [len(part) for part in pools.names]), axis=1)


def full_names(pools: Pools, people: People) -> list[str]:
    """The full name of each person."""
    return [
        " ".join(part[i] for part, i in zip(pools.names, row, strict=True))
        for row in people.names.tolist()
    ]


def value_texts(pools: Pools, people: People) -> list[tuple[str, ...]]:
    """The values of each person as text, in the order of the schema."""
    rows: list[list[int]] = people.values.tolist()
    pool_of = pools.values.values()
    return [tuple(pool[i] for pool, i in zip(pool_of, row, strict=True)) for row in rows]


def in_train_half(seed: int, ids: ArrayLike) -> np.ndarray:
    """Returns whether each person belongs to P_train (bool, the shape of `ids`), else to P_test.

    Of every two people 2k and 2k + 1 a random bit sends one to each half. So the halves are equal,
    and the half of a person does not depend on the number of people.
    """
    ids = np.asarray(ids, np.int64)
    pair_bit = random.randint(2, seed, "half", ids >> 1)
    return (pair_bit ^ (ids & 1)).astype(bool)
