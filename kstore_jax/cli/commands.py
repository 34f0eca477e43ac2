"""The work of each command of `kstore`: it reads its arguments and calls a room of the package.

A room is imported when its command runs, so that no command waits for libraries it does not use.
"""

import dataclasses
import json
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from kstore_jax.cli.flags import (
    check_elsewhere,
    configs_folder,
    parse_arguments,
    parse_config,
    parse_plugins,
    require_flags,
)
from kstore_jax.errors import UserError, nearest, user_path
from kstore_jax.pipeline.experiment import Experiment, parse_base, parse_rows

BENCHMARKS = {
    "data": "paper.py",
    "train": "quickstart.py",
    "profile": "quickstart.py",
    "qa": "quickstart.py",
}
"""The configuration file that each benchmark measures without `--config`."""
_OF_BENCHMARK = {"train": {"together", "on"}, "profile": {"kinds"}}


def quickstart(argv: Sequence[str], values: flags.FlagValues) -> None:
    _compute_sweep(values, *parse_config(argv, values, configs_folder() / "quickstart.py"))


def run(argv: Sequence[str], values: flags.FlagValues) -> None:
    if check_elsewhere(argv, values):
        return
    experiment, rows = parse_base(*parse_config(argv, values, None))
    note = (
        f"note: kstore run ignores the sweep in --config (rows: {rows}) and computes the "
        f"experiment its rows start from ({experiment.data.variant}, seed {experiment.seed}); "
        "kstore sweep computes every row"
    )
    _compute_rows(values, [experiment], [note] if rows else [])


def sweep(argv: Sequence[str], values: flags.FlagValues) -> None:
    if check_elsewhere(argv, values):
        return
    _compute_sweep(values, *parse_config(argv, values, None))


def _compute_sweep(values: flags.FlagValues, config: ConfigDict, overridden: set[str]) -> None:
    """Computes the rows of a sweep; notes on stderr where they differ from the file's."""
    rows, notes = parse_rows(config, overridden), []
    rows_of_file: Any = config.get("sweep", ())
    if fields := sorted(overridden & {field for row in rows_of_file for field, _ in row}):
        notes.append(f"note: the command line sets {', '.join(fields)} in every row of the sweep")
    if (repeated := len(rows_of_file) - len(rows)) > 0:
        which = f"{repeated} of {len(rows_of_file)} rows of the sweep"
        notes.append(f"note: {which} repeat an earlier row, which is computed once")
    _compute_rows(values, rows, notes)


def _compute_rows(
    values: flags.FlagValues, rows: Sequence[Experiment], notes: Sequence[str]
) -> None:
    require_flags(values, workdir="a folder such as runs/x")

    def flag(name: str, default: Any) -> Any:  # of the commands that have it
        return values[name].value if name in values else default

    for name in ("no-measure", "on", "stages", "json"):
        if flag(name, False) and not flag("dry-run", False):
            raise UserError(f"--{name}: expected beside --dry-run")
    if flag("distributed", False) and flag("dry-run", False):
        raise UserError("--distributed: expected without --dry-run, which one process prints")
    _refuse_stages_in_json(values)
    if flag("check", False):
        return
    from kstore_jax.sweep import run as sweep
    from kstore_jax.sweep import workdir

    folder, cache = pathlib.Path(values.workdir), values.cache and pathlib.Path(values.cache)
    drop = flag("drop", False)
    if drop and (dropped := workdir.dropped_rows(folder, rows)):
        print(f"note: --drop removes {', '.join(dropped)}", file=sys.stderr)
    shard = sweep.RowShard.parse(flag("shard", "0/1"))
    if flag("dry-run", False):
        measure, on = not flag("no-measure", False), flag("on", None) or ""
        status = sweep.dry_run(folder, rows, cache, shard, drop, notes, measure, on)
        print(status.format(values.json, values.stages))
        return
    page = sweep.run(
        folder,
        rows,
        flag("workers", 1),
        cache,
        shard,
        flag("distributed", False),
        flag("together", 1),
        drop,
        notes,
    )
    if page:
        print(page)
    elif "shard" in values:
        print(f"{folder}: other tasks have rows left; see `kstore status {folder}`")


def _refuse_stages_in_json(values: flags.FlagValues) -> None:
    if "json" in values and values.json:
        _refuse_flags(values, ("stages",), "without --json, which always has them")


def status(argv: Sequence[str], values: flags.FlagValues) -> None:
    folder = _parse_folder("status", argv, values)
    _refuse_stages_in_json(values)
    from kstore_jax.sweep.plan import Plan, PlanStatus

    plan = Plan.read(folder)
    print(PlanStatus(plan, plan.progress()).format(values.json, values.stages))


def gc(argv: Sequence[str], values: flags.FlagValues) -> None:
    cache = _parse_folder("gc", argv, values, "cache")
    require_flags(values, keep="the folders of sweeps, such as runs/x,runs/y")
    from kstore_jax.sweep import gc

    sizes = gc.unneeded_stages(cache, [pathlib.Path(folder) for folder in values.keep])
    for folder, size in sizes:
        print(f"{size / 1e6:>12,.1f} MB  {folder}")
    print(f"{sum(size for _, size in sizes) / 1e6:>12,.1f} MB  in {len(sizes)} stages")
    if values.remove:
        print(f"removed {len(gc.remove_stages(folder for folder, _ in sizes))} of them")
    elif sizes:
        print("nothing was removed; --remove removes them")


