"""Runs a sweep: a list of experiments over one cache of stages.

All state of a sweep is in files: after a kill at any moment the same command resumes from the
newest checkpoints. Several processes, on machines that share the folders, may run one sweep: each
computes its shard of the rows, and the last one writes the results.
"""

import contextlib
import functools
import itertools
import json
import operator
import os
import pathlib
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Self

import jax

from kstore_jax.bench import roofline
from kstore_jax.errors import DamagedFileError, UserError, one_line_error, shown
from kstore_jax.files import read_json, write_json
from kstore_jax.pipeline import memory
from kstore_jax.pipeline.cores import usable_cores
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.graph import ExperimentGraph, auto_notes, resolve_auto
from kstore_jax.pipeline.results import labels, result_row
from kstore_jax.pipeline.row import SCHEMA
from kstore_jax.pipeline.run import Runner, check, pretrain_batched
from kstore_jax.pipeline.stages import Cache
from kstore_jax.sweep import estimates
from kstore_jax.sweep.plan import Plan, PlanStatus
from kstore_jax.sweep.size import RowSize, row_memory, row_size
from kstore_jax.sweep.workdir import check_is_folder, check_workdir, claim_workdir, lock_workdir
from kstore_jax.sweep.workers import run_in_processes, write_experiments
from kstore_jax.train import determinism
from kstore_jax.train import distributed as distributed_runtime
from kstore_jax.train.mesh import make_mesh

_TASK_NUMBERS = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")  # environment, from 0


