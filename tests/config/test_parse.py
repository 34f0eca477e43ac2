"""Parsing of any configuration: types, limits, choices, sections, fields that stand for others."""

import dataclasses

import pytest

from kstore_jax.config.fields import choice, flag, number, section, text
from kstore_jax.config.fields import rows as rows_field
from kstore_jax.config.parse import parse
from kstore_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Head:
    width: int = number(64, 1)
    rate: float = number(0.5, 0.0, 1.0)
    kind: str = choice("linear", "linear", "mlp")

    def __post_init__(self):
        if self.kind == "mlp" and self.width % 2:
            raise UserError(f"width: expected an even number, got {self.width}")


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = text("")
    bias: bool = flag(True)
    grid: tuple = rows_field()
    head: Head = section(Head)

    @staticmethod
    def expand(values: dict) -> dict:
        values = dict(values)
        if values.pop("wide", False):
            values["head"] = {"width": 1024}
        return values


def test_nothing_is_the_default():
    assert parse(Config, {}) == Config()


def test_values_replace_defaults():
    values = {"name": "a", "bias": False, "head": {"width": 1, "rate": 1.0, "kind": "mlp"}}
    with pytest.raises(UserError, match=r"^head\.width: expected an even number, got 1$"):
        parse(Config, values)
    values["head"]["width"] = 2
    assert parse(Config, values) == Config("a", False, (), Head(2, 1.0, "mlp"))


def test_an_int_is_read_as_a_float_and_a_list_as_a_tuple():
    config = parse(Config, {"head": {"rate": 1}, "grid": [("a", 1)]})
    assert config.head.rate == 1.0
    assert type(config.head.rate) is float
    assert config.grid == (("a", 1),)


def test_a_field_may_stand_for_others():
    assert parse(Config, {"wide": True}).head == Head(width=1024)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (5, ": expected fields, got 5"),
        ({"nane": "a"}, "nane: no such field; did you mean 'name'?"),
        ({"head": {"widht": 1}}, "head.widht: no such field; did you mean 'width'?"),
        ({"head": {"x": 1}}, "head.x: no such field; valid: width, rate, kind"),
        ({"head": 5}, "head: expected fields, got 5"),
        ({"name": 5}, "name: expected text, got 5"),
        ({"bias": 1}, "bias: expected true or false, got 1"),
        ({"grid": "a"}, "grid: expected a list, got 'a'"),
        ({"head": {"width": 8.0}}, "head.width: expected a whole number, got 8.0"),
        ({"head": {"width": True}}, "head.width: expected a whole number, got True"),
        ({"head": {"width": None}}, "head.width: expected a whole number, got None"),
        ({"head": {"width": 0}}, "head.width: expected at least 1, got 0"),
        ({"head": {"rate": "1"}}, "head.rate: expected a number, got '1'"),
        ({"head": {"rate": 1.5}}, "head.rate: expected at most 1.0, got 1.5"),
        ({"head": {"rate": float("nan")}}, "head.rate: expected a finite number, got nan"),
        (
            {"head": {"kind": "linaer"}},
            "head.kind: 'linaer' is not a choice; did you mean 'linear'?",
        ),
    ],
)
def test_an_error_names_the_field_and_the_values(values, message):
    with pytest.raises(UserError) as error:
        parse(Config, values)
    assert str(error.value) == message
    assert error.value.status == 2