def _parse_folder(
    command: str, argv: Sequence[str], values: flags.FlagValues, content: str = "run"
) -> pathlib.Path:
    """Reads the flags of a command whose only argument is a folder; returns the folder."""
    arguments = parse_arguments(argv, values)
    if len(arguments) != 1:
        got = f", got {' '.join(arguments)}" if arguments else ""
        raise UserError(f"{command}: expected one folder of a {content}{got}")
    return user_path(arguments[0])


def report(argv: Sequence[str], values: flags.FlagValues) -> None:
    runs = [user_path(run) for run in parse_arguments(argv, values)]
    if not runs:
        raise UserError("report: expected one folder of a run, or several")
    if len(runs) > 1:
        require_flags(values, out="a folder for the page of several runs")
    from kstore_jax.report import page as report

    print(report.write(runs, pathlib.Path(values.out or runs[0])))


def figure(argv: Sequence[str], values: flags.FlagValues) -> None:
    folder = _parse_folder("figure", argv, values)
    rows: Any = [name for name in values.rows or () if name]
    from kstore_jax.report import figures

    if not values.kind:
        _refuse_flags(values, ("out",), "with --kind")
        for kind, chart in figures.kinds(folder, rows).items():
            print(f"{kind:<22} {chart.title}")
        return
    require_flags(values, out="a file such as figure.pdf")
    figures.draw(folder, values.kind, rows, pathlib.Path(values.out))
    print(values.out)


def eval(argv: Sequence[str], values: flags.FlagValues) -> None:
    folder = _parse_folder("eval", argv, values)
    from kstore_jax.pipeline import evaluation

    out = values.out and pathlib.Path(values.out)
    rows = evaluation.evaluate(folder, values.row, values.beam, values.show, out)
    if values.json:
        print(json.dumps({"rows": [*rows]}))
        return
    for row in rows:
        print(evaluation.format_evaluation(row))


def show(argv: Sequence[str], values: flags.FlagValues) -> None:
    configured = any(re.match(r"--?(no)?config\b", argument) for argument in argv)
    if not configured and (folders := parse_arguments(argv, values)):
        _show_run(folders, values)
        return
    rows = parse_rows(*parse_config(argv, values, configs_folder() / "quickstart.py"))
    _refuse_flags(values, ("row",), "with the folder of a run")
    if values.pools:
        from kstore_jax.report.pools import pools, pools_text

        _refuse_flags(values, ("person",), "without --pools")
        values_by_pool = pools(rows[0])
        print(json.dumps(values_by_pool) if values.json else pools_text(values_by_pool))
        return
    from kstore_jax.api.show import PersonText

    person = PersonText(rows[0], values.person)
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(person.json() if values.json else person.text(coloured))


def _show_run(folders: Sequence[str], values: flags.FlagValues) -> None:
    """Prints what the rows of a run read and know of a person."""
    if len(folders) > 1:
        raise UserError(f"show: expected one folder of a run, got {' '.join(folders)}")
    _refuse_flags(values, ("pools",), "without the folder of a run")
    from kstore_jax.api.show import format_knowledge, knowledge

    rows = [*knowledge(user_path(folders[0]), values.person, values.row)]
    print(json.dumps({"rows": rows}) if values.json else format_knowledge(rows))


def config(argv: Sequence[str], values: flags.FlagValues) -> None:
    _, others = parse_plugins(argv, values)
    del values.config
    names = parse_arguments(others, values)
    if len(names) > 1:
        raise UserError(f"config: expected one section or field, got {' '.join(names)}")
    from kstore_jax.cli.config_table import config_table

    print(config_table(*names))


def data(argv: Sequence[str], values: flags.FlagValues) -> None:
    rows = parse_rows(*parse_config(argv, values, None))
    require_flags(values, out="a folder such as data/x")
    out = pathlib.Path(values.out)
    if out.absolute() == pathlib.Path.cwd():
        raise UserError("--out: expected another folder than the current one, such as data/x")
    without_questions = {(row.world, dataclasses.replace(row.data, qa_share=0.0)) for row in rows}
    if len(without_questions) > 1:  # which are mixed in while a model trains
        raise UserError(
            "the configuration is a sweep over several data sets; choose one, "
            "such as --config.data.variant=single"
        )
    from kstore_jax.pipeline.data import write_datasets

    for folder, manifest in write_datasets(rows[0].world, rows[0].data, out, values.workers):
        print(f"{folder}: {manifest['entries']:,} entries, {manifest['tokens']:,} tokens")


