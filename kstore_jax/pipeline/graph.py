"""The stages of one experiment.

Datasets -> pretrain -> finetune, and each readout of the pretrained or the finetuned model.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from kstore_jax.config.fields import LARGEST, identity
from kstore_jax.corpus import shards
from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint
from kstore_jax.model.attention import choose_implementation, explain_auto
from kstore_jax.model.matmul import fastest_activation_dtype, fastest_matmul_dtype
from kstore_jax.pipeline import finetune, pretrain
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.finetune_config import Finetune
from kstore_jax.pipeline.mixture import windows_per_exposure
from kstore_jax.pipeline.stages import Cache, Stage
from kstore_jax.readouts.base import Readout
from kstore_jax.tasks.base import TASKS
from kstore_jax.train.config import Training
from kstore_jax.train.distributed import broadcast_from_first

DATASET_VERSION = 1
_CONTENTS = {  # fields of a stage that stand for files
    "language": "the world (the files of world.folder)",
    "tokenizer": "the tokenizer (data.tokenizer)",
    "documents": "the files of data.text",
    "rewritten": "the texts of data.rewritten",
    "initial": "the weights of model.init_from",
}


def resolve_auto(experiment: Experiment) -> Experiment:
    """The experiment with the choices of this machine where `model.dtype`,
    `model.activation_dtype` or `model.attention` is `auto`.

    Raises:
      UserError: this machine lacks the attention implementation, or products in the dtype of
        activations.
    """
    m = experiment.model
    dtype = fastest_matmul_dtype() if m.dtype == "auto" else m.dtype
    activation_dtype = m.activation_dtype
    if activation_dtype == "auto":
        activation_dtype = fastest_activation_dtype(dtype)
    elif activation_dtype == "bfloat16" and dtype == "float32":
        reason = "since model.dtype is float32 on this machine"
        raise UserError(f"model.activation_dtype: expected float32, {reason}")
    attention = choose_implementation(
        m.attention, dtype, m.resolved_head_width, m.attention_dropout
    )
    model = dataclasses.replace(
        m, dtype=dtype, activation_dtype=activation_dtype, attention=attention
    )
    return dataclasses.replace(experiment, model=model)


def auto_notes(experiments: Sequence[Experiment]) -> list[str]:
    """What `model.attention=auto` means for these experiments on this machine, and why: one line
    for each answer."""
    notes = []
    for m in (e.model for e in experiments if e.model.attention == "auto"):
        dtype = fastest_matmul_dtype() if m.dtype == "auto" else m.dtype
        reason = explain_auto(dtype, m.resolved_head_width, m.attention_dropout)
        notes.append(f"note: model.attention: {reason}")
    return [*dict.fromkeys(notes)]


def with_steps(experiment: Experiment, data: ExperimentData | None = None) -> Experiment:
    """The experiment with the steps of pretraining that `pretrain.exposures` needs; unchanged where
    they are known. Steps are rounded to the nearest multiple of `pretrain.steps_per_call`.

    Args:
      data: its data; made here where None.

    Raises:
      UserError: they are too many, or not more than `pretrain.warmup_steps`.
    """
    training = experiment.pretrain
    if training.steps:
        return experiment
    data = data or ExperimentData(experiment.world, experiment.data)
    windows = training.exposures * windows_per_exposure(data, training.seq_len)
    calls = windows / training.batch_size / training.steps_per_call
    steps = max(1, round(calls)) * training.steps_per_call
    if steps > LARGEST:
        raise UserError(
            f"pretrain.exposures: expected at most {LARGEST} steps, got {training.exposures:g} "
            f"exposures, which are {steps}"
        )
    try:
        return dataclasses.replace(experiment, pretrain=dataclasses.replace(training, steps=steps))
    except UserError as error:
        needed = f"{training.exposures:g} exposures need {steps} steps"
        raise UserError(f"pretrain.{error} ({needed})") from None


class ExperimentGraph:
    """The stages of an experiment in a cache; `pipeline/run.py` computes them.

    Attributes:
      experiment: the configuration, with the steps that `pretrain.exposures` needs.
      cache: where stages and their results are.
      data: people, language and tokens.
      datasets: kind -> stage of a dataset.
      pretrain: its stage.
      first: the finetuning that the others start from; None without `finetune.first`.
      finetune: row of the finetuning grid -> its stage; empty where `finetune.steps` is 0, or where
        nothing reads a finetuned model.
      refit: the finetuning of the chosen row on all of P_train; None without `finetune.refit` and
        a grid.
      readouts: name -> stage of an enabled readout.
      stages: all of them, parents before children.
    """

    def __init__(self, experiment: Experiment, cache: Cache):
        self.cache = cache
        self.data = ExperimentData(experiment.world, experiment.data)
        for name in experiment.tasks_in_use:
            TASKS[name].check(getattr(experiment.tasks, name), self.data.language)
        self.experiment = e = with_steps(experiment, self.data)
        self.datasets = {
            kind: Stage(kind, DATASET_VERSION, dataset.config, numbers=("entries", "tokens"))
            for kind, dataset in self.data.datasets.items()
        }
        datasets = (*self.datasets.values(),)
        self.pretrain = Stage(
            "pretrain",
            pretrain.VERSION,
            _pretrain_config(e, self.data),
            datasets,
            ("exposures", "parameters", "vocabulary"),
        )
        on_pretrained: tuple[Stage, ...] = (self.pretrain,)
        measured = {
            name: (readout, config)
            for name, (readout, config) in e.enabled_readouts.items()
            if readout.has_stage and _is_reached(readout.reads, e.until)
        }
        on_finetuned = {name for name, (r, _) in measured.items() if r.reads == "finetuned"}
        needed = any(measured[name][0].needs_finetuning for name in on_finetuned)
        tunes = e.finetune.steps and (e.until == "finetune" or needed)
        if e.finetune.steps and not tunes:
            measured = {name: x for name, x in measured.items() if name not in on_finetuned}
        if self.data.language.schema.chunks > 1 and (listing := _LISTING & measured.keys()):
            raise UserError(
                f"readouts.{min(listing)}.enabled: expected False in {e.world.folder}: values of "
                "several strings (C) are too many to list"
            )
        self.first = None
        if tunes and (first := e.finetune.first_row):
            self.first = self._finetuning(first, self.pretrain, held_back=0.0)
        start = self.first or self.pretrain
        rows = e.finetune.rows if tunes else ()
        self.finetune = {row: self._finetuning(row, start, self.held_back) for row in rows}
        finetunings = (*self.finetune.values(),)
        self.refit = None
        if finetunings and e.finetune.grid and e.finetune.refit:
            self.refit = Stage("refit", finetune.VERSION, {}, finetunings)
            finetunings = (self.refit,)
        parents = {"pretrained": on_pretrained, "finetuned": finetunings or on_pretrained}
        self.readouts = {
            name: Stage(
                name,
                readout.version,
                self._readout_config(readout, config),
                parents[readout.reads],
            )
            for name, (readout, config) in measured.items()
        }
        self.stages = (
            *self.datasets.values(),
            *self.trainings,
            *self.readouts.values(),
        )

    @property
    def held_back(self) -> float:
        """Fraction of P_train's people that each finetuning of a grid leaves out; 0: no grid."""
        finetuning = self.experiment.finetune
        return finetuning.validation if finetuning.grid else 0.0

    @property
    def trainings(self) -> tuple[Stage, ...]:
        """Pretraining and every finetuning."""
        around = [[stage] if stage else [] for stage in (self.first, self.refit)]
        return (self.pretrain, *around[0], *self.finetune.values(), *around[1])

    @property
    def has_finetuned(self) -> bool:
        """Whether this run has the model that answers questions: a finetuned one, or the pretrained
        one where `finetune.steps` is 0."""
        return bool(self.finetune) or not self.experiment.finetune.steps

    @property
    def trained_tasks(self) -> tuple[str, ...]:
        """The tasks whose questions this run trains: by finetuning, or, where `finetune.steps` is
        0, mixed into pretraining."""
        e = self.experiment
        if self.finetune:
            return e.finetune.tasks
        return e.data.tasks if e.data.qa_share and not e.finetune.steps else ()

    def _readout_config(self, readout: Readout, config: Any) -> dict:
        fields = {"training" if isinstance(config, Training) else "config": identity(config)}
        if contents := readout.contents(config):
            fields["contents"] = contents
        tasks = _task_configs(self.experiment, getattr(config, "tasks", ()))
        for name in tasks:
            if version := TASKS[name].rewordings_version:
                tasks[name]["rewordings"] = version
        return {**fields, "tasks": tasks} if tasks else fields

    def _finetuning(self, row: Finetune, start: Stage, held_back: float) -> Stage:
        training = {k: v for k, v in identity(row).items() if k not in _CHOICE}
        tasks = _task_configs(self.experiment, row.tasks)
        config = {"training": training, "tasks": tasks, "held_back": held_back}
        numbers = ("validation",) if held_back else ()
        return Stage("finetune", finetune.VERSION, config, (start,), numbers)

    @property
    def done(self) -> bool:
        """Whether every stage is finished."""
        return all(self.cache.result(stage) is not None for stage in self.stages)

    def why_unfinished(self) -> str:
        """Why a training is not finished, in words: what changed since, where the cache has a stage
        that differs in the contents of files or the version of the code alone."""
        specs = self.cache.specs()
        for stage in (*self.datasets.values(), *self.trainings):
            if self.cache.result(stage) is not None:
                continue
            config = json.loads(json.dumps(stage.config))
            for folder, other in specs.items():
                if other.kind != stage.kind or self.cache.seconds(folder) is None:
                    continue
                fields = {*config, *other.config}
                differing = {f for f in fields if config.get(f) != other.config.get(f)}
                what = [text for name, text in _CONTENTS.items() if name in differing]
                if not differing and other.version != stage.version:
                    what = [f"the code of stage {stage.kind} in kstore"]
                if what and differing <= _CONTENTS.keys():
                    changed = " and ".join(what)
                    return f"{changed} changed since it was computed; undo that or run it again"
            return f"{stage.kind} is not finished; run it first"
        return "no readout of this run needs a finetuned model, so none was trained"

    def check_datasets(self) -> None:
        """Raises DamagedFileError where a dataset of the cache is not as it was written; all
        processes of a run call it together."""
        for stage in self.datasets.values():
            if broadcast_from_first(self.cache.result(stage)) is not None:
                shards.read_manifest(self.cache.folder(stage) / "dataset")
                self.cache.check_files(stage)


