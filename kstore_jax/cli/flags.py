"""Reads the command line: flags, and a configuration file with overridden fields."""

import itertools
import os
import pathlib
import re
import runpy
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import tuple_parser

from kstore_jax.config.fields import LARGEST, flatten
from kstore_jax.config.registry import search_path
from kstore_jax.errors import UserError, nearest, shown, user_path
from kstore_jax.pipeline import experiment

_PACKAGE = pathlib.Path(__file__).parents[1]


def configs_folder() -> pathlib.Path:
    """Returns the folder of the configuration files: in the wheel, or in the checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


class _PathParser(flags.ArgumentParser):
    """Parses a path, or a list of paths separated by commas, where `~` is the home folder."""

    def __init__(self, several: bool = False):
        self._several = several

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument
        if self._several:
            return [str(user_path(path)) for path in argument.split(",") if path]
        return str(user_path(argument))


def _define_path(name: str, default: str | None, help: str, flag_values: flags.FlagValues) -> None:
    flags.DEFINE(_PathParser(), name, default, help, flag_values=flag_values)


def _define_paths(name: str, default: str | None, help: str, flag_values: flags.FlagValues) -> None:
    flags.DEFINE(_PathParser(several=True), name, default, help, flag_values=flag_values)


def _count(least: int) -> dict[str, int]:
    return {"lower_bound": least, "upper_bound": LARGEST}


_FLAGS: dict[str, tuple[Callable, str, dict[str, Any]]] = {
    "workdir": (_define_path, "folder of the run", {}),
    "cache": (_define_path, "folder of the stages, WORKDIR/stages unless given", {}),
    "workers": (flags.DEFINE_integer, "processes", _count(1)),
    "person": (flags.DEFINE_integer, "number of the person to show", _count(0)),
    "format": (flags.DEFINE_string, "format of the model", {}),
    "json": (flags.DEFINE_bool, "print JSON", {}),
    "beam": (flags.DEFINE_integer, "width of the beam", {"lower_bound": 1, "upper_bound": 1000}),
    "show": (flags.DEFINE_integer, "answers to print", _count(0)),
    "stage": (
        flags.DEFINE_enum,
        "the model after pretraining or after finetuning",
        {"enum_values": ["pretrained", "finetuned"]},
    ),
    "lm-eval": (flags.DEFINE_bool, "write the questions as tasks of lm_eval, too", {}),
    "max-tokens": (flags.DEFINE_integer, "the most tokens to write", _count(1)),
    "temperature": (
        flags.DEFINE_float,
        "0: the most likely token each time; 1: tokens drawn from the model's distribution",
        {"lower_bound": 0.0},
    ),
    "seed": (flags.DEFINE_integer, "seed of the drawn tokens", _count(0)),
    "row": (flags.DEFINE_string, "one row of a sweep, by its name or number", {}),
    "until": (
        flags.DEFINE_enum,
        "the last training to compute in every row (config.until)",
        {"enum_values": ["pretrain", "finetune"]},
    ),
    "dry-run": (flags.DEFINE_bool, "print the rows and time estimates, compute nothing", {}),
    "no-measure": (flags.DEFINE_bool, "time no step of pretraining for the estimates", {}),
    "on": (
        flags.DEFINE_enum,
        "predict the time on an accelerator that is not here, from FLOP and bytes",
        {"enum_values": ["H200", "H100"]},
    ),
    "kinds": (flags.DEFINE_bool, "sum over the ten costliest kinds of operation", {}),
    "stages": (flags.DEFINE_bool, "print the stages of the rows, with their folders", {}),
    "check": (
        flags.DEFINE_bool,
        "compute nothing, check flags and fields (without FILE: names and types)",
        {},
    ),
    "distributed": (flags.DEFINE_bool, "join this process to a multi-process run", {}),
    "together": (flags.DEFINE_integer, "models trained in one program", _count(1)),
    "shard": (flags.DEFINE_string, "rows of this task: I/N, or auto/N in an array of tasks", {}),
    "drop": (flags.DEFINE_bool, "remove the rows of WORKDIR that the configuration lacks", {}),
    "keep": (_define_paths, "folders of the sweeps that stay", {}),
    "remove": (flags.DEFINE_bool, "remove the listed stages", {}),
    "pools": (flags.DEFINE_bool, "show the pools", {}),
    "out": (_define_path, "folder to write to, or the file of a figure", {}),
    "kind": (flags.DEFINE_string, "kind of the figure; without it, the kinds are listed", {}),
    "rows": (flags.DEFINE_list, "rows of the figure by name, in order; all unless given", {}),
    "server": (flags.DEFINE_string, "address of a server of OpenAI's chat protocol", {}),
    "model": (flags.DEFINE_string, "name of a model of the server", {}),
    "items": (
        _define_path,
        "JSONL of texts and questions; passages, pairs: of the package",
        {},
    ),
    "concurrency": (flags.DEFINE_integer, "requests at a time", _count(1)),
    "name": (flags.DEFINE_list, "columns of the table that make the name together", {}),
    "attributes": (flags.DEFINE_list, "columns of the table that are attributes", {}),
    "noun": (flags.DEFINE_string, "a row of the table in a word, such as film", {}),
    "separator": (flags.DEFINE_string, "text between several values in a cell", {}),
    "strategy": (flags.DEFINE_string, "texts to request instead of one about each person", {}),
    "attempts": (flags.DEFINE_integer, "tries per text", _count(1)),
}


def define_flags(**defaults: str | int | float | None) -> flags.FlagValues:
    """Defines the flags of a command, with their defaults."""
    values = flags.FlagValues()
    values.set_gnu_getopt()
    for name, default in defaults.items():
        define, description, limits = _FLAGS[name]
        define(name=name, default=default, help=description, flag_values=values, **limits)
    return values


def parse_arguments(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Reads the flags of a command and returns its other arguments.

    Raises:
      UserError: a flag is unknown or has no value or a wrong one.
    """
    return _parse(argv, values, known_only=False)


