"""Registries of plug-ins, and the fields they fill."""

import dataclasses
import doctest
import pathlib
import sys
from typing import Any

import pytest

from kstore_jax.config import registry
from kstore_jax.config.fields import as_dict, defaults, identity, number, section
from kstore_jax.config.parse import parse
from kstore_jax.config.registry import MissingPlugin, Registry, group, import_plugins, one_of
from kstore_jax.errors import UserError

RULES = Registry("rule")


@dataclasses.dataclass(frozen=True)
class Beta:
    beta: float = number(0.9, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Nothing:
    pass


@RULES.register
class Momentum:
    name, Config = "momentum", Beta


@RULES.register
class Plain:
    name, Config = "plain", Nothing


@dataclasses.dataclass(frozen=True)
class Training:
    steps: int = number(1, 1)
    rule: Any = one_of(RULES, "momentum")


@dataclasses.dataclass(frozen=True)
class Config:
    training: Training = section(Training)
    rules: Any = group(RULES)


def test_the_example_of_the_docstring_runs():
    results = doctest.testmod(registry)
    assert results.failed == 0 < results.attempted


def test_a_chosen_entry_is_its_name_and_its_own_fields():
    assert as_dict(Training()) == {"steps": 1, "rule": "momentum", "momentum": {"beta": 0.9}}
    plain = parse(Training, {"rule": "plain", "momentum": {"beta": 7.0}})
    assert plain.rule == Nothing()
    assert identity(plain) == {"steps": 1, "rule": "plain"}
    chosen = parse(Training, {"momentum": {"beta": 0.5}})
    assert chosen.rule == Beta(0.5)
    assert parse(Training, as_dict(chosen)) == chosen
    assert RULES.of(chosen.rule).name == "momentum"
    assert hash(chosen) != hash(plain)


def test_a_bad_choice_or_field_is_named():
    with pytest.raises(UserError, match=r"training\.rule: 'plane' is not a choice.*plain"):
        parse(Config, {"training": {"rule": "plane"}})
    with pytest.raises(UserError, match=r"^training\.momentum\.beta: expected at most 1.0"):
        parse(Config, {"training": {"momentum": {"beta": 2.0}}})
    with pytest.raises(UserError, match=r"^rules\.momentum\.bet: no such field"):
        parse(Config, {"rules": {"momentum": {"bet": 2.0}}})


def test_defaults_have_the_fields_of_every_choice():
    assert defaults(Config) == {
        "training": {"steps": 1, "rule": "momentum", "momentum": {"beta": 0.9}},
        "rules": {"momentum": {"beta": 0.9}, "plain": {}},
    }


def test_an_entry_may_come_later_and_go():
    rules = Registry("rule")
    rules.register(Momentum)

    @dataclasses.dataclass(frozen=True)
    class Late:
        rules: Any = group(RULES)

    @dataclasses.dataclass(frozen=True)
    class Own:
        own: int = number(3, 1)

    class Third:
        name, Config = "third", Own

    RULES.register(Third)
    assert parse(Late, {"rules": {"third": {"own": 4}}}).rules.third.own == 4
    RULES.unregister("third")
    with pytest.raises(UserError, match=r"^rules\.third: no such field"):
        parse(Late, {"rules": {"third": {"own": 4}}})


def test_two_entries_differ_in_name_and_configuration():
    rules = Registry("rule")
    rules.register(Momentum)
    rules.register(Momentum)  # a module that is reloaded

    class Double:
        name, Config = "momentum", Nothing

    class SameFields:
        name, Config = "other", Beta

    for cls in (Double, SameFields):
        with pytest.raises(ValueError, match="momentum has the same name or Config"):
            rules.register(cls)


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    """The current folder, empty, and no other module path than before at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.mark.parametrize("taken", ["pretrain", "items", "class", "logit-lens", ""])
def test_names_of_other_things_are_refused(taken):
    rules = Registry("rule", reserved=("pretrain",))
    with pytest.raises(ValueError, match=f"^rule '?{taken}"):
        rules.register(type("Taken", (), {"name": taken, "Config": Nothing}))


def test_modules_of_plugins_are_imported_from_the_current_folder_and_others(here):
    (here / "a_plugin_of_mine.py").write_text("VALUE = 1\n")
    (here / "plugins").mkdir()
    (here / "plugins" / "another_of_mine.py").write_text("import a_plugin_of_mine\n")
    before = [*sys.path]
    import_plugins(["a_plugin_of_mine"])
    with pytest.raises(MissingPlugin, match=r"^plugins: another_of_mine: no such module$"):
        import_plugins(["another_of_mine"])
    import_plugins(["another_of_mine"], [str(here / "plugins")])
    assert sys.path == before  # a file there hides no package later


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("from a_broken_plugin import X", "ImportError: cannot import name 'X' from partially"),
    ],
)
def test_a_plugin_that_fails_is_named(here, content, message):
    (here / "a_broken_plugin.py").write_text(content)
    with pytest.raises(UserError, match=f"^plugins: a_broken_plugin: {message}") as error:
        import_plugins(["a_broken_plugin"])
    assert not isinstance(error.value, MissingPlugin)


@pytest.mark.parametrize("names", [[3], "lens", 3])
def test_plugins_are_names_of_modules(names):
    with pytest.raises(UserError, match=r"^plugins: expected a list of names, got "):
        import_plugins(names)
    with pytest.raises(UserError, match=r"^plugin_folders: expected a list of names, got "):
        import_plugins([], names)
