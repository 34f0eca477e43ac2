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

_PEOPLE = 100  # whose texts are written to estimate lengths
_READ_COST = 1 / 3  # of a token that is only read; a trained one costs 1


def stage_tokens(graph: ExperimentGraph) -> dict[str, float]:
    """Returns the tokens each stage trains, plus a third of the tokens it reads, by its folder.

    Stages that write text have none. Not counted: the dynamics of pretraining, people held back
    from finetuning, and biographies with more of the text hidden.
    """
    e, data = graph.experiment, graph.data
    context = build_context(_with_few_people(graph))
    entries = data.variant.biographies_per_person
    numbers = np.arange(len(context.people) * entries)
    texts = shards.biography_block(context.table, e.world.seed, data.variant, 0, numbers).texts
    recall_spans = [spans for _, spans in context.recall_examples(texts)]
    longest = max(spans.tokens.shape[1] for spans in recall_spans)
    names = name_examples(context.table, context.people, context.vocabulary)
    questions = context.questions()
    question, answer = questions.tokens.shape[1], questions.positions.shape[-1]
    wordings = context.table.language.questions.shape[1]
    beam_size = e.qa.beam_size
    counts = {
        graph.pretrain: e.pretrain.steps * e.pretrain.batch_size * e.pretrain.seq_len,
        graph.recall: _READ_COST * sum(s.tokens.size for s in recall_spans) / len(numbers)
        * e.world.people * entries,
        graph.qa: _READ_COST * len(ATTRIBUTES) * (e.world.people + e.world.celebrities)
        * (wordings * question + (beam_size > 1) * (question + beam_size * answer)),
    }  # fmt: skip
    for row, stage in graph.finetune.items():
        counts[stage] = row.steps * row.batch_size * question
    held_out = e.world.people * (e.p_probe.biographies_per_person or entries) / 2
    for stage, probe, length, evaluated in (
        (graph.p_probe, e.p_probe, longest, held_out),
        (graph.q_probe, e.q_probe, names.tokens.shape[1], e.world.people),
    ):
        texts_read = probe.steps * probe.batch_size + _READ_COST * evaluated
        counts[stage] = len(probe_tasks(probe)) * length * texts_read
    return {stage.folder: float(count) for stage, count in counts.items()}


def _with_few_people(graph: ExperimentGraph) -> ExperimentGraph:
    """The same experiment with few people and no text except templates; the lengths of its texts
    are known without reading a dataset."""
    e = graph.experiment
    people = min(e.world.people, _PEOPLE)
    world = dataclasses.replace(e.world, people=people, celebrities=0)
    data = dataclasses.replace(e.data, text="", rewritten="", celebrity_share=0.0)
    return ExperimentGraph(dataclasses.replace(e, world=world, data=data), graph.cache)
