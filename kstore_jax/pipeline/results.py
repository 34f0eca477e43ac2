"""The results of an experiment's stages, as one row of `results.json`."""

import collections
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kstore_jax.charts.curves import thinned
from kstore_jax.config.fields import identity
from kstore_jax.config.registry import MissingPlugin
from kstore_jax.errors import DamagedFileError, UserError, shown
from kstore_jax.files import read_json, reading
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.finetune import best_row
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.row import Row, own_settings
from kstore_jax.pipeline.stages import BOOKKEEPING, Cache
from kstore_jax.readouts.base import READOUTS
from kstore_jax.train.provenance import code_version
from kstore_jax.train.telemetry import METRICS, last_metrics, read_metrics
from kstore_jax.train.timing import goodput

_MOST_LINES = 240  # of a curve of pretraining


def read_graphs(run: pathlib.Path) -> list[ExperimentGraph]:
    """The experiments of a run, in the order of its rows, over its cache.

    Raises:
      UserError: `run` is not the folder of a run.
    """
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: no configuration of a run")
    rows = read_json(path, run, {"rows": list})["rows"]
    results = run / "results.json"
    stages = read_json(results).get("stages", "stages") if results.exists() else "stages"
    try:
        with reading(path):
            experiments = [parse(_without_newer_readouts(row)) for row in rows]
    except (MissingPlugin, DamagedFileError):
        raise
    except UserError as error:
        raise DamagedFileError(f"{path}: {error}") from None
    return [ExperimentGraph(experiment, Cache(run / stages)) for experiment in experiments]


def _without_newer_readouts(row: Any) -> Any:
    """A row of `config.json` where readouts that it does not name are off: the run was made before
    there were any, and is finished without them."""
    if not isinstance(row, dict) or not isinstance(named := row.get("readouts"), dict):
        return row
    newer = {name: {"enabled": False} for name in READOUTS if name not in named}
    return {**row, "readouts": {**named, **newer}}


def select_graphs(run: pathlib.Path, row: str | None) -> dict[int, ExperimentGraph]:
    """The experiments of a run by number; only the one of `row`, as `row_number` takes it, unless
    it is None.

    Raises:
      UserError: there is no such run, or not one such row.
    """
    graphs = read_graphs(run)
    if row is None:
        return dict(enumerate(graphs))
    number = row_number(graphs, row)
    return {number: graphs[number]}


def row_number(graphs: Sequence[ExperimentGraph], row: str, field: str = "--row") -> int:
    """The number of a row among the experiments of a run.

    Args:
      row: its number; or its name, its dataset (`multi5+permute`) or its label (`multi5+permute,
        seed 0`), whole or the beginning of one row's alone.
      field: what the error message names.

    Raises:
      UserError: there is not one such row.
    """
    if row.isdecimal():
        if len(row) > 9 or int(row) >= len(graphs):
            raise UserError(f"{field}: expected less than {len(graphs)}, got {row[:20]}")
        return int(row)
    names = labels([graph.experiment for graph in graphs])
    exact, beginning = [], []
    for number, graph in enumerate(graphs):
        e = graph.experiment
        own = {e.name, e.data.variant, e.label, names[number]}
        exact += [number] if row in own else []
        beginning += [number] if any(name.startswith(row) for name in own) else []
    found = exact or beginning
    if len(found) != 1:
        several = "several rows have" if found else "no row has"
        which = ", ".join(f"{i} ({names[i]})" for i in found or range(len(graphs)))
        raise UserError(f"{field}: {several} the name {shown(row)}; expected one of {which}")
    return found[0]


def labels(experiments: Sequence[Experiment]) -> list[str]:
    """The label of each experiment; of those with equal ones, with the settings in which they
    differ."""
    texts = [experiment.label for experiment in experiments]
    for label, count in collections.Counter(texts).items():
        numbers = [i for i, text in enumerate(texts) if text == label] if count > 1 else []
        varied = varied_fields([experiments[i] for i in numbers])
        for i, values in zip(numbers, varied, strict=True):
            if own := ", ".join(f"{field}={value}" for field, value in values.items()):
                texts[i] = f"{label}; {own}"
    return texts


