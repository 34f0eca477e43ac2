"""Reads the command line: flags, and a configuration file with overridden fields."""

import itertools
import os
import pathlib
import re
import runpy
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import tuple_parser

from kstore_jax.config.registry import search_path
from kstore_jax.errors import UserError, nearest
from kstore_jax.pipeline import experiment

_PACKAGE = pathlib.Path(__file__).parents[1]


def configs_folder() -> pathlib.Path:
    """Returns the folder of the configuration files: in the wheel, or in the checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


_FLAGS = {
    "workdir": (flags.DEFINE_string, "folder of the run", {}),
    "cache": (flags.DEFINE_string, "folder of the stages, WORKDIR/stages unless given", {}),
    "workers": (flags.DEFINE_integer, "processes", {"lower_bound": 1}),
    "person": (flags.DEFINE_integer, "number of the person to show", {"lower_bound": 0}),
    "run": (flags.DEFINE_string, "folder of a run or of a pretrain stage", {}),
    "format": (flags.DEFINE_string, "format of the model", {}),
    "json": (flags.DEFINE_bool, "print JSON", {}),
    "beam": (flags.DEFINE_integer, "width of the beam", {"lower_bound": 1}),
    "show": (flags.DEFINE_integer, "answers to print", {"lower_bound": 0}),
    "row": (flags.DEFINE_integer, "one row of a sweep", {"lower_bound": 0}),
    "until": (
        flags.DEFINE_enum,
        "the last training, config.until of every row",
        {"enum_values": ["pretrain", "finetune"]},
    ),
    "dry-run": (flags.DEFINE_bool, "print the stages and time estimates, compute nothing", {}),
    "distributed": (flags.DEFINE_bool, "join this process to a multi-process run", {}),
    "together": (flags.DEFINE_integer, "models trained in one program", {"lower_bound": 1}),
    "shard": (flags.DEFINE_string, "rows of this task: I/N, or auto/N in an array of tasks", {}),
    "drop": (flags.DEFINE_bool, "remove the rows of WORKDIR that the configuration lacks", {}),
    "keep": (flags.DEFINE_list, "folders of the sweeps that stay", {}),
    "remove": (flags.DEFINE_bool, "remove the listed stages", {}),
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
        define, description, limits = _FLAGS[name]
        define(name=name, default=default, help=description, flag_values=values, **limits)
    return values


def parse_arguments(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Reads the flags of a command and returns its other arguments.

    Raises:
      UserError: a flag is unknown or has no value or a wrong one.
    """
    return _parse(argv, values, known_only=False)


def parse_flags(argv: Sequence[str], values: flags.FlagValues) -> None:
    """Reads the flags of a command without other arguments."""
    if arguments := parse_arguments(argv, values):
        raise UserError(f"unexpected argument {arguments[0]!r}")


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
    file = (values.config or "").split(":", 1)[0]
    folders = dict.fromkeys([os.getcwd(), str(pathlib.Path(file).parent.resolve())])
    with search_path(folders):
        config = _load_config(values.config) if values.config else experiment.default()
        if plugins := re.findall(r"[\w.]+", values["config.plugins"].value or ""):
            experiment.add_plugins(config, *plugins)
    if config.get("plugins"):
        config.plugin_folders = (*folders,)
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
    overridden = {match[1] for a in others if (match := re.match(r"--?(?:no)?config\.([^=]*)", a))}
    for field in sorted(overridden):
        check_field(config, field, f"--config.{field}")
    config_flags.DEFINE_config_dict(
        "config", config, flag_values=values, sys_argv=["kstore", *others]
    )
    parse_flags(others, values)
    return config, overridden


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
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"--{name}: expected {_expected_value(flag)}, got {value!r}") from None


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


def _load_config(text: str) -> ConfigDict:
    """Returns what `get_config` in a file returns; `text` is FILE.py or FILE.py:ARGUMENT.

    Raises:
      UserError: there is no such file or function, or it fails; a ValueError of the file is a
        message to the user.
    """
    file, *argument = text.split(":", 1)
    if not pathlib.Path(file).is_file():
        raise UserError(f"--config: {file!r}: no such file{_nearest_file(pathlib.Path(file))}")
    try:
        get_config = runpy.run_path(file).get("get_config")
        config = get_config(*argument) if get_config else None
    except (UserError, ValueError) as error:
        raise UserError(f"--config: {error}") from error
    except Exception as error:  # a configuration file is a program and may raise anything
        raise UserError(f"--config: {type(error).__name__}: {error}") from error
    if get_config is None:
        raise UserError(f"--config: {file} has no get_config()")
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config: get_config() returned {config!r}; expected a ConfigDict")
    return config


def _nearest_file(path: pathlib.Path) -> str:
    """A hint at the configuration file whose name is nearest to a missing one."""
    ours, here = configs_folder(), pathlib.Path.cwd()
    ours = ours.relative_to(here) if ours.is_relative_to(here) else ours
    files = {file.stem: str(file) for folder in (ours, path.parent) for file in folder.glob("*.py")}
    hint, names = nearest(path.stem, sorted(files)), "|".join(map(re.escape, files))
    return re.sub(rf"\b({names})\b", lambda name: files[name[0]], hint)
