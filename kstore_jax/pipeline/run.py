"""Computes the stages of experiments: one by one, or several pretrainings in one program."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from kstore_jax.corpus import shards
from kstore_jax.errors import UserError, one_line_error
from kstore_jax.files import allow_open_files
from kstore_jax.model.hf_checkpoint import has_weights
from kstore_jax.pipeline.adapters import check_sites
from kstore_jax.pipeline.context import (
    best_finetuning,
    build_context,
    people_who_choose,
    start_of_finetuning,
)
from kstore_jax.pipeline.cores import usable_cores
from kstore_jax.pipeline.finetune import finetune
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.init_params import check_init
from kstore_jax.pipeline.memory import check_beams
from kstore_jax.pipeline.pretrain import Pretraining
from kstore_jax.pipeline.stages import BOOKKEEPING, Stage
from kstore_jax.readouts.base import Context
from kstore_jax.train.checkpoint import check_path
from kstore_jax.train.distributed import broadcast_from_first, is_first
from kstore_jax.train.fit import fit_batched
from kstore_jax.train.optimizer import static_part


class Runner:
    """Computes the stages of one experiment.

    It keeps the experiment's context, with the parameters read so far; they are freed with it.
    """

    def __init__(self, graph: ExperimentGraph):
        self.graph = graph

    @functools.cached_property
    def context(self) -> Context:
        """Data and parameters for the stages; `build_context` says what it needs."""
        return build_context(self.graph)

    def run(self) -> None:
        """Computes every stage that is not finished, in this process."""
        for stage in self.graph.stages:
            self.ensure(stage)

    def ensure(self, stage: Stage) -> dict:
        """Returns the result of a stage, after computing it and its parents where they are not
        finished."""
        for parent in stage.parents:
            self.ensure(parent)
        return self.graph.cache.ensure(stage, functools.partial(self.compute, stage))

    def compute(self, stage: Stage, folder: pathlib.Path) -> dict:
        """Computes a stage of the graph, whose parents are finished, in `folder`; returns its
        result."""
        graph, e = self.graph, self.graph.experiment
        if stage.kind in graph.datasets:
            return _write_dataset(graph.data.datasets[stage.kind], folder)
        if stage is graph.pretrain:
            pretraining = Pretraining(e, graph.data, self.context)
            fit_batched([pretraining.job(folder)], self.context.mesh)
            return pretraining.result
        if stage.kind in graph.readouts:
            readout, config = e.enabled_readouts[stage.kind]
            return _checked(stage.kind, readout.run(self.context, config, folder))
        nobody = np.zeros_like(self.context.qa_train_mask)
        if stage is graph.first and (first := e.finetune.first_row):
            return finetune(self.context, first, nobody, folder)
        context = start_of_finetuning(graph, self.context)
        if stage is graph.refit:
            return finetune(context, best_finetuning(graph), nobody, folder)
        (row,) = (row for row, finetuning in graph.finetune.items() if finetuning is stage)
        return finetune(context, row, people_who_choose(graph), folder)


def _checked(readout: str, result: object) -> dict:
    """The result of a readout, which may be a plug-in.

    Raises:
      UserError: it cannot be a part of `result.json`.
    """
    expected = "expected a dictionary of plain JSON with finite numbers"
    if not isinstance(result, dict):
        raise UserError(f"readouts.{readout}: {expected}, got {type(result).__name__}")
    if taken := [name for name in BOOKKEEPING if name in result]:
        raise UserError(f"readouts.{readout}: {taken[0]}: is a field that every result has already")
    try:
        return json.loads(json.dumps(result, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"readouts.{readout}: {expected} ({error})") from None


def check(graph: ExperimentGraph, to_run: bool = True) -> None:
    """Checks what can be checked before anything is computed.

    Args:
      to_run: False: only a plan is made, for which `model.init_from` needs no weights.

    Raises:
      UserError: beams do not fit into memory, blocks lack a module of `sites`, training cannot
        start from `model.init_from`, no checkpoint can be in the cache's path, or the system allows
        too few open files.
      DamagedFileError: a dataset of the cache is not as it was written.
    """
    e = graph.experiment
    allow_open_files()
    check_path(graph.cache.root)
    if "qa" in e.enabled_readouts and (beams := e.readouts.qa.beam_size) > 1:
        vocabulary = graph.data.vocabulary.size
        check_beams("readouts.qa.beam_size", beams, e.world.people, vocabulary)
    for training in (e.pretrain, *graph.finetune):
        check_sites(e.model, training, "pretrain" if training is e.pretrain else "finetune")
    start = pathlib.Path(e.model.init_from)
    if e.model.init_from and (to_run or has_weights(start)):
        check_init(graph.data.vocabulary, e.model.init_from)
    graph.check_datasets()


def _write_dataset(dataset: shards.DatasetSpec, folder: pathlib.Path) -> dict:
    """Writes a dataset in the first process of a run; returns its counts of entries and tokens."""
    manifest = {}
    if is_first():
        manifest = shards.write_dataset(dataset, folder / "dataset", len(usable_cores()))
    manifest = broadcast_from_first(manifest)
    return {name: manifest[name] for name in ("entries", "tokens")}


def pretrain_batched(graphs: Sequence[ExperimentGraph], size: int) -> None:
    """Pretrains up to `size` models at a time in one program, each into its own stage.

    Which models share a program depends on the experiments alone, not on what is finished. Left to
    `Runner.run` are models without a partner, models that another process computes, and models of
    a program that fails.

    Raises:
      Stopped: a process of the run got SIGTERM; checkpoints were written.
    """
    distinct = {graph.pretrain.folder: graph for graph in graphs}.values()
    if size == 1 or all(graph.cache.result(graph.pretrain) is not None for graph in distinct):
        return
    by_program: dict[Hashable, list[ExperimentGraph]] = {}
    for graph in distinct:
        with contextlib.suppress(Exception):  # `Runner.run` raises the error again
            runner = Runner(graph)
            for parent in graph.pretrain.parents:
                runner.ensure(parent)
            by_program.setdefault(program_key(runner), []).append(graph)
    for rows in by_program.values():
        for first in range(0, len(rows), size):
            if len(batch := rows[first : first + size]) > 1:
                compute = functools.partial(_pretrain, {g.pretrain: g for g in batch})
                try:
                    batch[0].cache.ensure_together([g.pretrain for g in batch], compute)
                except Exception as error:
                    reason = one_line_error(error)
                    print(f"note: {reason}; its batch is pretrained one by one", file=sys.stderr)


def _pretrain(graphs: Mapping[Stage, ExperimentGraph], stages: Sequence[Stage]) -> list[dict]:
    """Pretrains the models of these stages in one program; returns their results."""
    contexts = [build_context(graphs[stage]) for stage in stages]
    pretrainings = [
        Pretraining(graphs[stage].experiment, graphs[stage].data, context)
        for stage, context in zip(stages, contexts, strict=True)
    ]
    jobs = [
        pretraining.job(graphs[stage].cache.folder(stage))
        for stage, pretraining in zip(stages, pretrainings, strict=True)
    ]
    fit_batched(jobs, contexts[0].mesh)
    return [pretraining.result for pretraining in pretrainings]


def program_key(runner: Runner) -> Hashable:
    """A key that is equal for pretrainings that one compiled program can compute."""
    context, e = runner.context, runner.graph.experiment
    # The program of masked words contains which tokens begin a word.
    masking = context.vocabulary.ids.tobytes() if context.mask_token is not None else b""
    training = static_part(dataclasses.replace(e.pretrain, exposures=0.0))
    return context.shape, training, e.mesh, masking
