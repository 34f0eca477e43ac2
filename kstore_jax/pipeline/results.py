"""The results of an experiment's stages, as one row of `results.json`."""

import collections
import json
import pathlib

from kstore_jax.errors import UserError
from kstore_jax.files import read_json
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.stages import Cache
from kstore_jax.train.provenance import code_version
from kstore_jax.train.telemetry import METRICS, last_metrics
from kstore_jax.train.timing import goodput


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


def select_graphs(run: pathlib.Path, row: int | None) -> dict[int, ExperimentGraph]:
    """The experiments of a run by number; only number `row` unless it is None.

    Raises:
      UserError: there is no such run or row.
    """
    graphs = dict(enumerate(read_graphs(run)))
    if row is None:
        return graphs
    if row not in graphs:
        raise UserError(f"--row: expected less than {len(graphs)}, got {row}")
    return {row: graphs[row]}


def result_row(graph: ExperimentGraph) -> dict:
    """The row of a finished experiment. Accuracies are shares, from 0 to 1.

    - `name`, `dataset` (variant), `direction`, `seed`, `people`: of the configuration.
    - `mixed`: see `mixed_sources`.
    - `exposures`, `parameters`, `vocabulary`: see `Pretraining.result`.
    - `bio_recall`: share of values predicted whole inside the biographies, and by attribute in
      `bio_recall_by_attribute`; `bio_recall_hidden`: with more of the text hidden
      (`readouts/recall.py`), empty for a causal model.
    - `qa`: exact match on P_test by attribute; `qa_train`: its mean on P_train; `qa_first`: first
      tokens; `qa_wordings`: exact match on P_test in each wording that is never trained; `qa_beam`:
      by beam search, empty without one; `qa_baseline`: the majority guess; `qa_grid`: exact match
      on the people held back for each row of `finetune.grid`, and the chosen row.
    - `p_probe`, `q_probe`: see `train_probe`.
    - `code`: git commits, or else versions, of the code that computed the stages.
    - `seconds`, `seconds_by_stage`: time of computation, over all restarts.
    - `goodput`: fraction of the time of all trainings, over all restarts, that was spent on steps
      that were not repeated; starts, compilation, data, checkpoints and lost steps are the rest.

    Raises:
      NotFinished: a stage is not finished.
    """
    cache = graph.cache
    results = {stage.kind: cache.require(stage, every_process=False) for stage in graph.stages}
    answers = results["qa"]
    attempts = [attempt for stage in graph.stages for attempt in cache.attempts(stage.folder)]
    seconds: dict[str, float] = collections.defaultdict(float)
    spent: collections.Counter = collections.Counter()
    for stage in graph.stages:
        seconds[stage.kind] += cache.seconds(stage.folder) or 0.0
        spent.update((last_metrics(cache.folder(stage) / METRICS) or {}).get("spent", {}))
    probed = {
        name: {part: value for part, value in results[name].items() if part != "seconds"}
        for name in ("p_probe", "q_probe")
    }
    return {
        "name": graph.experiment.name,
        "dataset": graph.experiment.data.variant,
        "direction": graph.experiment.model.direction,
        "seed": graph.experiment.seed,
        "people": graph.experiment.world.people,
        "mixed": mixed_sources(graph.experiment),
        "exposures": results["pretrain"]["exposures"],
        "parameters": results["pretrain"]["parameters"],
        "vocabulary": results["pretrain"]["vocabulary"],
        "bio_recall": results["recall"]["whole"]["mean"],
        "bio_recall_by_attribute": results["recall"]["whole"],
        "bio_recall_hidden": results["recall"].get("hidden", {}),
        "qa": answers["test"]["exact"],
        "qa_train": answers["train"]["exact"]["mean"],
        "qa_first": {"train": answers["train"]["first"], "test": answers["test"]["first"]},
        "qa_beam": answers["test"].get("beam", {}),
        "qa_wordings": answers["wordings"]["test"],
        "qa_baseline": answers["baseline"],
        "qa_grid": answers.get("grid", []),
        **probed,
        "code": sorted(set(map(code_version, attempts))),
        "seconds": sum(seconds.values()),
        "seconds_by_stage": dict(seconds),
        "goodput": round(goodput(spent), 4),
    }


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
