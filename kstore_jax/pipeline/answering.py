"""Finetuning on questions about half of the people, and asking about the other half."""

import functools
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np

from kstore_jax.corpus.examples import Spans
from kstore_jax.corpus.sampler import Rows
from kstore_jax.model import lora
from kstore_jax.model.forward import Params
from kstore_jax.pipeline.data import Materials
from kstore_jax.pipeline.experiment import Finetune
from kstore_jax.readouts import decode, qa
from kstore_jax.train import objectives
from kstore_jax.train.distributed import local
from kstore_jax.train.fit import Task, all_trained, fit
from kstore_jax.train.mesh import placed
from kstore_jax.world import random
from kstore_jax.world.people import ATTRIBUTES
from kstore_jax.world.questions import TRAINED_WORDING

if TYPE_CHECKING:
    from kstore_jax.pipeline.lab import Lab


def finetune(lab: "Lab", training: Finetune, held_back: float, folder: pathlib.Path) -> dict:
    """Trains on the questions about P_train but for a share of its people.

    Returns: `questions` trained; where people are held back, `validation`: exact match on them.
    """
    taught, validated = _split(lab.materials, held_back)
    examples = lab.asked()
    train_rows = np.flatnonzero(np.repeat(taught, len(ATTRIBUTES)))
    order = Rows(len(train_rows), lab.experiment.seed)

    def make_batch(step, rows):
        which = train_rows[order.rows(step * training.batch_size + rows.start, len(rows))]
        return {
            "tokens": examples.tokens[which],
            "positions": examples.positions[which][:, 0],
            "targets": examples.targets[which][:, 0],
            "weights": examples.weights[which][:, 0],
            "lengths": examples.lengths[which],
        }

    task = Task(
        name="finetune",
        objective=objectives.answers(lab.shape),
        merge=_merge(training),
        frozen=lab.pretrained if training.method == "lora" else {},
        trainable=start(lab, training),
        make_batch=make_batch,
        step_tokens=training.batch_size * examples.tokens.shape[1],
        seed=lab.experiment.seed,
    )
    trained = fit(task, training, folder, lab.mesh, lab.experiment.telemetry)
    params = task.merge(task.frozen, local(lab.mesh, trained))
    found = {"questions": len(train_rows)}
    if validated.any():
        asked = examples.rows(np.flatnonzero(np.repeat(validated, len(ATTRIBUTES))))
        found["validation"] = float(qa.span_accuracy(lab.shape, params, asked)[0].mean())
    return found


def _split(materials: Materials, held_back: float) -> tuple[np.ndarray, np.ndarray]:
    """(everyone,) bool, twice: whose questions are trained, and who of P_train is held back."""
    people = np.flatnonzero(materials.taught)
    shuffled = people[random.shuffled(len(people), materials.world.seed, "validation", 0)]
    validated = np.zeros_like(materials.taught)
    validated[shuffled[: round(held_back * len(people))]] = True
    return materials.taught & ~validated, validated


def start(lab: "Lab", training: Finetune) -> dict:
    """What finetuning trains, as it is before the first step."""
    if training.method == "full":
        return lab.pretrained
    ranks = training.rank, training.embedding_rank
    return lora.init_lora(lab.pretrained, lab.key(1), *ranks, training.init_std)


def finetuned(lab: "Lab", training: Finetune, trained: dict) -> Params:
    """The parameters of the model that finetuning ended with."""
    return _merge(training)(lab.pretrained, trained)


def _merge(training: Finetune) -> Callable[[Params, dict], Params]:
    if training.method == "full":
        return all_trained
    return _adapted(training.alpha, training.embedding_side)


@functools.cache
def _adapted(alpha: float, embedding_side: str) -> Callable[[Params, dict], Params]:
    return functools.partial(lora.merge, alpha=alpha, embedding_side=embedding_side)


