"""Reads the command line: flags, and a configuration file with overridden fields."""

import itertools
import pathlib
import re
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from kstore_jax.errors import UserError, nearest

_HERE = pathlib.Path(__file__).parents[1]


def configs_folder() -> pathlib.Path:
    """The folder of the configuration files: in the wheel, or in the checkout."""
    installed = _HERE / "configs"
    return installed if installed.is_dir() else _HERE.parent / "configs"


_FLAGS = {
    "workdir": (flags.DEFINE_string, "folder of the run", {}),
    "cache": (flags.DEFINE_string, "folder of the stages, WORKDIR/stages unless given", {}),
    "workers": (flags.DEFINE_integer, "processes", {"lower_bound": 1}),
    "person": (flags.DEFINE_integer, "whom to show", {"lower_bound": 0}),
    "run": (flags.DEFINE_string, "folder of a run or of a pretrain stage", {}),
    "format": (flags.DEFINE_string, "format of the model", {}),
    "json": (flags.DEFINE_bool, "print JSON", {}),
    "beam": (flags.DEFINE_integer, "width of the beam", {"lower_bound": 1}),
    "show": (flags.DEFINE_integer, "answers to print", {"lower_bound": 0}),
    "row": (flags.DEFINE_integer, "one row of a sweep", {"lower_bound": 0}),
    "dry-run": (flags.DEFINE_bool, "only say what is to be done", {}),
    "distributed": (flags.DEFINE_bool, "this process is one of several of one run", {}),
    "together": (flags.DEFINE_integer, "models trained in one program", {"lower_bound": 1}),
    "shard": (flags.DEFINE_string, "the share of the rows of one of several tasks", {}),
    "drop": (flags.DEFINE_bool, "take out the rows of WORKDIR that are not asked for", {}),
    "keep": (flags.DEFINE_list, "folders of the sweeps that stay", {}),
    "remove": (flags.DEFINE_bool, "remove what is listed", {}),
    "pools": (flags.DEFINE_bool, "show the pools", {}),
    "out": (flags.DEFINE_string, "folder to write to", {}),
    "server": (flags.DEFINE_string, "address of a server of OpenAI's chat protocol", {}),
    "model": (flags.DEFINE_string, "name of a model of the server", {}),
    "items": (flags.DEFINE_string, "JSONL of texts and questions", {}),
    "concurrency": (flags.DEFINE_integer, "requests at a time", {"lower_bound": 1}),
    "attempts": (flags.DEFINE_integer, "answers a text", {"lower_bound": 1}),
}


def define_flags(**defaults: str | int | None) -> flags.FlagValues:
    """Defines the flags of a command, with their defaults."""
    values = flags.FlagValues()
    values.set_gnu_getopt()
    for name, default in defaults.items():
        define, what, limits = _FLAGS[name]
        define(name, default, what, flag_values=values, **limits)
    return values


def parse_folders(argv: Sequence[str], values: flags.FlagValues) -> list[pathlib.Path]:
    """Reads the flags of a command that takes folders; returns the folders."""
    try:
        left = values(["kstore", *argv])[1:]
    except flags.Error as error:
        raise UserError(_in_one_line(error, argv, values)) from None
    _check_values(argv, values)
    return [pathlib.Path(folder) for folder in left]


def parse_flags(argv: Sequence[str], values: flags.FlagValues) -> None:
    """Reads the flags of a command without further arguments."""
    if left := parse_folders(argv, values):
        raise UserError(f"unexpected argument {str(left[0])!r}")


def require_flags(values: flags.FlagValues, **examples: str) -> None:
    """Raises UserError where a flag is not given."""
    for name, example in examples.items():
        if not getattr(values, name):
            raise UserError(f"--{name} is missing; expected one such as {example}")


