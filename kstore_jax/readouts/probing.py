"""The probes of a pretrained model: trained on P_train, read about P_test."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from kstore_jax.corpus.sampler import Rows
from kstore_jax.readouts import probes, qa
from kstore_jax.readouts.config import PProbe, Probe, QProbe
from kstore_jax.readouts.probe_data import (
    FIRST_TOKEN_TASKS,
    TASKS,
    Tasks,
    biography_readings,
    class_tokens,
    labels,
    name_readings,
    shared_tokens,
)
from kstore_jax.train.distributed import local
from kstore_jax.train.fit import Task, fit
from kstore_jax.world.people import ATTRIBUTES

if TYPE_CHECKING:
    from kstore_jax.pipeline.lab import Lab


def p_probe(lab: "Lab", training: PProbe, folder: pathlib.Path) -> dict:
    """Reads biographies just before each attribute's first mention (Part 3.1, section 5.1)."""
    table, who = lab.materials.table, lab.materials.people
    tasks = tasks_of(training)
    of_people, classes = labels(table, who, tasks)
    entries = training.biographies_per_person or lab.materials.variant.entries
    chosen = np.flatnonzero(lab.corpus.entries < entries)
    whose = lab.corpus.people[chosen]
    rows = lab.corpus.rows.rows(chosen)
    readings = biography_readings(rows, of_people[whose], lab.vocabulary, tasks)
    in_train = lab.materials.in_train[whose]
    found, hits = _probed(lab, "p_probe", folder, training, "layer", readings, in_train, classes)
    if lab.materials.variant.order == "couples":
        starts = rows.value_spans[:, :, 0]
        stated = starts[:, None] < readings.positions[:, :, None]
        found["by_stated"] = _by_stated(hits, readings.asked[~in_train], stated[~in_train], tasks)
    return found


def _by_stated(hits_TxNxQ, asked_NxQxT, stated_NxQxA, tasks: Tasks) -> dict:
    """Accuracy by which attributes were stated before (Part 3.1, Figs. 6 and 15): for each kind and
    attribute a list of `stated`, the share `right`, and how many `readings` that is of."""
    found: dict = {"first": {}, "whole": {}}
    code_NxQ = (stated_NxQxA << np.arange(len(ATTRIBUTES))).sum(-1)
    for t, (attribute, kind) in enumerate(tasks):
        found[kind][attribute] = cells = []
        for code in np.unique(code_NxQ[asked_NxQxT[:, :, t]]):
            chosen = (code_NxQ == code) & asked_NxQxT[:, :, t]
            names = [name for a, name in enumerate(ATTRIBUTES) if code >> a & 1]
            share = float(hits_TxNxQ[t][chosen].mean())
            cells.append({"stated": names, "right": share, "readings": int(chosen.sum())})
    return found


def q_probe(lab: "Lab", training: QProbe, folder: pathlib.Path) -> dict:
    """Reads the end of text after each full name (Part 3.1, section 5.2)."""
    table, who = lab.materials.table, lab.materials.people
    tasks = tasks_of(training)
    _, classes = labels(table, who, tasks)
    readings = name_readings(table, who, lab.vocabulary, tasks)
    in_train = lab.materials.in_train
    return _probed(lab, "q_probe", folder, training, "batch", readings, in_train, classes)[0]


def _probed(
    lab: "Lab",
    name: str,
    folder: pathlib.Path,
    training: Probe,
    norm: str,
    readings: probes.Readings,
    in_train: np.ndarray,
    classes: tuple[int, ...],
) -> tuple[dict, np.ndarray]:
    """What a probe found, and its hits among the texts held out, (T, N, Q)."""
    seen, held_out = np.flatnonzero(in_train), np.flatnonzero(~in_train)
    order = Rows(len(seen), lab.experiment.seed)

    def make_batch(step, rows):
        chosen = order.rows(step * training.batch_size + rows.start, len(rows))
        return readings.rows(seen[chosen])

    frozen = dict(lab.pretrained)
    trainable = probes.init_probe(lab.shape, training, classes, lab.key(2))
    if training.head == "unembedding":
        tokens = class_tokens(lab.materials.table, lab.vocabulary)
        frozen["head"] = probes.model_head(lab.shape, lab.pretrained, tokens)
        del trainable["head"]
    if training.embedding_update == "shared":
        shared = shared_tokens(lab.materials.table, lab.vocabulary)
        frozen["updated"] = jnp.zeros(lab.shape.vocabulary).at[shared].set(1.0)
    dropping = dataclasses.replace(lab.shape, dropout=training.dropout)
    if training.dropout:
        dropping = dataclasses.replace(dropping, attention="dense")
    task = Task(
        name=name,
        objective=probes.probe_objective(dropping, classes, norm),
        merge=probes.with_probe,
        frozen=frozen,
        trainable=trainable,
        make_batch=make_batch,
        step_tokens=training.batch_size * len(classes) * readings.tokens.shape[1],
        seed=lab.experiment.seed,
    )
    trained = local(lab.mesh, fit(task, training, folder, lab.mesh, lab.experiment.telemetry))
    params = probes.with_probe(frozen, trained)
    of_seen, asked = (probes.Readings(**readings.rows(which)) for which in (seen, held_out))
    hits = probes.probe_hits(lab.shape, params, classes, norm, of_seen, asked)
    accuracy = probes.accuracy(hits, asked)
    found: dict = {part: {"first": {}, "whole": {}} for part in ("accuracy", "baseline")}
    if training.head == "linear":
        found["ceiling"] = {"first": {}, "whole": {}}
    for t, (attribute, kind) in enumerate(tasks_of(training)):
        known, sought = of_seen.labels[:, t], asked.labels[:, t]
        right = [None if np.isnan(x) else float(x) for x in accuracy[t]]
        found["accuracy"][kind][attribute] = right
        found["baseline"][kind][attribute] = qa.majority_baseline(known, sought)
        if training.head == "linear":
            found["ceiling"][kind][attribute] = float(np.isin(sought, known).mean())
    return {**found.pop("accuracy"), **found}, hits


def tasks_of(training: Probe) -> Tasks:
    """What a probe names; a whole value has no row in the model's own head."""
    return TASKS if training.head == "linear" else FIRST_TOKEN_TASKS
