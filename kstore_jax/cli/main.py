"""The `kstore` command: nothing but dispatch."""

import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags

from kstore_jax.cli.flags import (
    configs_folder,
    define_flags,
    parse_config,
    parse_flags,
    parse_folders,
    require_flags,
)
from kstore_jax.errors import UserError, nearest, run_guarded
from kstore_jax.pipeline.experiment import Experiment, parse_base, parse_rows


def _quickstart(argv: Sequence[str], values: flags.FlagValues) -> None:
    _sweep_of(values, *parse_config(argv, values, configs_folder() / "quickstart.py"))


def _run(argv: Sequence[str], values: flags.FlagValues) -> None:
    one, rows = parse_base(*parse_config(argv, values, None))
    note = (
        f"note: the sweep in --config (rows: {rows}) is left out; run computes what its rows "
        f"start from ({one.data.variant}, seed {one.seed}), kstore sweep every row"
    )
    _compute(values, [one], [note] if rows else [])


def _sweep(argv: Sequence[str], values: flags.FlagValues) -> None:
    _sweep_of(values, *parse_config(argv, values, None))


def _sweep_of(
    values: flags.FlagValues, config: ml_collections.ConfigDict, overridden: set[str]
) -> None:
    """Computes the rows of a sweep; notes on stderr where they differ from the file's."""
    rows, notes = parse_rows(config, overridden), []
    given: Any = config.sweep  # a field of a ConfigDict has no type of its own
    if over := sorted(overridden & {field for row in given for field, _ in row}):
        notes.append(f"note: {', '.join(over)}: as set here in all rows of the sweep")
    if (again := len(given) - len(rows)) > 0:
        which = f"{again} of the {len(given)} rows of the sweep"
        notes.append(f"note: {which} repeat an earlier one and are computed once")
    _compute(values, rows, notes)


def _compute(values: flags.FlagValues, rows: Sequence[Experiment], notes: Sequence[str]) -> None:
    if values.workdir is None:
        raise UserError("--workdir is missing; expected a folder such as runs/x")
    from kstore_jax.sweep import run as sweep
    from kstore_jax.sweep import workdir

    folder, cache = pathlib.Path(values.workdir), values.cache and pathlib.Path(values.cache)
    drop = "drop" in values and values.drop
    if drop and (out := workdir.dropped_rows(folder, rows)):
        print(f"note: --drop takes out {', '.join(out)}", file=sys.stderr)
    shard = sweep.RowShard.parse(values.shard) if "shard" in values else sweep.ALL_ROWS
    if "dry-run" in values and values["dry-run"].value:
        print(sweep.dry_run(folder, rows, cache, shard, drop, notes).format(values.json))
        return
    workers = values.workers if "workers" in values else 1
    distributed = "distributed" in values and values.distributed
    together = values.together if "together" in values else 1
    page = sweep.run(folder, rows, workers, cache, shard, distributed, together, drop, notes)
    if page:
        print(page)
    elif "shard" in values:
        print(f"{folder}: rows of other tasks are not done; see `kstore status {folder}`")


def _status(argv: Sequence[str], values: flags.FlagValues) -> None:
    folder = _of_run("status", argv, values)
    from kstore_jax.sweep.plan import Plan, PlanStatus

    planned = Plan.read(folder)
    print(PlanStatus(planned, planned.progress()).format(values.json))


def _gc(argv: Sequence[str], values: flags.FlagValues) -> None:
    cache = _of_run("gc", argv, values, "cache")
    if not values.keep:
        raise UserError("--keep is missing; expected the folders of sweeps, such as runs/x,runs/y")
    from kstore_jax.sweep import gc

    found = gc.unneeded_stages(cache, [pathlib.Path(folder) for folder in values.keep])
    for folder, size in found:
        print(f"{size / 1e6:>12,.1f} MB  {folder}")
    print(f"{sum(size for _, size in found) / 1e6:>12,.1f} MB  in {len(found)} stages")
    if values.remove:
        print(f"removed {len(gc.remove_stages(folder for folder, _ in found))} of them")
    elif found:
        print("nothing was removed; --remove does")


def _of_run(
    command: str, argv: Sequence[str], values: flags.FlagValues, what: str = "run"
) -> pathlib.Path:
    """Reads the flags of a command about a run; returns the folder, its one argument."""
    given = parse_folders(argv, values)
    if len(given) != 1:
        raise UserError(f"{command}: expected one folder of a {what}")
    return given[0]


def _report(argv: Sequence[str], values: flags.FlagValues) -> None:
    runs = parse_folders(argv, values)
    if not runs:
        raise UserError("report: expected one folder of a run, or several")
    if len(runs) > 1 and values.out is None:
        raise UserError("--out is missing; expected a folder for the page of several runs")
    from kstore_jax.report import page as report

    print(report.write(runs, pathlib.Path(values.out or runs[0])))