def parse_config(
    argv: Sequence[str], values: flags.FlagValues, config: pathlib.Path | None
) -> tuple[ml_collections.ConfigDict, set[str]]:
    """Reads the flags of a command with a configuration; its default file is `config`.

    Returns: the configuration, and the fields that the command line sets.

    Raises:
      UserError: a flag, a field, its value or the file is wrong.
    """
    if config is None and not any(re.match(r"--?config(=|$)", a) for a in argv):
        raise UserError("--config is missing; expected a file such as configs/quickstart.py")
    try:
        config_flags.DEFINE_config_file(
            "config",
            str(config) if config else None,
            "FILE.py[:ARGUMENT]",
            flag_values=values,
            sys_argv=["kstore", *argv],
        )
        left = values(["kstore", *argv])[1:]
        given = values.config
        loaded = hasattr(given, "to_dict")  # raises what went wrong while the file was loaded
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(_in_one_line(error, argv, values)) from None
    except Exception as error:  # a configuration file is a program and may raise anything
        raise UserError(f"--config: {type(error).__name__}: {error}") from error
    _check_values(argv, values)
    if left:
        raise UserError(f"unexpected argument {left[0]!r}")
    if not loaded:
        raise UserError(f"--config: get_config() returned {given!r}; expected a ConfigDict")
    return given, {match[1] for a in argv if (match := re.match(r"--?config\.([\w.]+)", a))}


def _in_one_line(error: Exception, argv: Sequence[str], values: flags.FlagValues) -> str:
    """An error of absl or ml_collections as one line that names its flag."""
    _check_values(argv, values)
    if isinstance(error, flags.UnrecognizedFlagError):
        name = error.flagname
        return f"--{name}: no such flag{nearest(name, (v for v in values if '.' not in v))}"
    text = str(error)
    if "no attribute 'get_config'" in text:
        given = (a.partition("=")[2] for a in argv if re.match(r"--?config=", a))
        return f"--config: {next(given, 'the file')} has no get_config()"
    if unknown := re.match(r"\W*'(\w+)\W*'(?:.*Did you mean \"(\w+)\")?", text, re.DOTALL):
        flag = next((a.split("=")[0] for a in argv if unknown[1] in a), unknown[1])
        hint = f"; did you mean {unknown[2]!r}?" if unknown[2] else ""
        return f"{flag}: no such field{hint}"
    if "Traceback" in text:  # what a configuration file raised, with all that led there
        frames = text.rpartition("Traceback (most recent call last):\n")[2].splitlines()
        raised = " ".join(itertools.dropwhile(lambda line: line.startswith(" "), frames))
        return f"--config: {' '.join(raised.partition(': ')[2].split())}"
    if missing := re.search(r"No such file or directory: '(.+)'", text):
        hint = _nearest_file(pathlib.Path(missing[1])) if "Failed loading" in text else ""
        return f"--config: {missing[1]!r}: no such file{hint}"
    if failed := re.search(r"failure to load: (?:\[Errno \d+\] )?(.+)", text):
        return f"--config: {failed[1]}"
    if bad := re.match(r"flag --([\w.-]+)=", text):
        value = text.removeprefix(bad[0]).removesuffix(f": {error.__context__}")
        return f"--{bad[1]}: expected {_wanted(values[bad[1]])}, got {value!r}"
    return text


def _check_values(argv: Sequence[str], values: flags.FlagValues) -> None:
    """Raises UserError where a flag has no value, or another flag in its place."""
    for given, after in itertools.pairwise([*argv, "--end"]):
        name, separator, value = given.lstrip("-").partition("=")
        valued = given.startswith("-") and name in values and not values[name].boolean
        empty = separator and not value and "." not in name  # a field may be empty text
        if valued and (empty or (not separator and re.match(r"--?[A-Za-z]", after))):
            raise UserError(f"--{name} has no value; expected {_wanted(values[name])}")


def _wanted(flag: flags.Flag) -> str:
    """The expected value of a flag, in words."""
    if flag.boolean:
        return "true or false"
    if flag.parser.syntactic_help or not flag.name.startswith("config."):
        return flag.parser.syntactic_help or flag.help
    kinds = {flags.ArgumentParser: "text", tuple_parser.TupleParser: "rows"}
    return kinds.get(type(flag.parser), "fields")


def _nearest_file(path: pathlib.Path) -> str:
    """A hint at the configuration file whose name is nearest to a missing one."""
    ours, here = configs_folder(), pathlib.Path.cwd()
    ours = ours.relative_to(here) if ours.is_relative_to(here) else ours
    there = {file.stem: str(file) for folder in (ours, path.parent) for file in folder.glob("*.py")}
    hint, names = nearest(path.stem, sorted(there)), "|".join(map(re.escape, there))
    return re.sub(rf"\b({names})\b", lambda name: there[name[0]], hint)