def rewrite(argv: Sequence[str], values: flags.FlagValues) -> None:
    rows = parse_rows(*parse_config(argv, values, None))
    require_flags(
        values,
        server="an address such as http://localhost:8000",
        model="the name of a model of the server",
        out="a folder such as runs/written",
    )
    from kstore_jax.writers import rewriting

    sections = [(row.world, row.data) for row in rows]
    out, attempts = pathlib.Path(values.out), values.attempts
    job = rewriting.rewrite(
        sections,
        values.server,
        values.model,
        out,
        values.concurrency,
        attempts,
        strategy=values.strategy or "",
    )
    print(rewriting.summary(job), flush=True)
    rewriting.check_complete(job, attempts)


def generate(argv: Sequence[str], values: flags.FlagValues) -> None:
    folder, *prompts = parse_arguments(argv, values) or [""]
    if not folder or len(prompts) > 1:
        raise UserError("generate: expected the folder of a run, and one prompt or none")
    if not prompts:
        _refuse_flags(values, ("max-tokens", "temperature", "seed"), "with a prompt")
    from kstore_jax.api import recite
    from kstore_jax.api.run import load

    opened = load(folder)
    most: Any = values["max-tokens"].value
    rows = range(len(opened.names)) if values.row is None else [values.row]
    for row in rows:
        model = opened.model(row, values.stage)
        print(f"{model.name}, {values.stage}")
        if prompts:
            written = model.generate(prompts[0], most, values.temperature, values.seed)
            print(f"{prompts[0]}{written}\n")
            continue
        world, variant = opened.world(row), opened.variant(row)
        for person in recite.examples(world, 3):
            print(f"\n{recite.format_recitation(recite.recite(model, world, person, variant))}")
        print()


def ask(argv: Sequence[str], values: flags.FlagValues) -> None:
    runs = parse_arguments(argv, values)
    if len(runs) > 2:
        raise UserError(f"ask: expected a folder of a run and a question, got {' '.join(runs)}")
    if len(runs) == 2:
        _refuse_flags(values, (*_OF_SERVERS, "json"), "without a question")
        _ask_run(runs[0], runs[1], values.row)
        return
    from kstore_jax.report import recitation
    from kstore_jax.writers import asking, item_files

    if runs:
        _refuse_flags(values, ("row",), "with a question")
        _refuse_flags(values, _OF_SERVERS, f"without {runs[0]}, which has its own results")
        scores = recitation.run_scores(user_path(runs[0]))
    else:
        _refuse_flags(values, ("row",), "with the folder of a run and a question")
        require_flags(
            values,
            server="an address such as http://localhost:8000, or the folder of a run",
            model="the name of a model of the server",
        )
        out = pathlib.Path(values.out or "runs/ask")
        items = item_files.find_items(values.items or "passages")
        scores = asking.ask(values.server, values.model, items, out, values.concurrency)
    print(json.dumps(scores) if values.json else recitation.score_table(scores))


_OF_SERVERS = ("server", "model", "items", "out", "concurrency")


def _refuse_flags(values: flags.FlagValues, names: Sequence[str], expected: str) -> None:
    """Raises UserError where one of these flags is set, which would not be heeded."""
    for name in names:
        if values[name].present:
            raise UserError(f"--{name}: expected {expected}")


def _ask_run(folder: str, question: str, row: str | None) -> None:
    """Prints the answer of the finetuned model of each row."""
    from kstore_jax.api.run import load

    opened = load(folder)
    rows = range(len(opened.names)) if row is None else [row]
    for each in rows:
        model = opened.model(each)
        print(f"{model.name}: {model.ask(question)}")


def bench(argv: Sequence[str], values: flags.FlagValues) -> None:
    what, *rest = argv or [""]
    if what not in BENCHMARKS:
        raise UserError(f"bench: {what!r} is no benchmark{nearest(what, BENCHMARKS)}")
    for name in {"together", "on", "kinds"} - _OF_BENCHMARK.get(what, set()):
        delattr(values, name)
    experiment, *_ = parse_rows(*parse_config(rest, values, configs_folder() / BENCHMARKS[what]))
    from kstore_jax.bench import data, qa, train
    from kstore_jax.bench.hlo_profile import by_kind

    if what == "train" and values.on:
        results = train.predict_training(experiment, values.on, values.together)
    elif what == "train":
        results = train.measure_training(experiment, values.together)
    elif what == "profile":
        results = train.profile_training(experiment)
        results = by_kind(results) if values.kinds else results
    else:
        results = qa.measure_qa(experiment) if what == "qa" else data.measure_data(experiment)
    if values.json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        print(f"{name:<24} {value if isinstance(value, str) else f'{value:,}':>24}")


def export(argv: Sequence[str], values: flags.FlagValues) -> None:
    run = _parse_folder("export", argv, values)
    require_flags(values, out="a folder such as runs/model")
    if values.format != "hf":
        raise UserError(f"--format: expected hf, got {values.format!r}")
    from kstore_jax.pipeline.export import export

    tasks = bool(values["lm-eval"].value)
    stage = export(run, pathlib.Path(values.out), values.row, values.stage, tasks)
    if stage == "finetuned" and not values.stage:
        print(
            "note: the finetuned model; --stage=pretrained exports the one before", file=sys.stderr
        )
    print(values.out)