_LISTING = {"examples", "layers", "p_probe", "q_probe"}
"""Readouts that list the values of an attribute."""
_CHOICE = ("first", "grid", "validation", "refit")
"""Fields of finetuning that are stages of their own, or choose one of them."""


def _is_reached(model: str, until: str) -> bool:
    """Whether a readout of that model, `pretrained` or `finetuned`, is computed where the last
    training is `until`."""
    return not until or (until == "finetune" and model == "pretrained")


def _task_configs(experiment: Experiment, tasks: Sequence[str], vocabulary: bool = False) -> dict:
    """Version and configuration of each of these tasks.

    Args:
      vocabulary: whether it is the configuration of their questions in a compact vocabulary.
    """
    configs = {name: getattr(experiment.tasks, name) for name in tasks}
    if vocabulary:
        configs = {name: TASKS[name].vocabulary_config(own) for name, own in configs.items()}
    return {
        name: {"version": TASKS[name].version, "config": identity(own)}
        for name, own in configs.items()
    }


def _pretrain_config(experiment: Experiment, texts: ExperimentData) -> dict:
    """Every setting that pretraining depends on beside its datasets."""
    e = experiment
    data = {
        name: getattr(e.data, name)
        for name in ("vocabulary", "celebrity_share", "qa_share", "text_share")
    }
    if e.data.marker:
        data["marker"] = True
    if people := texts.people_per_block:
        data["people_per_block"] = people
    config = {
        "seed": e.seed,
        "model": identity(e.model),
        "data": data,
        "training": identity(e.pretrain),
    }
    mixed_in = e.data.tasks if e.data.qa_share else ()
    in_vocabulary = _task_configs(e, e.tasks_with_tokens, vocabulary=True)
    if tasks := {**in_vocabulary, **_task_configs(e, mixed_in)}:
        config["tasks"] = tasks
    if e.pretrain.evaluate_every:
        config["during"] = {
            name: {"version": readout.version, "config": readout.during_config(of_readout)}
            for name, (readout, of_readout) in e.enabled_readouts.items()
            if readout.measures_training
        }
    if e.model.init_from:
        config["initial"] = hf_checkpoint.init_digest(e.model, pathlib.Path(e.model.init_from))
    return config
