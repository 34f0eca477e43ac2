"""How much work the stages of an experiment are, in tokens, before anything like them was measured.

A token that is only read counts a third of one that is trained: the backward pass takes twice what
the forward pass does. A probe reads a text once a task, with the embedding of that task. Texts are
as long as the longest about some people: rows of a batch are filled up.
"""

import dataclasses

import numpy as np

from kstore_jax.corpus import shards
from kstore_jax.pipeline.lab import Lab
from kstore_jax.readouts.probe_data import name_readings
from kstore_jax.readouts.probing import tasks_of
from kstore_jax.world.people import ATTRIBUTES

_PEOPLE = 100
_READ = 1 / 3


def tokens(lab: Lab) -> dict[str, float]:
    """The tokens that each stage trains, and a third of those it reads, by its folder; nothing of
    stages that write text. Not counted is what is read for the dynamics of pretraining, of people
    that finetuning holds back, and of texts with more hidden of them."""
    e, some = lab.experiment, _small(lab)
    materials, entries = some.materials, some.materials.variant.entries
    numbers = np.arange(some.experiment.world.people * entries)
    told = materials.table, e.world.seed, materials.variant, 0, numbers
    recited = [spans for _, spans in some.recited(shards.biographies(*told).rows)]
    longest = max(spans.tokens.shape[1] for spans in recited)
    name = name_readings(materials.table, materials.people, some.vocabulary).tokens.shape[1]
    asked = some.asked()
    question, answer = asked.tokens.shape[1], asked.positions.shape[-1]
    wordings = materials.language.questions.shape[1]
    found = {
        lab.pretrain: e.pretrain.steps * e.pretrain.batch_size * e.pretrain.seq_len,
        lab.recall: _READ * sum(s.tokens.size for s in recited) / len(numbers)
        * e.world.people * entries,
        lab.qa: _READ * len(ATTRIBUTES) * (e.world.people + e.world.celebrities)
        * (wordings * question + (e.qa.beam_size > 1) * (question + e.qa.beam_size * answer)),
    }  # fmt: skip
    for row, stage in lab.finetune.items():
        found[stage] = row.steps * row.batch_size * question
    texts = e.world.people * (e.p_probe.biographies_per_person or entries) / 2  # of people held out
    for stage, probe, length, read in (
        (lab.p_probe, e.p_probe, longest, texts),
        (lab.q_probe, e.q_probe, name, e.world.people),
    ):
        texts_read = probe.steps * probe.batch_size + _READ * read
        found[stage] = len(tasks_of(probe)) * length * texts_read
    return {stage.folder: float(count) for stage, count in found.items()}


def _small(lab: Lab) -> Lab:
    """The same experiment about some people, of templates alone, which nothing has to be read of
    to know the lengths of its texts."""
    e = lab.experiment
    people = min(e.world.people, _PEOPLE)
    world = dataclasses.replace(e.world, people=people, celebrities=0)
    data = dataclasses.replace(e.data, text="", rewritten="", celebrity_share=0.0)
    return Lab(dataclasses.replace(e, world=world, data=data), lab.cache)
