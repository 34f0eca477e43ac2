"""What the stages of an experiment found, as one row of `results.json`."""

import collections
import json
import pathlib

from kstore_jax.errors import UserError
from kstore_jax.files import read_json
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.lab import Lab
from kstore_jax.pipeline.stages import Cache
from kstore_jax.train.telemetry import METRICS, code_version, last_metrics
from kstore_jax.train.timing import goodput


def labs_of(run: pathlib.Path) -> list[Lab]:
    """The experiments of a run, over its stages.

    Raises:
      UserError: the folder is that of no run.
    """
    path = run / "config.json"
    try:
        rows = json.loads(path.read_text())["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: no configuration of a run") from None
    results = run / "results.json"
    stages = read_json(results).get("stages", "stages") if results.exists() else "stages"
    return [Lab(parse(row), Cache(run / stages)) for row in rows]


def rows_of(run: pathlib.Path, row: int | None) -> dict[int, Lab]:
    """The experiments of a run by their numbers; that of `row` alone unless it is None.

    Raises:
      UserError: there is no such run or row.
    """
    labs = dict(enumerate(labs_of(run)))
    if row is None:
        return labs
    if row not in labs:
        raise UserError(f"--row: expected less than {len(labs)}, got {row}")
    return {row: labs[row]}


def row(lab: Lab) -> dict:
    """The row of a finished experiment. Accuracies are shares, from 0 to 1.

    `qa` is exact match on P_test and `qa_train` its mean on P_train; `bio_recall` is the share of
    attribute values predicted whole inside the biographies, and `bio_recall_hidden` that with more
    of the text hidden, as `lab/recall.py` says (bidirectional models alone); `qa_wordings` lists
    exact match on P_test in each wording that was never trained; `qa_beam` is that by beam search,
    empty where none was made; `qa_grid` is exact match on the people held back for each row of
    `finetune.grid`, and which was chosen; `mixed` is what was read in pretraining beside the
    biographies of the people, or instead of those of templates, empty where nothing was;
    `exposures` counts how often each person is read about in pretraining. A linear probe's ceiling
    is the share of held-out people whose class somebody of the other half has too: it cannot name
    any other. `code` names the git commits, or else the versions, of the code that computed the
    stages. `goodput` is the share of the time of all trainings, over all restarts, that went to
    steps which were done once, and not to starts, compilation, data, checkpoints or what a kill
    lost. `name` is the configuration's, empty where it gives none.
    """
    found = {stage.name: lab.cache.result(stage) for stage in lab.stages}
    answers = found["qa"]
    made = [attempt for stage in lab.stages for attempt in lab.cache.attempts(stage.folder)]
    seconds, spent = collections.Counter(), collections.Counter()
    for stage in lab.stages:
        seconds[stage.name] += lab.cache.result(stage)["seconds"]
        spent.update((last_metrics(lab.cache.folder(stage) / METRICS) or {}).get("spent", {}))
    probed = {
        name: {part: value for part, value in found[name].items() if part != "seconds"}
        for name in ("p_probe", "q_probe")
    }
    return {
        "name": lab.experiment.name,
        "dataset": lab.experiment.data.variant,
        "direction": lab.experiment.model.direction,
        "seed": lab.experiment.seed,
        "people": lab.experiment.world.people,
        "mixed": mixed(lab.experiment),
        "exposures": found["pretrain"]["exposures"],
        "parameters": found["pretrain"]["parameters"],
        "vocabulary": found["pretrain"]["vocabulary"],
        "bio_recall": found["recall"]["whole"]["mean"],
        "bio_recall_by_attribute": found["recall"]["whole"],
        "bio_recall_hidden": found["recall"].get("hidden", {}),
        "qa": answers["test"]["exact"],
        "qa_train": answers["train"]["exact"]["mean"],
        "qa_first": {"train": answers["train"]["first"], "test": answers["test"]["first"]},
        "qa_beam": answers["test"].get("beam", {}),
        "qa_wordings": answers["wordings"]["test"],
        "qa_baseline": answers["baseline"],
        "qa_grid": answers.get("grid", []),
        **probed,
        "code": sorted(set(map(code_version, made))),
        "seconds": seconds.total(),
        "seconds_by_stage": dict(seconds),
        "goodput": round(goodput(spent), 4),
    }


def mixed(experiment: Experiment) -> dict:
    """What is read in pretraining beside the people's biographies, or instead of those of
    templates, as the configuration has it."""
    world, data = experiment.world, experiment.data
    found = {}
    if data.rewritten:
        found["rewritten"] = data.rewritten
    if world.celebrities:
        found["celebrities"] = world.celebrities
        found["celebrity_variant"] = data.celebrity_variant
        found["celebrity_share"] = data.celebrity_share
    if data.qa_share:
        found["qa_share"] = data.qa_share
    if data.text:
        found["text"] = data.text
        found["text_share"] = data.text_share
    return found
