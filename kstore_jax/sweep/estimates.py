"""Estimates the work of an experiment's stages in tokens, before similar stages were measured.

A token that is only read counts a third of a trained one: the backward pass takes twice as long as
the forward pass. A probe reads a text once a task, with the embedding of that task. Texts are as
long as the longest about some people, since rows of a batch are padded.
"""

import dataclasses

import jax
import numpy as np

from kstore_jax.bench import roofline
from kstore_jax.corpus import shards
from kstore_jax.pipeline import adapters
from kstore_jax.pipeline.context import build_context, vocabulary_needs_corpora
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.stages import Stage
from kstore_jax.train.config import Training

_PEOPLE = 100  # whose texts are written to estimate lengths


def stage_tokens(graph: ExperimentGraph) -> dict[str, float]:
    """Returns the tokens each stage trains, plus a third of the tokens it reads, by its folder.

    Stages that write text have none. Not counted: the dynamics of pretraining, people held back
    from finetuning, and biographies with more of the text hidden.
    """
    e, data = graph.experiment, graph.data
    context = build_context(_with_few_people(graph), to_read=True)
    entries = data.variant.biographies_per_person
    numbers = np.arange(len(context.people) * entries)
    texts = shards.biography_block(context.table, e.world.seed, data.variant, 0, numbers).texts
    scale = e.world.people / len(context.people)
    trained = e.pretrain.steps * e.pretrain.batch_size * e.pretrain.seq_len
    counts: dict[Stage, float] = {graph.pretrain: trained}
    if graph.finetune:
        question = context.questions(e.finetune.tasks)[1].tokens.shape[1]
        counts |= {s: row.steps * row.batch_size * question for row, s in graph.finetune.items()}
        if graph.refit:
            counts[graph.refit] = max(counts[stage] for stage in graph.finetune.values())
    for name, stage in graph.readouts.items():
        readout, config = e.enabled_readouts[name]
        if work := readout.work(context, texts, config, scale):
            counts[stage] = work
    return {stage.folder: float(count) for stage, count in counts.items()}


def seconds_on(graph: ExperimentGraph, on: roofline.Accelerator) -> dict[str, float]:
    """Predicts the seconds of each stage of `stage_tokens` on an accelerator that is not here, by
    its folder: its tokens as in pretraining, but no step faster than its kernels are launched, and
    the compilation of one program. The optimizer's own time counts in pretraining alone."""
    e, few = graph.experiment, vocabulary_needs_corpora(graph)
    shape = build_context(_with_few_people(graph) if few else graph, to_read=True).shape
    seq_len, parameters = e.pretrain.seq_len, roofline.num_parameters(shape)
    once = dataclasses.replace(shape, remat=False)
    token = roofline.token_seconds(on, once, parameters, seq_len)
    products = adapters.updated_products(shape, e.pretrain)
    trained_token = roofline.token_seconds(on, shape, parameters, seq_len, products)
    trainings: dict[Stage, int] = {graph.pretrain: e.pretrain.steps}
    trainings |= {stage: row.steps for row, stage in graph.finetune.items()}
    if graph.refit:
        trainings[graph.refit] = e.finetune.steps
    for name, stage in graph.readouts.items():
        if isinstance(config := e.enabled_readouts[name][1], Training):
            trainings[stage] = config.steps
    launches = {
        stage.folder: steps * roofline.launch_seconds(on, shape)
        for stage, steps in trainings.items()
    }
    seconds = {folder: tokens * token for folder, tokens in stage_tokens(graph).items()}
    _, trainable = adapters.abstract_parts(shape, e.pretrain)
    update = roofline.update_seconds(on, sum(leaf.size for leaf in jax.tree.leaves(trainable)))
    seconds[graph.pretrain.folder] *= trained_token / token
    seconds[graph.pretrain.folder] += e.pretrain.steps * update
    return {
        folder: on.compile_s + max(of_tokens, launches.get(folder, 0.0))
        for folder, of_tokens in seconds.items()
    }


def _with_few_people(graph: ExperimentGraph) -> ExperimentGraph:
    """The same experiment with few people and no text except templates; the lengths of its texts
    are known without reading a dataset."""
    e = graph.experiment
    people = min(e.world.people, _PEOPLE)
    world = dataclasses.replace(e.world, people=people, celebrities=0)
    data = dataclasses.replace(e.data, text="", rewritten="", celebrity_share=0.0)
    return ExperimentGraph(dataclasses.replace(e, world=world, data=data), graph.cache)
