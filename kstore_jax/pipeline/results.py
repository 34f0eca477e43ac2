"""The results of an experiment's stages, as one row of `results.json`."""

import collections
import json
import pathlib
from collections.abc import Mapping

from kstore_jax.config.fields import flatten, identity
from kstore_jax.errors import UserError, shown
from kstore_jax.files import read_json
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.finetune import best_row
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.stages import BOOKKEEPING, Cache
from kstore_jax.train.provenance import code_version
from kstore_jax.train.telemetry import METRICS, last_metrics
from kstore_jax.train.timing import goodput

SCHEMA = 2
"""Version of the layout of `results.json`."""


def read_graphs(run: pathlib.Path) -> list[ExperimentGraph]:
    """The experiments of a run, in the order of its rows, over its cache.

    Raises:
      UserError: `run` is not the folder of a run.
    """
    path = run / "config.json"
    try:
        rows = json.loads(path.read_text())["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: no configuration of a run") from None
    results = run / "results.json"
    stages = read_json(results).get("stages", "stages") if results.exists() else "stages"
    return [ExperimentGraph(parse(row), Cache(run / stages)) for row in rows]


def select_graphs(run: pathlib.Path, row: str | None) -> dict[int, ExperimentGraph]:
    """The experiments of a run by number; only the one of `row` unless it is None.

    Args:
      row: its number; or its name, its dataset (`multi5+permute`) or its label (`multi5+permute,
        seed 0`), whole or the beginning of one row's alone.

    Raises:
      UserError: there is no such run, or not one such row.
    """
    graphs = dict(enumerate(read_graphs(run)))
    if row is None:
        return graphs
    if row.isdecimal():
        if len(row) > 9 or int(row) not in graphs:
            raise UserError(f"--row: expected less than {len(graphs)}, got {shown(row)}")
        return {int(row): graphs[int(row)]}
    names = labels({number: graph.experiment for number, graph in graphs.items()})
    exact, beginning = [], []
    for number, graph in graphs.items():
        e = graph.experiment
        own = {e.name, e.data.variant, e.label, names[number]}
        exact += [number] if row in own else []
        beginning += [number] if any(name.startswith(row) for name in own) else []
    found = exact or beginning
    if len(found) != 1:
        several = "several rows have" if found else "no row has"
        which = ", ".join(f"{number} ({names[number]})" for number in found or graphs)
        raise UserError(f"--row: {several} the name {shown(row)}; expected one of {which}")
    return {found[0]: graphs[found[0]]}


def labels(experiments: Mapping[int, Experiment]) -> dict[int, str]:
    """The label of each experiment by its number; where some are equal, with the settings in which
    the experiments differ."""
    counts = collections.Counter(experiment.label for experiment in experiments.values())
    if len(counts) == len(experiments):
        return {number: experiment.label for number, experiment in experiments.items()}
    settings = {number: flatten(identity(e)) for number, e in experiments.items()}
    fields = dict.fromkeys(name for values in settings.values() for name in values)
    varied = [
        name
        for name in fields
        if name not in ("seed", "world.seed", "data.variant")
        and len({str(values.get(name)) for values in settings.values()}) > 1
    ]
    texts = {}
    for number, e in experiments.items():
        values = ", ".join(f"{name}={settings[number].get(name)}" for name in varied)
        texts[number] = f"{e.label}; {values}" if values and counts[e.label] > 1 else e.label
    return texts


def result_row(graph: ExperimentGraph) -> dict:
    """The row of a finished experiment. Accuracies are shares, from 0 to 1.

    - `name`, `dataset` (variant), `direction`, `seed`, `people`: of the configuration.
    - `attributes`: their labels by name.
    - `mixed`: see `mixed_sources`.
    - `exposures`, `parameters`, `vocabulary`: see `Pretraining.result`.
    - `readouts`: the result of each enabled readout by name, as its `run` returns it.
    - `finetune_grid`: for each row of `finetune.grid` the varied fields, `validation` (exact match
      on the people held back), and whether it is `chosen`; empty without a grid.
    - `code`: git commits, or else versions, of the code that computed the stages.
    - `seconds`, `seconds_by_stage`: time of computation, over all restarts.
    - `goodput`: fraction of the time of all trainings, over all restarts, that was spent on steps
      that were not repeated; starts, compilation, data, checkpoints and lost steps are the rest.

    Raises:
      NotFinished: a stage is not finished.
    """
    cache = graph.cache
    results = {stage.kind: cache.require(stage, every_process=False) for stage in graph.stages}
    attempts = [attempt for stage in graph.stages for attempt in cache.attempts(stage.folder)]
    seconds: dict[str, float] = collections.defaultdict(float)
    spent: collections.Counter = collections.Counter()
    for stage in graph.stages:
        seconds[stage.kind] += cache.seconds(stage.folder) or 0.0
        spent.update((last_metrics(cache.folder(stage) / METRICS) or {}).get("spent", {}))
    return {
        "name": graph.experiment.name,
        "dataset": graph.experiment.data.variant,
        "direction": graph.experiment.model.direction,
        "seed": graph.experiment.seed,
        "people": graph.experiment.world.people,
        "attributes": {a.name: a.label for a in graph.data.language.schema.attributes},
        "mixed": mixed_sources(graph.experiment),
        "exposures": results["pretrain"]["exposures"],
        "parameters": results["pretrain"]["parameters"],
        "vocabulary": results["pretrain"]["vocabulary"],
        "readouts": {name: _measured(results[name]) for name in graph.readouts},
        "finetune_grid": finetune_grid(graph),
        "code": sorted(set(map(code_version, attempts))),
        "seconds": sum(seconds.values()),
        "seconds_by_stage": dict(seconds),
        "goodput": round(goodput(spent), 4),
    }


def _measured(result: dict) -> dict:
    return {name: value for name, value in result.items() if name not in BOOKKEEPING}


def finetune_grid(graph: ExperimentGraph) -> list[dict]:
    """The rows of the finetuning grid, as `result_row` describes them."""
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


def mixed_sources(experiment: Experiment) -> dict:
    """The sources that pretraining reads beside, or (`rewritten`) instead of, template biographies
    of the people; empty where there are none."""
    world, data = experiment.world, experiment.data
    sources = {}
    if data.rewritten:
        sources["rewritten"] = data.rewritten
    if world.celebrities:
        sources["celebrities"] = world.celebrities
        sources["celebrity_variant"] = data.celebrity_variant
        sources["celebrity_share"] = data.celebrity_share
    if data.qa_share:
        sources["qa_share"] = data.qa_share
    if data.text:
        sources["text"] = data.text
        sources["text_share"] = data.text_share
    return sources