def require_flags(values: flags.FlagValues, **examples: str) -> None:
    """Raises UserError, with the example, where the value of a flag is missing."""
    for name, example in examples.items():
        if not getattr(values, name):
            raise UserError(f"--{name} is missing; expected {example}")


def parse_plugins(
    argv: Sequence[str], values: flags.FlagValues, default_file: pathlib.Path | None = None
) -> tuple[ConfigDict, list[str]]:
    """Reads `--config` and `--config.plugins`, and imports the plug-ins of both.

    Returns: the configuration of the file, or the default one without a file, with the fields of
    the plug-ins; and the other arguments.

    Raises:
      UserError: a flag, the file or a plug-in is wrong.
    """
    file = str(default_file) if default_file else None
    flags.DEFINE_string("config", file, "FILE.py[:ARGUMENT]", flag_values=values)
    flags.DEFINE_string("config.plugins", "", "names of modules", flag_values=values)
    others = _parse(argv, values, known_only=True)
    path = _config_path(values.config or "")
    folders = dict.fromkeys([os.getcwd(), str(path.parent.resolve())])
    with search_path(folders):
        config = _load_config(path, values.config) if values.config else experiment.default()
        if plugins := re.findall(r"[\w.]+", values["config.plugins"].value or ""):
            experiment.add_plugins(config, *plugins)
    if config.get("plugins") and isinstance(config.plugin_folders, tuple):
        config.plugin_folders = (*dict.fromkeys([*config.plugin_folders, *folders]),)
    delattr(values, "config.plugins")
    return config, others


