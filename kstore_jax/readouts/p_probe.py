"""P-probing: where in a biography a fact is readable (Part 3.1, section 5.1)."""

import pathlib

import numpy as np

from kstore_jax.readouts.base import Context
from kstore_jax.readouts.config import PProbe
from kstore_jax.readouts.probe_data import ProbeTasks, biography_examples, person_labels
from kstore_jax.readouts.probe_training import probe_tasks, train_probe
from kstore_jax.world.people import ATTRIBUTES

VERSION = 1


def p_probe(context: Context, training: PProbe, folder: pathlib.Path) -> dict:
    """Trains the probe just before the first mention of each attribute, and scores it.

    Args:
      folder: where checkpoints and metrics go.

    Returns: the scores of `train_probe`. Where the biographies state attributes in couples also
      `by_stated`: for each kind of task and attribute a list of cells, one for each set of
      attributes `stated` before, with the share `right` of its number of `readings` (Figs. 6, 15).
    """
    tasks = probe_tasks(training)
    labels, num_classes = person_labels(context.table, context.people, tasks)
    count = training.biographies_per_person or context.variant.biographies_per_person
    chosen = np.flatnonzero(context.corpus.entries < count)
    people = context.corpus.people[chosen]
    rows = context.corpus.texts.take(chosen)
    examples = biography_examples(rows, labels[people], context.vocabulary, tasks)
    in_train = context.in_train[people]
    scores, hits = train_probe(
        context, "p_probe", folder, training, "layer", examples, in_train, num_classes
    )
    if context.variant.order == "couples":
        starts = rows.value_spans[:, :, 0]
        stated = starts[:, None] < examples.positions[:, :, None]
        scores["by_stated"] = _by_stated(hits, examples.active[~in_train], stated[~in_train], tasks)
    return scores


def _by_stated(
    hits_TxNxQ: np.ndarray, active_NxQxT: np.ndarray, stated_NxQxA: np.ndarray, tasks: ProbeTasks
) -> dict:
    """Accuracy by the set of attributes stated before the position read, as bits of a code."""
    scores: dict = {"first": {}, "whole": {}}
    code_NxQ = (stated_NxQxA << np.arange(len(ATTRIBUTES))).sum(-1)
    for t, (attribute, kind) in enumerate(tasks):
        scores[kind][attribute] = cells = []
        for code in np.unique(code_NxQ[active_NxQxT[:, :, t]]):
            chosen = (code_NxQ == code) & active_NxQxT[:, :, t]
            names = [name for a, name in enumerate(ATTRIBUTES) if code >> a & 1]
            share = float(hits_TxNxQ[t][chosen].mean())
            cells.append({"stated": names, "right": share, "readings": int(chosen.sum())})
    return scores