def _eval(argv: Sequence[str], values: flags.FlagValues) -> None:
    folder = _of_run("eval", argv, values)
    from kstore_jax.pipeline import evaluation

    rows = evaluation.evaluate(folder, values.row, values.beam, values.show)
    if values.json:
        print(json.dumps({"rows": [*rows]}))
        return
    for row in rows:
        print(evaluation.format_evaluation(row))


def _show(argv: Sequence[str], values: flags.FlagValues) -> None:
    rows = parse_rows(*parse_config(argv, values, configs_folder() / "quickstart.py"))
    from kstore_jax.report.show import PersonText, pools, pools_text

    if values.pools:
        found = pools(rows[0])
        print(json.dumps(found) if values.json else pools_text(found))
        return
    shown = PersonText(rows[0], values.person)
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(shown.json() if values.json else shown.text(coloured))


def _data(argv: Sequence[str], values: flags.FlagValues) -> None:
    rows = parse_rows(*parse_config(argv, values, None))
    if values.out is None:
        raise UserError("--out is missing; expected a folder such as data/x")
    if pathlib.Path(values.out).absolute() == pathlib.Path.cwd():
        raise UserError("--out: expected another folder than the current one, such as data/x")
    if len({(row.world, row.data) for row in rows}) > 1:
        raise UserError(
            "the configuration is a sweep over several data sets; choose one, "
            "such as --config.data.variant=single"
        )
    from kstore_jax.pipeline.data import write_datasets

    world, data, out = rows[0].world, rows[0].data, pathlib.Path(values.out)
    for folder, manifest in write_datasets(world, data, out, values.workers):
        print(f"{folder}: {manifest['entries']:,} entries, {manifest['tokens']:,} tokens")


def _rewrite(argv: Sequence[str], values: flags.FlagValues) -> None:
    rows = parse_rows(*parse_config(argv, values, None))
    require_flags(values, server="http://localhost:8000", model="the server's", out="runs/written")
    from kstore_jax.writers import rewriting

    sections = [(row.world, row.data) for row in rows]
    out, attempts = pathlib.Path(values.out), values.attempts
    job = rewriting.rewrite(
        sections, values.server, values.model, out, values.concurrency, attempts
    )
    print(rewriting.summary(job), flush=True)
    rewriting.check_complete(job, attempts)


def _ask(argv: Sequence[str], values: flags.FlagValues) -> None:
    parse_flags(argv, values)
    from kstore_jax.report import recitation
    from kstore_jax.writers import asking

    if values.run:
        if given := [n for n in ("server", "model", "items", "out") if getattr(values, n)]:
            raise UserError(f"--{given[0]}: expected without --run, whose results are there")
        scores = recitation.run_scores(pathlib.Path(values.run))
    else:
        require_flags(
            values, server="http://localhost:8000 (or --run=runs/x)", model="the server's"
        )
        out = pathlib.Path(values.out or "runs/ask")
        items = pathlib.Path(values.items) if values.items else asking.PASSAGES
        scores = asking.ask(values.server, values.model, items, out, values.concurrency)
    print(json.dumps(scores) if values.json else recitation.score_table(scores))


def _bench(argv: Sequence[str], values: flags.FlagValues) -> None:
    what, *rest = argv or [""]
    if what not in BENCHMARKS:
        raise UserError(f"bench: {what!r} is no benchmark{nearest(what, BENCHMARKS)}")
    if what != "train":
        del values.together
    rows = parse_rows(*parse_config(rest, values, configs_folder() / BENCHMARKS[what]))
    from kstore_jax.bench import data, qa, train

    if what == "train":
        results = train.measure_training(rows[0], values.together)
    else:
        measure = {
            "data": data.measure_data,
            "profile": train.profile_training,
            "qa": qa.measure_qa,
        }[what]
        results = measure(rows[0])
    if values.json:
        print(json.dumps(results))
    else:
        texts = {k: v if isinstance(v, str) else f"{v:,}" for k, v in results.items()}
        print("\n".join(f"{name:<24} {value:>24}" for name, value in texts.items()))


def _export(argv: Sequence[str], values: flags.FlagValues) -> None:
    parse_flags(argv, values)
    if values.run is None or values.out is None:
        missing = "run" if values.run is None else "out"
        raise UserError(f"--{missing} is missing; expected a folder")
    if values.format != "hf":
        raise UserError(f"--format: {values.format!r} is none; expected hf")
    from kstore_jax.pipeline.export import export

    export(pathlib.Path(values.run), pathlib.Path(values.out), values.row)
    print(values.out)


BENCHMARKS = {
    "data": "paper.py",
    "train": "quickstart.py",
    "profile": "quickstart.py",
    "qa": "quickstart.py",
}