def answers(lab: "Lab", params: Params, beam: int) -> dict:
    """What a model answers about everyone, in the trained wording and in the others; with a `beam`
    of more than 1, also what beam search finds."""
    whole, first = _answered(lab, params, lab.asked())
    taught = lab.materials.taught
    values = lab.materials.everyone.values
    baseline = {
        name: qa.majority_baseline(values[taught, a], values[~taught, a])
        for a, name in enumerate(ATTRIBUTES)
    }
    wordings = range(TRAINED_WORDING + 1, lab.materials.language.questions.shape[1])
    reworded = [_answered(lab, params, lab.asked(wording))[0] for wording in wordings]
    counted = {"exact": whole, "first": first}
    if beam > 1:
        found = decode.exact_match(said(lab, params, lab.asked(), beam), lab.asked())
        counted["beam"] = found.reshape(whole.shape)
    return {
        "train": {name: by_attribute(right[taught]) for name, right in counted.items()},
        "test": {name: by_attribute(right[~taught]) for name, right in counted.items()},
        "wordings": {
            "train": [by_attribute(right[taught]) for right in reworded],
            "test": [by_attribute(right[~taught]) for right in reworded],
        },
        "baseline": {"mean": float(np.mean(list(baseline.values()))), **baseline},
    }


def said(lab: "Lab", params: Params, examples: Spans, beam: int) -> np.ndarray:
    """What a model says in place of each answer, (N, K) int32: by a beam search, or, of a
    bidirectional model, under the masks."""
    if lab.mask is not None:
        found = qa.predicted(lab.shape, params, examples)[:, 0]
        return np.where(examples.weights[:, 0] > 0, found, lab.vocabulary.end_of_text)
    known = lab.vocabulary.size
    return decode.said(lab.shape, params, examples, lab.vocabulary.end_of_text, known, beam)


def _answered(lab: "Lab", params: Params, questions: Spans) -> tuple[np.ndarray, np.ndarray]:
    """(everyone, 6) bool, twice: whether an answer, and its first token, are right."""
    found = qa.span_accuracy(lab.shape, params, questions)
    whole, first = (right.reshape(-1, len(ATTRIBUTES)) for right in found)
    return whole, first


def by_attribute(right: np.ndarray) -> dict[str, float]:
    """The mean of right (N, 6) for each attribute, and over all."""
    shares = {name: float(right[:, a].mean()) for a, name in enumerate(ATTRIBUTES)}
    return {"mean": float(np.mean(list(shares.values()))), **shares}


def dynamics(lab: "Lab", people: int) -> Callable[[Params], dict[str, jax.Array]]:
    """What a model knows while it is pretrained (Part 3.1, Fig. 1): `params -> figures`, which are
    on the device still.

    Figures: the share of values whose first token is predicted in the first biography, and the
    shares of answers of which the first token, and every token, is; each of at most `people` of
    P_train and of P_test.
    """
    materials = lab.materials
    groups = {"train": materials.taught, "test": ~materials.taught}
    parts = {}
    for name, members in groups.items():
        who = np.flatnonzero(members)
        who = who[random.shuffled(len(who), materials.world.seed, "dynamics", 0)[:people]]
        asked = np.flatnonzero(np.isin(np.arange(len(members)), who).repeat(len(ATTRIBUTES)))
        parts[f"qa_{name}"] = lab.asked().rows(asked)
        read = np.isin(lab.corpus.people, who) & (lab.corpus.entries == 0)
        if read.any():
            rows = lab.corpus.rows.rows(np.flatnonzero(read))
            parts[f"bio_{name}"] = lab.recited(rows)[0][1]
    batches = {name: placed(lab.mesh, qa.stacked(part)) for name, part in parts.items()}

    def evaluate(params: Params) -> dict[str, jax.Array]:
        figures = {}
        for name, of_part in batches.items():
            whole, first = qa.span_shares(lab.shape, params, of_part)
            figures[f"{name}_first"] = first
            if name.startswith("qa"):
                figures[f"{name}_exact"] = whole
        return figures

    return evaluate
