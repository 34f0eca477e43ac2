"""Estimates the work of an experiment's stages in tokens, before similar stages were measured.

A token that is only read counts a third of a trained one: the backward pass takes twice as long as
the forward pass. A probe reads a text once a task, with the embedding of that task. Texts are as
long as the longest about some people, since rows of a batch are padded.
"""

import dataclasses

import numpy as np

from kstore_jax.corpus import shards
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.readouts.probe_data import name_examples
from kstore_jax.readouts.probe_training import probe_tasks
from kstore_jax.world.people import ATTRIBUTES

_PEOPLE = 100
_READ = 1 / 3


def stage_tokens(graph: ExperimentGraph) -> dict[str, float]:
    """The tokens each stage trains, plus a third of those it reads, by its folder.

    Stages that write text have none. The dynamics of pretraining, people held back from finetuning
    and biographies with more hidden are not counted.
    """
    e, data = graph.experiment, graph.data
    context = build_context(_small(graph))
    entries = data.variant.biographies_per_person
    numbers = np.arange(len(context.people) * entries)
    source = context.table, e.world.seed, data.variant, 0, numbers
    recited = [spans for _, spans in context.recall_examples(shards.biography_block(*source).texts)]
    longest = max(spans.tokens.shape[1] for spans in recited)
    names = name_examples(context.table, context.people, context.vocabulary)
    questions = context.questions()
    question, answer = questions.tokens.shape[1], questions.positions.shape[-1]
    wordings = context.table.language.questions.shape[1]
    beam = e.qa.beam_size
    counts = {
        graph.pretrain: e.pretrain.steps * e.pretrain.batch_size * e.pretrain.seq_len,
        graph.recall: _READ * sum(s.tokens.size for s in recited) / len(numbers)
        * e.world.people * entries,
        graph.qa: _READ * len(ATTRIBUTES) * (e.world.people + e.world.celebrities)
        * (wordings * question + (beam > 1) * (question + beam * answer)),
    }  # fmt: skip
    for row, stage in graph.finetune.items():
        counts[stage] = row.steps * row.batch_size * question
    held_out = e.world.people * (e.p_probe.biographies_per_person or entries) / 2
    for stage, probe, length, texts in (
        (graph.p_probe, e.p_probe, longest, held_out),
        (graph.q_probe, e.q_probe, names.tokens.shape[1], e.world.people),
    ):
        texts_read = probe.steps * probe.batch_size + _READ * texts
        counts[stage] = len(probe_tasks(probe)) * length * texts_read
    return {stage.folder: float(count) for stage, count in counts.items()}


def _small(graph: ExperimentGraph) -> ExperimentGraph:
    """The same experiment about few people, of templates only: enough to know the lengths of its
    texts without reading a dataset."""
    e = graph.experiment
    people = min(e.world.people, _PEOPLE)
    world = dataclasses.replace(e.world, people=people, celebrities=0)
    data = dataclasses.replace(e.data, text="", rewritten="", celebrity_share=0.0)
    return ExperimentGraph(dataclasses.replace(e, world=world, data=data), graph.cache)