class Command(NamedTuple):
    """What a command does, what it is given, the defaults of its flags, and what it is for."""

    run: Callable[[Sequence[str], flags.FlagValues], None]
    usage: str
    flags: dict[str, str | int | None]
    summary: str


_PLANNED = {"dry-run": False, "json": False}
COMMANDS = {
    "quickstart": Command(
        _quickstart,
        "[--config=FILE] [--workdir=DIR] [--cache=DIR] [--workers=N]",
        {"workdir": "runs/quickstart", "cache": None, "workers": None},
        "the whole story, small, ending in one page",
    ),
    "run": Command(
        _run,
        "--config=FILE --workdir=DIR [--cache=DIR] [--dry-run [--json]] [--distributed]",
        {"workdir": None, "cache": None, "distributed": False, **_PLANNED},
        "one experiment",
    ),
    "sweep": Command(
        _sweep,
        "--config=FILE --workdir=DIR [--cache=DIR] [--workers=N] [--together=K] [--shard=I/N] "
        "[--drop] [--dry-run [--json]]",
        {
            **{"workdir": None, "cache": None, "workers": None, "together": 1, "shard": "0/1"},
            **{"drop": False, **_PLANNED},
        },
        "every row of a configuration",
    ),
    "status": Command(_status, "DIR [--json]", {"json": False}, "progress of a sweep"),
    "gc": Command(
        _gc,
        "CACHE --keep=DIR,... [--remove]",
        {"keep": None, "remove": False},
        "list or remove the stages that no kept sweep needs",
    ),
    "eval": Command(
        _eval,
        "DIR [--row=N] [--beam=4] [--show=10] [--json]",
        {"row": None, "beam": 4, "show": 10, "json": False},
        "evaluate the models of a run",
    ),
    "report": Command(
        _report, "DIR [DIR ...] [--out=DIR]", {"out": None}, "the page of finished runs"
    ),
    "data": Command(
        _data,
        "--config=FILE --out=DIR [--workers=N]",
        {"out": None, "workers": 1},
        "write the datasets alone",
    ),
    "show": Command(
        _show,
        "[--config=FILE] --person=N | --pools [--json]",
        {"person": 0, "pools": False, "json": False},
        "a person's facts, texts and questions, or the pools",
    ),
    "export": Command(
        _export,
        "--run=DIR --out=DIR [--row=N]",
        {"run": None, "out": None, "row": None, "format": "hf"},
        "the pretrained model as a Hugging Face folder",
    ),
    "rewrite": Command(
        _rewrite,
        "--config=FILE --server=URL --model=NAME --out=DIR",
        {"server": None, "model": None, "out": None, "concurrency": 64, "attempts": 20},
        "biographies by another model (bioR)",
    ),
    "ask": Command(
        _ask,
        "--server=URL --model=NAME [--items=FILE] [--out=DIR], or --run=DIR",
        {
            **{"run": None, "server": None, "model": None, "items": None, "out": None},
            **{"concurrency": 8, "json": False},
        },
        "how much another model, or a run, recites and answers",
    ),
    "bench": Command(
        _bench,
        "data | train [--together=K] | profile | qa [--config=FILE] [--json]",
        {"together": 1, "json": False},
        "measure this machine",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, as `errors.run_guarded` does."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["help"]
    if name in ("help", *_HELP):
        return run_guarded(_help)
    if (command := COMMANDS.get(name)) is None:
        return run_guarded(lambda: _unknown(name))
    if any(argument in _HELP for argument in rest):
        return run_guarded(lambda: _help_of(name, command))
    return run_guarded(lambda: command.run(rest, define_flags(**command.flags)))


_HELP = ("-h", "--help")
_FIELDS = "kstore_jax/*/config.py declare every field"


def _help() -> None:
    print(f"kstore COMMAND [--config.FIELD=VALUE ...]; {_FIELDS}\n")
    for name, command in COMMANDS.items():
        print(f"  {name:<11} {command.usage}: {command.summary}")
    print("\nkstore COMMAND --help lists the flags of a command")


def _help_of(name: str, command: Command) -> None:
    print(f"kstore {name} {command.usage}: {command.summary}\n")
    if "--config" in command.usage:
        print("  --config        a configuration file, FILE.py[:ARGUMENT]")
        print(f"  --config.FIELD  any field of it; {_FIELDS}")
    values = define_flags(**command.flags)
    for flag in command.flags:
        default = values[flag].default
        unless = "" if default in (None, False) else f", {default} unless given"
        print(f"  --{flag:<13} {values[flag].help}{unless}")


def _unknown(name: str) -> None:
    raise UserError(f"{name!r} is no command{nearest(name, COMMANDS)}")


if __name__ == "__main__":
    sys.exit(main())