def parse_config(
    argv: Sequence[str], values: flags.FlagValues, default_file: pathlib.Path | None
) -> tuple[ConfigDict, set[str]]:
    """Reads the flags of a command with a configuration; `default_file` is read without `--config`.

    Returns: the configuration, and the dotted fields that the command line overrides.

    Raises:
      UserError: a flag, a field, its value, the file or a plug-in is wrong.
    """
    config, others = parse_plugins(argv, values, default_file)
    require_flags(values, config="a file such as configs/quickstart.py")
    del values.config
    if "until" in values and values.until:
        others.append(f"--config.until={values.until}")
    return config, _parse_fields(config, others, values)


def check_elsewhere(argv: Sequence[str], values: flags.FlagValues) -> bool:
    """Checks the flags of a command whose configuration file is on another machine, as a launch
    script with `--check` calls it: names and types of flags and fields, but no fields of plug-ins.

    Returns: False where there is no `--check`, or the file is on this machine.

    Raises:
      UserError: a flag, a field or its type is wrong.
    """
    words = re.sub(r"(?m)^(--?config[\w.]*)\n(?!-)", r"\1=", "\n".join(argv)).split("\n")
    files = [word.partition("=")[2] for word in words if re.match(r"--?config=", word)]
    is_here = any(_config_path(file).is_file() for file in files)
    if not files or is_here or not {"--check", "-check"}.intersection(words):
        return False
    config, fields = experiment.default(), []
    for word in words:
        match = re.match(r"--?(?:no)?config\.(\w+\.[\w.]+)\.\w+", word)
        of_plugin = match is not None and _field(config, match[1].split(".")) is None
        if not of_plugin and not re.match(r"--?config(=|\.plugins=)", word):
            fields.append(word)
    _parse_fields(config, fields, values)
    return True


def _parse_fields(config: ConfigDict, others: Sequence[str], values: flags.FlagValues) -> set[str]:
    """Reads all flags, and sets the fields of a configuration; returns the dotted fields."""
    others = _quote_lists(config, others)
    overridden = {match[1] for a in others if (match := re.match(r"--?(?:no)?config\.([^=]*)", a))}
    for field in sorted(overridden):
        check_field(config, field, f"--config.{field}")
    config_flags.DEFINE_config_dict(
        "config", config, flag_values=values, sys_argv=["kstore", *others]
    )
    if arguments := parse_arguments(others, values):
        raise UserError(f"unexpected argument {arguments[0]!r}")
    return overridden


def _quote_lists(config: ConfigDict, argv: Sequence[str]) -> list[str]:
    """Writes `--config.FIELD=a,b` as the Python tuple that absl reads, where the field is a list
    and the value consists of plain words."""
    quoted = [*argv]
    for i, argument in enumerate(quoted):
        field, separator, value = argument.partition("=")
        if not (match := re.fullmatch(r"--?config\.([\w.]+)", field)):
            continue
        part = _field(config, match[1].split("."))
        following = quoted[i + 1] if not separator and i + 1 < len(quoted) else ""
        words = (value or following).split(",")
        if isinstance(part, tuple) and all(re.fullmatch(r"[^\W\d][\w.+-]*", w) for w in words):
            quoted[i : i + (1 if separator else 2)] = [f"{field}={tuple(words)!r}"]
    return quoted


def _field(config: ConfigDict, names: Sequence[str]) -> Any:
    """The value of a field; None where there is no such field."""
    part: Any = config
    for name in names:
        part = part.get(name) if isinstance(part, ConfigDict) else None
    return part


def check_field(config: ConfigDict, field: str, label: str) -> None:
    """Raises UserError, which begins with `label`, where `config` has no such dotted field."""
    part = config
    for name in field.split("."):
        if not isinstance(part, ConfigDict) or name not in part:
            hint = nearest(name, part) if isinstance(part, ConfigDict) else ""
            raise UserError(f"{label}: no such field{hint}")
        part = part[name]


