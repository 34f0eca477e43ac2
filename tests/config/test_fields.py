"""Fields of a configuration: documentation, and which of them affect results."""

import dataclasses
import doctest

from kstore_jax.config import fields
from kstore_jax.config.fields import (
    docs_of,
    fields_of,
    flatten,
    identity_of,
    number,
    section,
    types_of,
)
from kstore_jax.pipeline.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Base:
    steps: int = number(1, 1)
    """Optimizer
    updates."""
    every: int = number(2, 1, affects_result=False)
    """Steps between checkpoints."""


@dataclasses.dataclass(frozen=True)
class Config(Base):
    """Not the documentation of a field."""

    steps: int = number(3, 1)
    """Steps of this one."""
    base: Base = section(Base)
    devices: Base = section(Base, affects_result=False)


@dataclasses.dataclass(frozen=True)
class Narrow(Base):
    width: int = number(1, 1)


@dataclasses.dataclass(frozen=True)
class Undocumented:
    base: Narrow = section(Narrow)


def test_the_example_of_the_docstring_runs():
    results = doctest.testmod(fields)
    assert results.failed == 0 < results.attempted


def test_docs_are_the_strings_below_the_fields_inherited_ones_included():
    assert docs_of(Base) == {"steps": "Optimizer updates.", "every": "Steps between checkpoints."}
    assert docs_of(Config) == {
        "steps": "Steps of this one.",
        "every": "Steps between checkpoints.",
    }


def test_identity_leaves_out_what_does_not_affect_results():
    plain = fields.as_dict(Config())
    assert plain["devices"] == plain["base"] == {"steps": 1, "every": 2}
    assert fields.identity(Config()) == {"steps": 3, "base": {"steps": 1}}
    unknown = {**plain, "retired": {"every": 1}}
    assert identity_of(Config, unknown) == {
        "steps": 3,
        "base": {"steps": 1},
        "retired": {"every": 1},
    }


def test_flatten_joins_names_by_dots():
    assert flatten({"a": {"b": {"c": 1}, "d": ()}, "e": 2}) == {"a.b.c": 1, "a.d": (), "e": 2}


def undocumented(kind: type, path: str = "") -> set[str]:
    """The fields without documentation, by dotted name; sections need none."""
    types, missing = types_of(kind), set()
    for name in fields_of(kind):
        if dataclasses.is_dataclass(types[name]):
            missing |= undocumented(types[name], f"{path}{name}.")
        elif name not in docs_of(kind):
            missing.add(path + name)
    return missing


def test_every_field_of_an_experiment_is_documented():
    assert undocumented(Experiment) == set()
    assert undocumented(Undocumented) == {"base.width"}
