"""The configuration of a world: the people, their facts and their texts."""

import dataclasses

from kstore_jax.config.fields import number, path


@dataclasses.dataclass(frozen=True)
class World:
    """People and texts.

    In the paper 333 of 100,000 people share a university, 250 a first name and 100 a last name, so
    only the full name identifies a person. `value_fraction` and `name_fraction` keep such counts
    in smaller worlds.
    """

    people: int = number(100_000, 2)
    """People with biographies and questions."""
    celebrities: int = number(0, 0)
    """Further people, numbered after the others, whose questions are trained while the others' are
    held out (Part 3.1, section 6); 0: none."""
    seed: int = number(0, 0, 2**63 - 1)
    """Seed of people and texts; follows `seed` unless it is set."""
    folder: str = path("")
    """Folder of the world (`world.toml`, pools or a table, templates, questions); empty: the
    bundled one; `bioD(K,C,D,L,T)`: K attributes of C of D random strings, each of L of T symbols
    (Part 3.3)."""
    value_fraction: float = number(1.0, 0.0, 1.0)
    """Fraction of the values of each pool that is used, evenly spaced, at least two values. Of
    dates, its square root of the years and of the days. Tables and random strings are always used
    whole."""
    name_fraction: float = number(1.0, 0.0, 1.0)
    """Fraction of the pool of each part of a name that is used, evenly spaced, at least two
    values."""
