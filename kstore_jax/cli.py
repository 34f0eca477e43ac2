"""The `kstore` command: nothing but dispatch."""

import errno
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import config_flags

from kstore_jax.config import parse_rows
from kstore_jax.errors import UserError, nearest

_HERE = pathlib.Path(__file__).parent


def guarded(action: Callable[[], None]) -> int:
    """Runs an action; what the user can mend is said in one line. Returns the exit status."""
    try:
        action()
    except UserError as error:
        return _complain(str(error), error.status)
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror}", 2)
    except KeyboardInterrupt:
        return _complain("interrupted; the same command goes on from here", 130)
    except Exception as error:
        if not _is_full_disk(error):
            raise
        where = re.search(r"/[^\s\":;]+", str(error))
        what = f"{where[0]}: " if where else ""
        return _complain(f"{what}no space left on device; what was whole before is kept", 2)
    return 0


def _is_full_disk(error: BaseException | None) -> bool:
    """ArrayRecord and Orbax report a full disk as errors of their own, in words."""
    if error is None:
        return False
    inside = (error.__cause__, error.__context__, *getattr(error, "exceptions", ()))
    return os.strerror(errno.ENOSPC) in str(error) or any(map(_is_full_disk, inside))


def _complain(message: str, status: int) -> int:
    print(f"kstore: {' '.join(message.split())}", file=sys.stderr)
    return status


def configs_folder() -> pathlib.Path:
    """Where the configuration files are: in the wheel, or beside the package in a checkout."""
    installed = _HERE / "configs"
    return installed if installed.is_dir() else _HERE.parent / "configs"


def _parse_flags(argv: Sequence[str], config: pathlib.Path | None, workdir: str | None):
    """The flags of a command that takes a configuration.

    Returns: the flag values, and the experiments that the configuration describes.
    """
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_file(
            "config",
            str(config) if config else None,
            "FILE.py[:ARGUMENT]",
            flag_values=values,
            sys_argv=["kstore", *argv],
        )
        flags.DEFINE_string("workdir", workdir, "folder of the run", flag_values=values)
        flags.DEFINE_integer("workers", None, "processes", lower_bound=1, flag_values=values)
        flags.DEFINE_string("out", None, "folder of the data set", flag_values=values)
        flags.DEFINE_bool("json", False, "print JSON", flag_values=values)
        flags.DEFINE_bool("pools", False, "show the pools", flag_values=values)
        flags.DEFINE_integer("person", 0, "whom to show", lower_bound=0, flag_values=values)
        left = values(["kstore", *argv])[1:]
        given = values.config
        loaded = hasattr(given, "to_dict")  # raises what went wrong while the file was loaded
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(_flag_error(error, argv)) from None
    except Exception as error:  # a configuration file is a program and may raise anything
        raise UserError(f"--config: {type(error).__name__}: {error}") from error
    if left:
        raise UserError(f"unexpected argument {left[0]!r}")
    if given is None:
        raise UserError("--config is missing; expected a file such as configs/quickstart.py")
    if not loaded:
        raise UserError(f"--config: get_config() returned {given!r}; expected a ConfigDict")
    overridden = {match[1] for a in argv if (match := re.match(r"--?config\.([\w.]+)", a))}
    return values, parse_rows(given, overridden)


def _flag_error(error: Exception, argv: Sequence[str]) -> str:
    """One line for what absl and ml_collections say in several, naming the flag it is about."""
    text = str(error)
    if unknown := re.match(r"\W*'(\w+)\W*'(?:.*Did you mean \"(\w+)\")?", text, re.DOTALL):
        flag = next((a.split("=")[0] for a in argv if unknown[1] in a), unknown[1])
        hint = f"; did you mean {unknown[2]!r}?" if unknown[2] else ""
        return f"{flag}: no such field{hint}"
    if missing := re.search(r"No such file or directory: (\S+)", text):
        return f"--config: {missing[1]}: no such file"
    return text


