"""Builds the `Context` of an experiment from its finished stages."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from kstore_jax.corpus import shards
from kstore_jax.corpus.shards import Corpus
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.model.forward import Params
from kstore_jax.model.hf_config import read_shape
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline import adapters, finetune
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.graph import ExperimentGraph, resolve_auto
from kstore_jax.pipeline.init_params import init_params
from kstore_jax.pipeline.stages import Stage
from kstore_jax.readouts.base import Context
from kstore_jax.tasks.base import TASKS
from kstore_jax.train.checkpoint import open_checkpoints
from kstore_jax.train.distributed import gather_to_host
from kstore_jax.train.mesh import make_mesh, shard_tree

_ROWS_MULTIPLE = 128
"""The embedding is padded to a multiple of this many rows."""


def build_context(graph: ExperimentGraph, to_read: bool = False) -> Context:
    """The context of an experiment. It reads corpora and parameters when they are first used.

    Args:
      to_read: whether finished models are only read. Then the devices and the attention that this
        machine has are used, whatever a model was trained on.

    Raises:
      NotFinished: the vocabulary depends on a dataset that is not written yet.
      UserError: the mesh does not fit the devices.
    """
    e, data = graph.experiment, graph.data
    read_corpus = functools.cache(functools.partial(_read_corpus, graph))
    vocabulary = _vocabulary(graph, read_corpus)
    mask_token = vocabulary.size if e.model.direction == "bidirectional" else None
    rows = vocabulary.size + (mask_token is not None)
    if e.model.init_from and e.data.vocabulary == "full":
        rows = max(rows, read_shape(pathlib.Path(e.model.init_from)).vocabulary)
    model, mesh = (_here(e).model, make_mesh()) if to_read else (e.model, make_mesh(e.mesh))
    return Context(
        seed=e.seed,
        world_seed=e.world.seed,
        shape=Shape.of(model, -(-rows // _ROWS_MULTIPLE) * _ROWS_MULTIPLE),
        vocabulary=vocabulary,
        mask_token=mask_token,
        table=data.table,
        variant=data.variant,
        tasks=e.tasks,
        trained_tasks=graph.trained_tasks,
        everyone=data.everyone,
        people=data.people,
        in_train=data.in_train,
        qa_train_mask=data.qa_train_mask,
        held_back_mask=_held_back(graph),
        mesh=mesh,
        telemetry=e.telemetry,
        read_corpus=read_corpus,
        load_untrained=functools.partial(init_params, init_from=e.model.init_from),
        load_pretrained=functools.partial(_load_pretrained, graph),
        load_finetuned=functools.partial(_load_finetuned, graph),
        marked=data.marked,
    )


def _here(experiment: Experiment) -> Experiment:
    """The experiment, with another attention where this machine lacks its own."""
    try:
        return resolve_auto(experiment)
    except UserError:
        model = dataclasses.replace(experiment.model, attention="auto")
        return resolve_auto(dataclasses.replace(experiment, model=model))


def vocabulary_needs_corpora(graph: ExperimentGraph) -> bool:
    """Whether the vocabulary depends on texts that no template writes; their datasets have to be
    written before it is known."""
    data = graph.experiment.data
    return data.vocabulary == "compact" and bool(data.text or data.rewritten)


def _vocabulary(graph: ExperimentGraph, read_corpus: Callable[[str], Corpus]) -> Vocabulary:
    vocabulary, e, data = graph.data.vocabulary, graph.experiment, graph.data
    tokens = []
    if vocabulary_needs_corpora(graph):
        tokens += [read_corpus(kind).texts.tokens for kind in graph.datasets]
    for task in e.tasks_with_tokens:
        config = TASKS[task].vocabulary_config(getattr(e.tasks, task))
        for wording in range(TASKS[task].num_wordings(data.language)):
            items = TASKS[task].items(data.table, data.everyone, config, e.world.seed, wording)
            tokens.append(items.texts.tokens)
    if not tokens:
        return vocabulary
    ids = np.unique(np.concatenate([vocabulary.ids, *map(np.unique, tokens)]))
    return Vocabulary(vocabulary.tokenizer, ids)


def _read_corpus(graph: ExperimentGraph, kind: str) -> Corpus:
    stage = graph.datasets[kind]
    graph.cache.require(stage)
    corpus = shards.read_dataset(graph.cache.folder(stage) / "dataset")
    graph.cache.check_files(stage)
    return corpus


def _load_pretrained(graph: ExperimentGraph, context: Context) -> Params:
    training = graph.experiment.pretrain
    start = init_params(context, graph.experiment.model.init_from)
    of_model = context.key("pretrain_lora"), context.new_tokens
    frozen, like = adapters.split(context.shape, start, training, *of_model)
    trained = _load_trained(graph, context, graph.pretrain, training.steps, like)
    return adapters.merge_of(training)(frozen, trained)


def people_who_choose(graph: ExperimentGraph) -> np.ndarray:
    """(everyone,) bool: the people of P_train whom every row of a finetuning grid leaves out."""
    seed, fraction = graph.experiment.world.seed, graph.held_back if graph.finetune else 0.0
    return finetune.held_back_people(graph.data.qa_train_mask, fraction, seed)


def _held_back(graph: ExperimentGraph) -> np.ndarray:
    """(everyone,) bool: the people of P_train on whom the finetuned model was not trained."""
    chose = people_who_choose(graph) & (graph.refit is None)
    if not graph.finetune:
        return chose
    seed, fraction = graph.experiment.world.seed, graph.experiment.finetune.people_fraction
    data = graph.data
    return chose | finetune.left_out_people(data.qa_train_mask, data.everyone.ids, fraction, seed)


def start_of_finetuning(graph: ExperimentGraph, context: Context) -> Context:
    """The context of finetuning, whose `pretrained` model is that of `finetune.first` where there
    is one."""
    if (stage := graph.first) is None:
        return context
    row = graph.experiment.finetune.first_row
    assert row

    def load_first(_: Context) -> Params:
        return _load_tuned(graph, context, row, stage)

    return dataclasses.replace(context, load_pretrained=load_first)


def best_finetuning(graph: ExperimentGraph) -> finetune.Finetune:
    """The row of the finetuning grid with the best `validation`, or the only row.

    Raises:
      NotFinished: a finetuning is not finished.
    """
    return finetune.best_row({row: graph.cache.require(s) for row, s in graph.finetune.items()})


def _load_finetuned(graph: ExperimentGraph, context: Context) -> Params:
    if not graph.finetune:
        return context.pretrained
    row = best_finetuning(graph)
    start = start_of_finetuning(graph, context)
    return _load_tuned(graph, start, row, graph.refit or graph.finetune[row])


def _load_tuned(
    graph: ExperimentGraph, context: Context, row: finetune.Finetune, stage: Stage
) -> Params:
    """The parameters that a finetuning made of the pretrained ones of a context."""
    of_model = context.key("lora"), context.new_tokens
    frozen, like = adapters.split(context.shape, context.pretrained, row, *of_model)
    trained = _load_trained(graph, context, stage, row.steps, like)
    return adapters.merge_of(row)(frozen, trained)


def _load_trained(
    graph: ExperimentGraph, context: Context, stage: Stage, steps: int, like: Any
) -> Any:
    """The trained arrays in the checkpoint after `steps` updates, in the tree of `like`."""
    graph.cache.require(stage)
    graph.cache.check_files(stage)
    with open_checkpoints(graph.cache.folder(stage) / "checkpoints") as checkpoints:
        state = checkpoints.load(steps, trainable=shard_tree(context.mesh, like))
    return gather_to_host(context.mesh, state["trainable"])