class RowShard(NamedTuple):
    """The rows index, index + count, index + 2 count, ... of a sweep."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> Self:
        """Parses `I/N`, counted from 0, or `auto/N`, where `environment` has I: the task number of
        a SLURM array or an indexed Kubernetes Job.

        Raises:
          UserError: the text has another form, or I is not less than N.
        """
        if not (match := re.fullmatch(r"(\d{1,9}|auto)/([1-9]\d{0,8})", text)):
            raise UserError(f"--shard: expected I/N, such as 0/4, or auto/N, got {shown(text)}")
        index, count = match.groups()
        if index == "auto":
            numbers = [environment[name] for name in _TASK_NUMBERS if name in environment]
            if not numbers:
                raise UserError(
                    f"--shard: auto needs one of {', '.join(_TASK_NUMBERS)} in the environment"
                )
            index = numbers[0]
        if not re.fullmatch(r"\d{1,9}", index) or int(index) >= int(count):
            raise UserError(
                f"--shard: expected a number from 0 to {int(count) - 1}, got {shown(index)}"
            )
        return cls(int(index), int(count))


ALL_ROWS = RowShard()


def default_workers(rows: int) -> int:
    """Returns one worker a row, at most one a core; one on an accelerator, which workers cannot
    share."""
    if jax.default_backend() != "cpu":
        return 1
    return min(rows, len(usable_cores()))


def plan_sweep(
    workdir: pathlib.Path,
    rows: Sequence[Experiment],
    cache: pathlib.Path | None,
    to_run: bool = True,
    on: str = "",
) -> tuple[list[ExperimentGraph], Plan]:
    """Returns the checked experiments of a sweep, and the stages they need; writes nothing.

    Args:
      to_run: whether they are to be computed, and not only planned.
      on: the accelerators they are planned for; empty: this machine, whose memory and devices they
        have to fit.

    Raises:
      UserError: an experiment is impossible.
      DamagedFileError: a file in `cache` is not as it was written.
    """
    stages = Cache(cache or workdir / "stages")
    check_is_folder("--cache" if cache else "--workdir", stages.root)
    graphs = _check_rows(rows, stages, to_run, on)
    specs = {stage.folder: stage.spec for graph in graphs for stage in graph.stages}
    names = labels([graph.experiment for graph in graphs])
    needed = tuple(
        (name, tuple(stage.folder for stage in graph.stages))
        for name, graph in zip(names, graphs, strict=True)
    )
    return graphs, Plan(stages, needed, specs)


def _check_rows(
    rows: Sequence[Experiment], stages: Cache, to_run: bool, on: str
) -> list[ExperimentGraph]:
    """The checked experiments of a sweep; an error that not all rows share names its row."""
    graphs, errors = [], {}
    for i, experiment in enumerate(rows):
        try:
            if not on:
                memory.check(experiment)
            graphs.append(graph := ExperimentGraph(resolve_auto(experiment), stages))
            if not on:
                memory.check(graph.experiment)  # its steps may follow from its exposures
                make_mesh(graph.experiment.mesh)
            check(graph, to_run)
            row_size(graph)
        except DamagedFileError:
            raise
        except UserError as error:
            errors[i] = error
    if not errors:
        return graphs
    i, first = next(iter(errors.items()))
    if len(errors) == len(rows) and len({*map(str, errors.values())}) == 1:
        raise first
    raise UserError(f"row {i} ({rows[i].label}): {first}")


def dry_run(
    workdir: pathlib.Path,
    rows: Sequence[Experiment],
    cache: pathlib.Path | None,
    shard: RowShard = ALL_ROWS,
    drop_other_rows: bool = False,
    notes: Sequence[str] = (),
    measure: bool = True,
    on: str = "",
) -> PlanStatus:
    """Returns the stages that `run` would compute, and how long they would take; writes nothing.

    Where the cache has no similar stage, one step of its pretraining is timed, with a note on
    stderr; a token of another stage is assumed to take as long as one of pretraining. Without
    `measure` such stages have no estimate. `on` predicts every stage for an accelerator that is not
    here, from FLOP and bytes, and does not check that the rows fit this machine.

    Raises:
      UserError, DamagedFileError: as `run` does before it writes anything; or there is no
        accelerator `on`.
    """
    graphs, plan = plan_sweep(workdir, rows, cache, to_run=False, on=on)
    check_workdir(workdir, [graph.experiment for graph in graphs], drop_other_rows)
    _print_notes(notes)
    graphs, plan = graphs[shard.index :: shard.count], plan.shard(shard.index, shard.count)
    experiments = [graph.experiment for graph in graphs]
    graph_of = {stage.folder: graph for graph in reversed(graphs) for stage in graph.stages}

    @functools.cache
    def step_seconds(experiment: Experiment) -> float:
        from kstore_jax.bench import train as training_bench  # loads the training loop

        print("note: timing a step of pretraining, which is compiled first", file=sys.stderr)
        return training_bench.step_seconds(experiment)

    def pretraining_seconds(graph: ExperimentGraph) -> float:
        if (seconds := plan.cache.seconds(graph.pretrain.folder)) is not None:
            return seconds
        first = next(e for e in experiments if _same_step(e, graph.experiment))
        return step_seconds(first) * graph.experiment.pretrain.steps

    stage_tokens = functools.cache(estimates.stage_tokens)

    def benchmark(folder: str) -> float | None:
        graph = graph_of[folder]
        tokens = stage_tokens(graph)
        if folder not in tokens:
            return None
        return pretraining_seconds(graph) * tokens[folder] / tokens[graph.pretrain.folder]

    def predicted(folder: str) -> float | None:
        return seconds_on(graph_of[folder], roofline.accelerator(on)).get(folder)

    seconds_on = functools.cache(estimates.seconds_on)
    estimate = predicted if on else benchmark if measure else lambda _: None
    progress = plan.progress(estimate, on)
    sizes = [row_size(graph)._replace(memory=row_memory(graph, on)) for graph in graphs]
    return PlanStatus(plan, progress, sizes, on)


def _same_step(one: Experiment, other: Experiment) -> bool:
    """Whether a step of pretraining takes as long, apart from the size of the vocabulary."""
    settings = operator.attrgetter("batch_size", "seq_len", "optimizer", "grad_accum_steps")
    return one.model == other.model and settings(one.pretrain) == settings(other.pretrain)


def run(
    workdir: pathlib.Path,
    rows: Sequence[Experiment],
    workers: int | None = None,
    cache: pathlib.Path | None = None,
    shard: RowShard = ALL_ROWS,
    distributed: bool = False,
    together: int = 1,
    drop_other_rows: bool = False,
    notes: Sequence[str] = (),
) -> pathlib.Path | None:
    """Computes every unfinished row of `shard`, `workers` at a time (`default_workers` where None).
    The process that finds all rows finished writes `results.json` and the page.

    A row that fails does not stop the others: its error is printed at the end, and the page shows
    the other rows. The same command tries it again.

    Args:
      cache: the folder of the stages, which workdirs may share; `workdir / "stages"` where None.
      distributed: joins this process to a multi-process run.
      together: rows that are pretrained in one program where they can be, in this process, before
        the workers continue.
      drop_other_rows: removes rows of `workdir` that are not in `rows`.
      notes: printed on stderr after all checks.

    Returns: the page; None where rows of other shards are unfinished, and in all processes of a
      multi-process run except the first.

    Raises:
      UserError: an experiment is impossible, `workdir` holds something else, or several workers
        would open one accelerator; nothing is written. Or rows failed, or a worker was killed.
      DamagedFileError: a file in `workdir` or `cache` is not as it was written.
      Stopped: the process got SIGTERM; running trainings wrote a checkpoint.
    """
    choices = None
    if any(row.mesh.deterministic for row in rows):
        choices = determinism.set_flags(cache or workdir / "stages")
    if distributed:
        distributed_runtime.initialize()
    backend = jax.default_backend()
    if workers is not None and workers > 1 and backend != "cpu":
        raise UserError(
            f"--workers: expected 1 on {backend}, where each would open every device, got {workers}"
        )
    graphs, plan = plan_sweep(workdir, rows, cache)
    if distributed_runtime.is_first():
        claim_workdir(workdir, plan, [graph.experiment for graph in graphs], drop_other_rows)
        _print_notes(notes)
        if not all(graph.done for graph in graphs):
            size = RowSize.format([*map(row_size, graphs)])
            _print_notes([*auto_notes(rows), *(f"note: {line}" for line in size)])
    if choices:
        choices.mkdir(parents=True, exist_ok=True)
    mine = dict(itertools.islice(enumerate(graphs), shard.index, None, shard.count))
    workers = min(workers or default_workers(len(mine)), len(mine))
    pretrain_batched([*mine.values()], together)
    waiting = {i: graph for i, graph in mine.items() if not graph.done}
    failed: dict[int, UserError] = {}
    if workers > 1 and waiting:
        with lock_workdir(workdir):
            write_experiments(workdir, waiting)
        failed = run_in_processes(workdir, waiting, workers)
    for i, graph in mine.items():
        if (
            i not in failed
            and not distributed_runtime.broadcast_from_first(graph.done)
            and (error := _compute_row(graph))
        ):
            failed[i] = error
    if len(graphs) > 1:
        _print_failures(graphs, failed)
    page, unfinished = None, {i for i, graph in enumerate(graphs) if not graph.done}
    only_failed = unfinished <= failed.keys() and len(unfinished) < len(graphs)
    if distributed_runtime.is_first() and only_failed:
        page = _write_report(workdir, graphs, plan, unfinished)
    if failed:
        raise _sweep_error(graphs, failed, page)
    return page


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


def _compute_row(graph: ExperimentGraph) -> UserError | None:
    """Computes an experiment in this process; returns its error."""
    try:
        Runner(graph).run()
    except BrokenPipeError:
        raise
    except Exception as error:
        return one_line_error(error)
    return None


def _print_failures(graphs: Sequence[ExperimentGraph], failed: Mapping[int, UserError]) -> None:
    """Prints the failed rows and their errors on stderr."""
    for i, error in sorted(failed.items()):
        reason = " ".join(str(error).split())
        print(f"kstore: row {i} ({graphs[i].experiment.label}): {reason}", file=sys.stderr)


def _sweep_error(
    graphs: Sequence[ExperimentGraph], failed: Mapping[int, UserError], page: pathlib.Path | None
) -> UserError:
    """The error of a sweep with failed rows."""
    if len(graphs) == 1:
        return failed[0]
    others = f"; the others are in {page}" if page else ""
    status = max(error.status for error in failed.values())
    return UserError(f"{len(failed)} of {len(graphs)} rows failed{others}", status)


def _write_report(
    workdir: pathlib.Path, graphs: Sequence[ExperimentGraph], plan: Plan, failed: Collection[int]
) -> pathlib.Path:
    """Writes the results and the page where they changed; returns the page.

    Both are functions of the rows and the stages.
    """
    failed_labels = {i: graph.experiment.label for i, graph in enumerate(graphs) if i in failed}
    graphs = [graph for i, graph in enumerate(graphs) if i not in failed]
    rows = [result_row(graph) for graph in graphs]
    json_rows = [row.to_json() for row in rows]
    results = {"schema": SCHEMA, "rows": json_rows, "stages": plan.cache_path_from(workdir)}
    if failed_labels:
        results["failed"] = [{"row": i, "name": label} for i, label in failed_labels.items()]
    from kstore_jax.report import agreement  # loads scipy.stats
    from kstore_jax.report import page as report  # loads the chart renderer
    from kstore_jax.report.groups import groups

    if ranks := agreement.of_all_datasets(groups(rows)):
        results["spearman"] = ranks
    attempts = [attempt for folder in plan.stages for attempt in plan.cache.attempts(folder)]
    distinct = {json.dumps(attempt, sort_keys=True): attempt for attempt in attempts}
    results["provenance"] = [*distinct.values()]
    path, page = workdir / "results.json", workdir / "report.html"
    with lock_workdir(workdir):
        with contextlib.suppress(DamagedFileError):  # it is written again
            before = read_json(path) if page.exists() and path.exists() else None
            if before == json.loads(json.dumps(results)):
                return page
        page.unlink(missing_ok=True)  # it shows older results than the next line writes
        write_json(path, results)
        return report.write([workdir], workdir)