def _parse(argv: Sequence[str], values: flags.FlagValues, known_only: bool) -> list[str]:
    """Reads flags; returns the other arguments, and also unknown flags if `known_only`."""
    _check_values(argv, values)
    try:
        return values(["kstore", *argv], known_only=known_only)[1:]
    except flags.UnrecognizedFlagError as error:
        names = [name for name in values if "." not in name]
        hint = nearest(error.flagname, names) if names else ""
        raise UserError(f"--{error.flagname}: no such flag{hint}") from None
    except (flags.Error, ValueError) as error:
        raise UserError(str(error)) from None


def _check_values(argv: Sequence[str], values: flags.FlagValues) -> None:
    """Raises UserError where the value of a flag is missing or wrong."""
    for argument, following in itertools.pairwise([*argv, "--end"]):
        name, separator, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name not in values:
            continue
        flag = values[name]
        if not separator:
            if flag.boolean:
                continue
            value = "" if re.match(r"--?[A-Za-z]", following) else following
        if not value and not flag.boolean and not (separator and "." in name):
            raise UserError(f"--{name} has no value; expected {_expected_value(flag)}")
        try:
            flag.parser.parse(value)
        except UserError as error:
            raise UserError(f"--{name}: {error}") from None
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                f"--{name}: expected {_expected_value(flag)}, got {shown(value)}"
            ) from None


def _expected_value(flag: flags.Flag) -> str:
    """The expected value of a flag, in words."""
    if flag.boolean:
        return "true or false"
    if isinstance(flag.parser, flags.EnumParser):
        return " or ".join(flag.parser.enum_values)
    if flag.parser.syntactic_help or not flag.name.startswith("config."):
        return flag.parser.syntactic_help or flag.help
    kinds = {flags.ArgumentParser: "text", tuple_parser.TupleParser: "rows"}
    return kinds.get(type(flag.parser), "fields")


def _config_path(text: str) -> pathlib.Path:
    """The file of `FILE.py:ARGUMENT`."""
    try:
        return user_path(text.split(":", 1)[0])
    except UserError as error:
        raise UserError(f"--config: {error}") from None


def _load_config(path: pathlib.Path, text: str) -> ConfigDict:
    """Returns what `get_config` in a file returns; `text` is FILE.py or FILE.py:ARGUMENT.

    Raises:
      UserError: there is no such file or function, or it fails; a ValueError of the file is a
        message to the user.
    """
    file, *argument = text.split(":", 1)
    if not path.is_file():
        raise UserError(f"--config: {file!r}: no such file{_nearest_file(path)}")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config(*argument) if get_config else None
    except (UserError, ValueError) as error:
        raise UserError(f"--config: {error}") from error
    except (Exception, SystemExit) as error:  # the file is a program and may raise anything
        raise UserError(f"--config: {type(error).__name__}: {error}") from error
    if get_config is None:
        raise UserError(f"--config: {file} has no get_config()")
    if type(config) is not ConfigDict:
        raise UserError(
            f"--config: get_config() returned {shown(config)} ({type(config).__name__}); expected "
            "a ConfigDict, as kstore_jax.pipeline.experiment.default() returns"
        )
    for name, value in flatten(config.to_dict()).items():
        if _is_large(value):  # absl would print it, and Python refuses to
            raise UserError(f"{name}: expected a smaller number, got {shown(value)}")
    return config


def _is_large(value: Any) -> bool:
    """Whether a value is, or holds, a number that no field can have."""
    if isinstance(value, tuple | list):
        return any(map(_is_large, value))
    return isinstance(value, int) and value.bit_length() > 64


def _nearest_file(path: pathlib.Path) -> str:
    """A hint at the configuration file whose name is nearest to a missing one."""
    ours, here = configs_folder(), pathlib.Path.cwd()
    ours = ours.relative_to(here) if ours.is_relative_to(here) else ours
    files = {file.stem: str(file) for folder in (ours, path.parent) for file in folder.glob("*.py")}
    hint, names = nearest(path.stem, sorted(files)), "|".join(map(re.escape, files))
    return re.sub(rf"\b({names})\b", lambda name: files[name[0]], hint)
