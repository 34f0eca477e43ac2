"""A sweep: a list of configurations over one cache of stages.

Nothing of a sweep lives in memory alone: killed at any moment and started again, it goes on from
the newest checkpoints. Several processes, on machines that share the folders, may be at one sweep:
each takes its share of the rows, and the last one writes the results.
"""

import contextlib
import functools
import itertools
import json
import os
import pathlib
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import filelock
import jax

from kstore_jax.bench import bench
from kstore_jax.config.fields import as_dict, identity, identity_of
from kstore_jax.errors import DamagedFileError, UserError, one_line_error
from kstore_jax.files import PARTIAL_SUFFIX, read_json, write_json
from kstore_jax.pipeline.cores import usable_cores
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.graph import ExperimentGraph, resolve_auto
from kstore_jax.pipeline.results import result_row
from kstore_jax.pipeline.run import Runner, check, pretrain_batched
from kstore_jax.pipeline.stages import Cache
from kstore_jax.report import agreement
from kstore_jax.report.groups import groups
from kstore_jax.sweep import estimates
from kstore_jax.sweep.plan import Plan, Report
from kstore_jax.sweep.workers import run_in_processes, write_experiments
from kstore_jax.train import distributed as distributed_runtime
from kstore_jax.train import preemption, trackers

_LOCK = ".lock"
_INDICES = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")  # of tasks numbered from 0


