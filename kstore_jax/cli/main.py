"""The `kstore` command: its commands, their flags and its help."""

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import flags

from kstore_jax.cli import commands, facts
from kstore_jax.cli.flags import define_flags
from kstore_jax.errors import UserError, nearest, run_guarded
from kstore_jax.train import preemption


class Command(NamedTuple):
    """A command of `kstore`.

    Attributes:
      run: `(argv, flag values)`; reads the arguments and does the work.
      usage: its arguments, as the help prints them.
      flags: defaults of its flags by name.
      summary: its purpose in a few words.
    """

    run: Callable[[Sequence[str], flags.FlagValues], None]
    usage: str
    flags: dict[str, str | int | float | None]
    summary: str


_DRY_RUN = {
    **{"dry-run": False, "no-measure": False, "on": None, "stages": False, "json": False},
    "check": False,
}
_DRY_RUN_USAGE = "[--dry-run [--no-measure | --on=H200] [--stages | --json]] [--check]"
COMMANDS = {
    "quickstart": Command(
        commands.quickstart,
        "[--config=FILE] [--workdir=DIR] [--cache=DIR] [--workers=N]",
        {"workdir": "runs/quickstart", "cache": None, "workers": None},
        "a small experiment from data to report",
    ),
    "run": Command(
        commands.run,
        "--config=FILE --workdir=DIR [--cache=DIR] [--until=pretrain|finetune] "
        f"{_DRY_RUN_USAGE} [--distributed]",
        {"workdir": None, "cache": None, "until": None, "distributed": False, **_DRY_RUN},
        "one experiment",
    ),
    "sweep": Command(
        commands.sweep,
        "--config=FILE --workdir=DIR [--cache=DIR] [--workers=N] [--together=K] [--shard=I/N] "
        f"[--until=pretrain|finetune] [--drop] {_DRY_RUN_USAGE}",
        {
            **{"workdir": None, "cache": None, "workers": None, "together": 1, "shard": "0/1"},
            **{"until": None, "drop": False, **_DRY_RUN},
        },
        "every row of a configuration",
    ),
    "status": Command(
        commands.status,
        "DIR [--stages | --json]",
        {"stages": False, "json": False},
        "progress of a sweep",
    ),
    "gc": Command(
        commands.gc,
        "CACHE --keep=DIR,... [--remove]",
        {"keep": None, "remove": False},
        "list or remove the stages that no kept sweep needs",
    ),
    "eval": Command(
        commands.eval,
        "DIR [--row=ROW] [--beam=4] [--show=10] [--out=DIR] [--json]",
        {"row": None, "beam": 4, "show": 10, "out": None, "json": False},
        "evaluate the models of a run",
    ),
    "report": Command(
        commands.report, "DIR [DIR ...] [--out=DIR]", {"out": None}, "the page of finished runs"
    ),
    "figure": Command(
        commands.figure,
        "DIR [--kind=KIND --out=FILE.pdf|.svg|.png] [--rows=NAME,...]",
        {"kind": None, "rows": None, "out": None},
        "a figure of a finished run for print, or its kinds",
    ),
    "data": Command(
        commands.data,
        "--config=FILE --out=DIR [--workers=N]",
        {"out": None, "workers": 1},
        "write the datasets alone",
    ),
    "facts": Command(
        facts.facts,
        "TABLE --out=DIR [--name=COLUMN,...] [--attributes=COLUMN,...] [--noun=WORD] "
        "[--separator=TEXT] [--json]",
        {
            **{"out": None, "name": None, "attributes": None, "noun": None, "separator": None},
            "json": False,
        },
        "a world from a table of facts, and a report on the table",
    ),
    "show": Command(
        commands.show,
        "[DIR [--row=ROW] | --config=FILE] --person=N | --pools [--json]",
        {"row": None, "person": 0, "pools": False, "json": False},
        "a person's facts, texts and questions, and what the models of a run know; or the pools",
    ),
    "config": Command(
        commands.config,
        "[SECTION | FIELD] [--config=FILE] [--config.plugins=MODULE,...]",
        {},
        "every field of a configuration, with its default",
    ),
    "export": Command(
        commands.export,
        "DIR --out=DIR [--row=ROW] [--stage=pretrained|finetuned] [--lm-eval]",
        {"out": None, "row": None, "stage": None, "lm-eval": False, "format": "hf"},
        "a model as a Hugging Face folder, without --stage the last one that the run trains",
    ),
    "rewrite": Command(
        commands.rewrite,
        "--config=FILE --server=URL --model=NAME --out=DIR [--strategy=questions|links|DIR] "
        "[--concurrency=N] [--attempts=N]",
        {
            **{"server": None, "model": None, "out": None, "strategy": None},
            **{"concurrency": 64, "attempts": 20},
        },
        "biographies by another model (bioR)",
    ),
    "generate": Command(
        commands.generate,
        'DIR [--row=ROW] [--stage=pretrained|finetuned] ["PROMPT" [--max-tokens=80] '
        "[--temperature=0] [--seed=0]]",
        {"row": None, "stage": "pretrained", "max-tokens": 80, "temperature": 0.0, "seed": 0},
        "text by the models of a run: after a prompt, or about six people beside what they read",
    ),
    "ask": Command(
        commands.ask,
        'DIR "QUESTION" [--row=ROW], or DIR [--json], or '
        "--server=URL --model=NAME [--items=FILE] [--out=DIR] [--concurrency=N] [--json]",
        {
            **{"row": None, "server": None, "model": None, "items": None, "out": None},
            **{"concurrency": 8, "json": False},
        },
        "a question to the models of a run, or how much they or another model recite and answer",
    ),
    "bench": Command(
        commands.bench,
        "data | train [--together=K] [--on=H200] | profile [--kinds] | qa [--config=FILE] [--json]",
        {"together": 1, "on": None, "kinds": False, "json": False},
        "measure this machine",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, as `errors.run_guarded` does."""
    preemption.handle_sigterm()
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["help"]
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name in ("help", *_HELP):
        return run_guarded(_print_help)
    if (command := COMMANDS.get(name)) is None:
        return run_guarded(lambda: _refuse_command(name))
    if any(argument in _HELP for argument in rest):
        return run_guarded(lambda: _print_command_help(name, command))
    return run_guarded(lambda: command.run(rest, define_flags(**command.flags)))


_HELP = ("-h", "--help")
_FIELDS = "`kstore config` documents them"


def _print_help() -> None:
    print(f"kstore COMMAND [--config.FIELD=VALUE ...]; {_FIELDS}\n")
    for name, command in COMMANDS.items():
        print(f"  {name:<11} {command.usage}: {command.summary}")
    print("\nkstore COMMAND --help lists the flags of a command")


def _print_command_help(name: str, command: Command) -> None:
    print(f"kstore {name} {command.usage}: {command.summary}\n")
    if "--config" in command.usage:
        print("  --config        a configuration file, FILE.py[:ARGUMENT]")
        print(f"  --config.FIELD  any field of it; {_FIELDS}")
    values = define_flags(**command.flags)
    for flag in command.flags:
        default = values[flag].default
        unless = "" if default in (None, False) else f", {default} unless given"
        print(f"  --{flag:<13} {values[flag].help}{unless}")


def _refuse_command(name: str) -> None:
    raise UserError(f"{name!r} is no command{nearest(name, COMMANDS)}")


if __name__ == "__main__":
    sys.exit(main())
