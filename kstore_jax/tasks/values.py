"""What tasks compute with: attributes by name, parts of dates, a luckiness of values, pairs of
people.

All are pure functions of the world, its seed and the numbers of people.
"""

import functools
import re
from collections.abc import Sequence

import numpy as np

from kstore_jax.errors import UserError, nearest, shown
from kstore_jax.tasks.base import trained_order
from kstore_jax.world import random
from kstore_jax.world.language import Language
from kstore_jax.world.people import in_train_half
from kstore_jax.world.pools import MONTHS

_DATE = re.compile(rf"({'|'.join(MONTHS)}) (\d{{1,2}}), (\d{{1,4}})")


def attributes_of(language: Language, names: str, field: str) -> list[int]:
    """The attributes of `name+name+...`, by number in the schema.

    Raises:
      UserError: the world lacks one, or one is repeated; begins with `field`.
    """
    existing, several = language.schema.names, names.split("+")
    for name in several:
        if name not in existing:
            raise UserError(
                f"{field}: the world has no attribute {name!r}{nearest(name, existing)}"
            )
        if several.count(name) > 1:
            raise UserError(f"{field}: {name!r} is repeated in {shown(names)}")
    return [existing.index(name) for name in several]


@functools.lru_cache(maxsize=8)
def dates_of(language: Language, name: str, field: str) -> np.ndarray:
    """(values, 3) int64: month from 1, day and year of each value of an attribute.

    Raises:
      UserError: the world lacks it, or its values are no dates; begins with `field`.
    """
    attributes_of(language, name, field)
    values = language.pools.values[name]
    dates = [_DATE.fullmatch(value) for value in values]
    parts = [(MONTHS.index(date[1]) + 1, int(date[2]), int(date[3])) for date in dates if date]
    if len(parts) < len(values):
        other = values[dates.index(None)]
        raise UserError(
            f"{field}: expected an attribute with dates such as {MONTHS[0]} 31, 1999, got {name!r} "
            f"with {shown(other)}"
        )
    return np.array(parts, np.int64)


def luckiness(seed: int, count: int) -> np.ndarray:
    """(count,) int64: a fixed, arbitrary number from 0 to `count` - 1 for each value of an
    attribute, a different one for each (Part 3.2, section 4)."""
    return random.permute_index(count, seed, "luckiness of values", np.arange(count))


def draw_pairs(seed: int, ids: Sequence[int] | np.ndarray, partners: int) -> np.ndarray:
    """Returns pairs of people of one half, as rows (N, 2) of `ids`; a random bit says who is first.

    The partners of a person come before them in `trained_order`. So the pairs within the first
    people of P_train are as many as those about each of these people.
    """
    ids = np.asarray(ids)
    order, halves, pairs = trained_order(seed, ids), in_train_half(seed, ids), []
    for half in (True, False):
        members = order[halves[order] == half]
        later, earlier = members[1:], np.arange(1, len(members))
        for k in range(partners):
            partner = members[random.randint(earlier, seed, "partner of a person", ids[later], k)]
            swaps = random.randint(2, seed, "first of a pair", ids[later], k)[:, None]
            pair = np.stack([later, partner], axis=1)
            pairs.append(np.where(swaps == 1, pair[:, ::-1], pair))
    return np.concatenate(pairs)