def _quickstart(argv: Sequence[str]) -> None:
    _sweep(argv, configs_folder() / "quickstart.py", "runs/quickstart")


def _run(argv: Sequence[str]) -> None:
    _sweep([*argv, "--config.sweep=()"])


def _sweep(
    argv: Sequence[str], config: pathlib.Path | None = None, workdir: str | None = None
) -> None:
    values, rows = _parse_flags(argv, config, workdir)
    if values.workdir is None:
        raise UserError("--workdir is missing; expected a folder such as runs/x")
    from kstore_jax.lab import report, sweep

    folder = pathlib.Path(values.workdir)
    sweep.run(folder, rows, values.workers or sweep.default_workers(len(rows)))
    page = report.write(folder, folder)
    print(f"{page}")


def _report(argv: Sequence[str]) -> None:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "folder for the page", flag_values=values)
    try:
        folders = values(["kstore", *argv])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from None
    if len(folders) != 1:
        raise UserError("report: expected one folder of a run")
    from kstore_jax.lab import report

    folder = pathlib.Path(folders[0])
    print(report.write(folder, pathlib.Path(values.out or folder)))


def _show(argv: Sequence[str]) -> None:
    values, rows = _parse_flags(argv, configs_folder() / "quickstart.py", None)
    from kstore_jax.lab.show import Shown, pools_text

    if values.pools:
        print(pools_text(rows[0]))
        return
    shown = Shown(rows[0], values.person)
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(shown.json() if values.json else shown.text(coloured))


def _data(argv: Sequence[str]) -> None:
    values, rows = _parse_flags(argv, None, None)
    if values.out is None:
        raise UserError("--out is missing; expected a folder such as data/x")
    from kstore_jax.lab.materials import write_datasets

    for folder, manifest in write_datasets(rows[0], pathlib.Path(values.out), values.workers or 1):
        print(f"{folder}: {manifest['entries']:,} entries, {manifest['tokens']:,} tokens")


def _bench(argv: Sequence[str]) -> None:
    what, *rest = argv or [""]
    if what not in BENCHES:
        raise UserError(f"bench: {what!r} is no benchmark{nearest(what, BENCHES)}")
    values, rows = _parse_flags(rest, configs_folder() / BENCHES[what], None)
    from kstore_jax.lab import bench

    found = getattr(bench, what)(rows[0])
    if values.json:
        print(json.dumps(found))
    else:
        told = {k: v if isinstance(v, str) else f"{v:,}" for k, v in found.items()}
        print("\n".join(f"{name:<24} {value:>24}" for name, value in told.items()))


BENCHES = {"data": "paper.py", "train": "quickstart.py", "qa": "quickstart.py"}


COMMANDS = {
    "quickstart": (_quickstart, "the whole story, small, on this machine, ending in one page"),
    "run": (_run, "--config=FILE --workdir=DIR: one experiment"),
    "sweep": (_sweep, "--config=FILE --workdir=DIR [--workers=N]: every row of a configuration"),
    "report": (_report, "DIR [--out=DIR]: the page of a finished run"),
    "data": (_data, "--config=FILE --out=DIR [--workers=N]: write the data set alone"),
    "show": (
        _show,
        "[--config=FILE] --person=N [--json]: a person, the biographies, the questions",
    ),
    "bench": (_bench, "data | train | qa [--config=FILE] [--json]: how fast this machine is"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 2 for bad input, 1 for a damaged file."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] == "help" or {"-h", "--help"}.intersection(argv):
        print("kstore COMMAND [--config.FIELD=VALUE ...]\n")
        for name, (_, what) in COMMANDS.items():
            print(f"  {name:<11} {what}")
        return 0
    command, *rest = argv
    if command not in COMMANDS:
        return guarded(lambda: _unknown(command))
    return guarded(lambda: COMMANDS[command][0](rest))


def _unknown(command: str) -> None:
    raise UserError(f"{command!r} is no command{nearest(command, COMMANDS)}")


if __name__ == "__main__":
    sys.exit(main())