def varied_fields(experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
    """For each experiment its values of the fields in which the experiments differ, without a
    `world.seed` that is the `seed`; None where it has no such field."""
    settings = [own_settings(identity(e)) for e in experiments]
    fields = dict.fromkeys(name for values in settings for name in values)
    varied = [f for f in fields if len({str(values.get(f)) for values in settings}) > 1]
    if "world.seed" in varied and all(own["world.seed"] == own["seed"] for own in settings):
        varied.remove("world.seed")
    return [{field: own.get(field) for field in varied} for own in settings]


def result_row(graph: ExperimentGraph) -> Row:
    """The row of a finished experiment.

    Raises:
      NotFinished: a stage is not finished.
      DamagedFileError: the cases or the metrics of a stage are not as it wrote them.
    """
    cache, config = graph.cache, graph.experiment
    results = {stage.kind: cache.require(stage, every_process=False) for stage in graph.stages}
    attempts = [attempt for stage in graph.stages for attempt in cache.attempts(stage.folder)]
    seconds: dict[str, float] = collections.defaultdict(float)
    spent: collections.Counter = collections.Counter()
    for stage in graph.stages:
        seconds[stage.kind] += cache.seconds(stage.folder) or 0.0
        spent.update((last_metrics(cache.folder(stage) / METRICS) or {}).get("spent", {}))
    return Row(
        name=config.name,
        config=identity(config),
        plugins=list(config.plugins),
        plugin_folders=list(config.plugin_folders) if config.plugins else [],
        attributes={a.name: a.label for a in graph.data.language.schema.attributes},
        noun=graph.data.language.schema.noun,
        exposures=results["pretrain"]["exposures"],
        parameters=results["pretrain"]["parameters"],
        vocabulary=results["pretrain"]["vocabulary"],
        readouts={name: _measured(results[name]) for name in graph.readouts},
        intervals={
            name: READOUTS[name].intervals(cases) if (cases := read_cases(graph, name)) else {}
            for name in graph.readouts
        },
        finetune_grid=finetune_grid(graph),
        **_curves(graph, results["pretrain"]["exposures"]),
        code=sorted(set(map(code_version, attempts))),
        seconds=sum(seconds.values()),
        seconds_by_stage=dict(seconds),
        goodput=round(goodput(spent), 4),
    )


def _measured(result: dict) -> dict:
    return {name: value for name, value in result.items() if name not in BOOKKEEPING}


def read_cases(graph: ExperimentGraph, name: str) -> dict[str, np.ndarray]:
    """The columns of `cases.npz` of a readout; empty where it wrote none.

    Raises:
      DamagedFileError: they are not as the stage wrote them.
    """
    stage = graph.readouts[name]
    folder = graph.cache.folder(stage)
    if not (path := folder / "cases.npz").exists():
        return {}
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
        raise DamagedFileError(f"{path}: damaged; remove {folder} and run again") from None


def _curves(graph: ExperimentGraph, exposures: float) -> dict[str, list[dict]]:
    """The metrics of pretraining that the page draws."""
    metrics = read_metrics(graph.cache.folder(graph.pretrain) / METRICS)
    a_step = exposures / max(graph.experiment.pretrain.steps, 1)

    def lines(name: str) -> list[dict]:
        measured = [line for line in metrics if line.get(name) is not None]
        return [
            {"step": s, "exposures": round(s * a_step, 3), name: line[name]}
            for line in thinned(measured, _MOST_LINES)
            for s in (line["step"],)
        ]

    return {"losses": lines("loss"), "evaluations": lines("evaluation")}


def finetune_grid(graph: ExperimentGraph) -> list[dict]:
    """The rows of the finetuning grid, as `Row` describes them."""
    if not (grid := graph.experiment.finetune.grid) or not graph.finetune:
        return []
    varied = dict.fromkeys(name for row in grid for name, _ in row)
    results = {
        row: graph.cache.require(stage, every_process=False)
        for row, stage in graph.finetune.items()
    }
    best = best_row(results)
    return [
        {
            **{name: getattr(row, name) for name in varied},
            "validation": result["validation"],
            "chosen": row == best,
        }
        for row, result in results.items()
    ]