class Shard(NamedTuple):
    """The rows index, index + count, index + 2 count, ... of a sweep."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> Self:
        """`I/N`, counted from 0; or `auto/N`, where the number of the task in a SLURM array or an
        indexed Job of Kubernetes, which the environment tells, is I.

        Raises:
          UserError: it is neither, or I is not less than N.
        """
        if not (match := re.fullmatch(r"(\d+|auto)/(\d+)", text)):
            raise UserError(f"shard: expected I/N, such as 0/4, or auto/N, got {text!r}")
        index, count = match.groups()
        if index == "auto":
            told = [environment[name] for name in _INDICES if name in environment]
            if not told:
                raise UserError(
                    f"shard: auto needs one of {', '.join(_INDICES)} in the environment"
                )
            index = told[0]
        if not index.isdecimal() or int(index) >= int(count):
            raise UserError(f"shard: expected a number from 0 to {int(count) - 1}, got {index}")
        return cls(int(index), int(count))


WHOLE = Shard()


@contextlib.contextmanager
def _alone(workdir: pathlib.Path) -> Iterator[None]:
    """Inside, no other process writes the files of `workdir` itself; its workers may be at work."""
    with filelock.FileLock(workdir / _LOCK):
        yield


def claim(
    workdir: pathlib.Path, plan: Plan, rows: Sequence[Experiment], drop: bool = False
) -> None:
    """Makes `workdir` the folder of these rows, which may be more than it had before.

    A workdir that has other rows is refused, though its stages would do no harm: its results are
    somebody's record. Where `drop` is true its other rows are taken out; their stages stay.
    """
    given = {"rows": [as_dict(experiment) for experiment in rows]}
    _check_claim(workdir, given, drop)
    workdir.mkdir(parents=True, exist_ok=True)
    with _alone(workdir):
        if _check_claim(workdir, given, drop):  # what is there tells of rows that are taken out
            (workdir / "report.html").unlink(missing_ok=True)
            (workdir / "results.json").unlink(missing_ok=True)
        write_json(workdir / "config.json", given)
        plan.write(workdir)


def _check_claim(workdir: pathlib.Path, given: dict, drop: bool) -> bool:
    """Whether rows of `workdir` are not among those given; raises UserError where that, or what
    else is there, forbids to claim it."""
    path = workdir / "config.json"
    _expect_folder("--workdir", workdir)
    there = [*workdir.iterdir()] if workdir.exists() else []
    # looked for after the others: who claims it at the same time writes it before any of them
    if not all(map(_is_passing, there)) and not path.exists():
        raise UserError(f"{workdir} is not empty and holds no run of ours; give another --workdir")
    before = read_json(path, remove=workdir) if path.exists() else {}
    differing = _lost(before, given)
    if differing and not drop:
        raise UserError(
            f"{workdir} was made by another configuration ({differing}); give another --workdir, "
            "with --cache to share its stages, or let kstore sweep --drop take out the rows that "
            "are not asked for"
        )
    return bool(differing)


def taken_out(workdir: pathlib.Path, rows: Sequence[Experiment]) -> list[str]:
    """The rows of `workdir` that are not among these, as a reader knows them."""
    path = workdir / "config.json"
    before = read_json(path, remove=workdir).get("rows", []) if path.exists() else []
    given = [identity(resolve_auto(row)) for row in rows]
    return [
        f"row {i} ({parse(row).label})"
        for i, row in enumerate(before)
        if all(_first_difference(identity_of(Experiment, row), one) for one in given)
    ]


def _expect_folder(flag: str, path: pathlib.Path) -> None:
    """Raises UserError where no folder can be at `path`, as it or one above it is a file."""
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise UserError(f"{flag}: {there} is no folder")


def _is_passing(path: pathlib.Path) -> bool:
    return path.suffix == PARTIAL_SUFFIX or path.name == _LOCK


def _lost(there: dict, given: dict) -> str | None:
    """What a row that is there, and not asked for, differs in from the one in its place."""
    before, now = (
        [identity_of(Experiment, row) for row in told.get("rows", [])] for told in (there, given)
    )
    for i, one in enumerate(before):
        if one not in now and all(_first_difference(one, other) for other in now):
            if i >= len(now):
                return f"rows: {len(before)} there, {len(now)} asked for"
            return _first_difference(one, now[i], f".rows.{i}")
    return None


def _first_difference(there, given, path: str = "") -> str | None:
    if isinstance(there, dict) and isinstance(given, dict):
        pairs = ((k, there.get(k), given.get(k)) for k in {**there, **given})
    elif there == given:
        return None
    else:
        return f"{path[1:]}: {there!r} there, {given!r} asked for"
    found = (_first_difference(a, b, f"{path}.{name}") for name, a, b in pairs)
    return next(filter(None, found), None)


def default_workers(rows: int) -> int:
    """One worker a row, as far as there are cores; one where an accelerator would be shared."""
    if jax.default_backend() != "cpu":
        return 1
    return min(rows, len(usable_cores()))


def planned(
    workdir: pathlib.Path, rows: Sequence[Experiment], cache: pathlib.Path | None
) -> tuple[list[ExperimentGraph], Plan]:
    """The experiments of a sweep, checked, and the stages they need; nothing is written.

    Raises:
      UserError: an experiment is impossible.
      DamagedFileError: a file in `cache` is not as it was written.
    """
    stages = Cache(cache or workdir / "stages")
    _expect_folder("--cache" if cache else "--workdir", stages.root)
    graphs = _checked(rows, stages)
    described = {stage.folder: stage.spec for graph in graphs for stage in graph.stages}
    needed = tuple(
        (graph.experiment.label, tuple(stage.folder for stage in graph.stages)) for graph in graphs
    )
    return graphs, Plan(stages, needed, described)


def _checked(rows: Sequence[Experiment], stages: Cache) -> list[ExperimentGraph]:
    """The experiments of a sweep; what is wrong with some, and not with all, is said of its row."""
    graphs, wrong = [], {}
    for i, experiment in enumerate(rows):
        try:
            graphs.append(graph := ExperimentGraph(resolve_auto(experiment), stages))
            trackers.check_installed(experiment.telemetry)
            check(graph)
        except DamagedFileError:
            raise
        except UserError as error:
            wrong[i] = error
    if not wrong:
        return graphs
    i, first = next(iter(wrong.items()))
    if len(wrong) == len(rows) and len({*map(str, wrong.values())}) == 1:
        raise first
    raise UserError(f"row {i} ({rows[i].label}): {first}")


def dry_run(
    workdir: pathlib.Path,
    rows: Sequence[Experiment],
    cache: pathlib.Path | None,
    shard: Shard = WHOLE,
    drop: bool = False,
    notes: Sequence[str] = (),
) -> Report:
    """What `run` would do and how long it would take; where the cache has nothing like a stage, a
    step of its pretraining is tried for a moment, as stderr is told, unless that is done, and a
    token of the stage is taken to last as long as one there. Nothing is written, and what `run`
    refuses is refused."""
    graphs, plan = planned(workdir, rows, cache)
    _check_claim(workdir, {"rows": [as_dict(graph.experiment) for graph in graphs]}, drop)
    _note(notes)
    graphs, plan = graphs[shard.index :: shard.count], plan.share(shard.index, shard.count)
    pretrainings = [graph.experiment for graph in graphs]
    graph_of = {stage.folder: graph for graph in reversed(graphs) for stage in graph.stages}

    @functools.cache
    def step_seconds(experiment: Experiment) -> float:
        print("note: measuring a step of pretraining, which is compiled first", file=sys.stderr)
        return bench.step_seconds(experiment)

    def pretraining_seconds(graph: ExperimentGraph) -> float:
        if (took := plan.cache.seconds(graph.pretrain.folder)) is not None:
            return took
        one = next(e for e in pretrainings if _same_step(e, graph.experiment))
        return step_seconds(one) * graph.experiment.pretrain.steps

    tokens_of = functools.cache(estimates.tokens)

    def benchmark(folder: str) -> float | None:
        graph = graph_of[folder]
        tokens = tokens_of(graph)
        if folder not in tokens:
            return None
        return pretraining_seconds(graph) * tokens[folder] / tokens[graph.pretrain.folder]

    return Report(plan, plan.progress(benchmark))


def _same_step(one: Experiment, other: Experiment) -> bool:
    """Whether a step of pretraining takes as long, but for vocabularies of different size."""
    sizes = ("batch_size", "seq_len", "optimizer", "grad_accum_steps")
    trained = one.pretrain, other.pretrain
    return one.model == other.model and all(
        len({getattr(t, n) for t in trained}) == 1 for n in sizes
    )


def run(
    workdir: pathlib.Path,
    rows: Sequence[Experiment],
    workers: int | None = None,
    cache: pathlib.Path | None = None,
    shard: Shard = WHOLE,
    distributed: bool = False,
    together: int = 1,
    drop: bool = False,
    notes: Sequence[str] = (),
) -> pathlib.Path | None:
    """Computes every row of `shard` that is not done, `workers` at a time (`default_workers` where
    that is None); the process that finds all rows done writes `results.json` and the page.

    A row that fails stops no other: why it failed is told on stderr when all else is done, and the
    page shows the others. The same command tries it again.

    Args:
      cache: the folder of the stages, which several workdirs may share; `workdir / "stages"` where
        none is given.
      together: how many rows are pretrained in one program, where they can be; in this process,
        before the workers go on from there.
      distributed: whether this process is one of several that are at this together, which it joins.
      drop: whether rows of `workdir` that are not among these are taken out of it.
      notes: what stderr is told once nothing is refused.

    Returns: the page, None where rows of other shards are not done yet, and in the other processes
      of a run of several.

    Raises:
      UserError: an experiment is impossible, `workdir` holds something else, or several workers
        would open one accelerator; nothing is written. Or rows failed, or a worker was killed.
      DamagedFileError: a file in `workdir` or `cache` is not as it was written.
      Stopped: the process got SIGTERM; the trainings under way wrote a checkpoint.
    """
    preemption.handle_sigterm()
    if distributed:
        distributed_runtime.initialize()
    backend = jax.default_backend()
    if workers is not None and workers > 1 and backend != "cpu":
        raise UserError(
            f"workers: expected 1 on {backend}, where each would open every device, got {workers}"
        )
    graphs, plan = planned(workdir, rows, cache)
    if distributed_runtime.is_first():
        claim(workdir, plan, [graph.experiment for graph in graphs], drop)
        _note(notes)
    mine = dict(itertools.islice(enumerate(graphs), shard.index, None, shard.count))
    workers = min(workers or default_workers(len(mine)), len(mine))
    pretrain_batched([*mine.values()], together)
    waiting = {i: graph for i, graph in mine.items() if not graph.done}
    failed: dict[int, UserError] = {}
    if workers > 1 and waiting:
        with _alone(workdir):
            write_experiments(workdir, waiting)
        failed = run_in_processes(workdir, waiting, workers)
    for i, graph in mine.items():
        if (
            i not in failed
            and not distributed_runtime.broadcast_from_first(graph.done)
            and (error := _compute(graph))
        ):
            failed[i] = error
    if len(graphs) > 1:
        _tell(graphs, failed)
    page, left = None, {i for i, graph in enumerate(graphs) if not graph.done}
    if distributed_runtime.is_first() and left <= failed.keys() and len(left) < len(graphs):
        page = _publish(workdir, graphs, plan, left)
    if failed:
        raise _failure(graphs, failed, page)
    return page


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


def _compute(graph: ExperimentGraph) -> UserError | None:
    """Computes an experiment in this process; returns why it failed."""
    try:
        Runner(graph).run()
    except BrokenPipeError:
        raise
    except Exception as error:
        return one_line_error(error)
    return None


def _tell(graphs: Sequence[ExperimentGraph], failed: Mapping[int, UserError]) -> None:
    """Says on stderr which rows failed, and why."""
    for i, error in sorted(failed.items()):
        said = " ".join(str(error).split())
        print(f"kstore: row {i} ({graphs[i].experiment.label}): {said}", file=sys.stderr)


def _failure(
    graphs: Sequence[ExperimentGraph], failed: Mapping[int, UserError], page: pathlib.Path | None
) -> UserError:
    """What a sweep ends with whose rows failed."""
    if len(graphs) == 1:
        return failed[0]
    others = f"; the others are in {page}" if page else ""
    found = UserError(f"{len(failed)} of {len(graphs)} rows failed{others}")
    found.status = max(error.status for error in failed.values())
    return found


def _publish(
    workdir: pathlib.Path, graphs: Sequence[ExperimentGraph], plan: Plan, failed: Collection[int]
) -> pathlib.Path:
    """Writes the results and the page, unless they are there and the same; returns the page.

    Both are a function of the rows and the stages: who asks, where and with what, is not in them.
    """
    named = {i: graph.experiment.label for i, graph in enumerate(graphs) if i in failed}
    graphs = [graph for i, graph in enumerate(graphs) if i not in failed]
    rows = [result_row(graph) for graph in graphs]
    results = {"rows": rows, "stages": plan.path_from(workdir)}
    if named:
        results["failed"] = [{"row": i, "name": name} for i, name in named.items()]
    if alike := agreement.of_all_datasets(groups(rows, [graph.experiment for graph in graphs])):
        results["spearman"] = alike
    made = [one for folder in plan.stages for one in plan.cache.attempts(folder)]
    results["provenance"] = [*{json.dumps(one, sort_keys=True): one for one in made}.values()]
    path, page = workdir / "results.json", workdir / "report.html"
    with _alone(workdir):
        if page.exists() and path.exists() and read_json(path) == json.loads(json.dumps(results)):
            return page
        from kstore_jax.report import page as report

        page.unlink(missing_ok=True)  # it tells of other results than those of the next line
        write_json(path, results)
        return report.write([workdir], workdir)
