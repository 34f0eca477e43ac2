"""Trains a probe on P_train, without a few people held back, and scores it on P_test."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.corpus.sampler import ShuffledIndices
from kstore_jax.errors import UserError
from kstore_jax.intervals import intervals
from kstore_jax.readouts import probe_config, probes
from kstore_jax.readouts.base import READ_COST, Context, Readout
from kstore_jax.readouts.probe_config import Probe
from kstore_jax.readouts.probe_data import (
    ProbeExamples,
    ProbeTasks,
    all_tasks,
    class_tokens,
    first_token_tasks,
    shared_tokens,
)
from kstore_jax.readouts.probe_validation import Validation, split_people
from kstore_jax.readouts.shares import Measurements, Share, shares_of
from kstore_jax.tasks.base import majority_share
from kstore_jax.train.distributed import gather_to_host
from kstore_jax.train.fit import TrainTask, fit
from kstore_jax.world.language import Language


def train_probe(
    context: Context,
    name: str,
    folder: pathlib.Path,
    training: Probe,
    norm: str,
    examples: ProbeExamples,
    people: np.ndarray,
    num_classes: tuple[int, ...],
    more: Mapping[str, np.ndarray] | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """Trains a probe on texts about P_train and scores it on those about the others.

    Args:
      name: name of the probe and of its random stream.
      folder: where checkpoints and metrics go.
      norm: `layer` or `batch`.
      people: (N,) the number of each text's person.
      num_classes: number of classes of each task.
      more: further columns (N, ...) of the texts, for the cases.

    Returns: the scores, and the cases: `person` and `text` (held-out texts,), the latter rows of
      the examples; `active` and `hits` (held-out texts, Q, T) bool; `more`; `names`, of the tasks.
      The scores hold, by kind of task and attribute, the accuracy at each of Q positions (`first`,
      `whole`; None where nobody is scored), the `baseline` (majority guess), for a linear head the
      `ceiling` (the share of held-out texts whose class occurs among those trained on) and, where
      people are held back, the `training` (`Validation.result`).
    """
    held_back, compared = split_people(context, training.validation)
    train_rows = np.flatnonzero((context.in_train & ~held_back)[people])
    held_out_rows = np.flatnonzero(~context.in_train[people])
    order = ShuffledIndices(len(train_rows), context.seed)

    def make_batch(step, rows):
        drawn = order.read(step * training.batch_size + rows.start, len(rows))
        return examples.batch(train_rows[drawn])

    frozen = dict(context.pretrained)
    trainable = probes.init_probe(context.shape, training, num_classes, context.key(name))
    if training.head == "unembedding":
        tokens = class_tokens(context.table, context.vocabulary)
        frozen["head"] = probes.model_head(context.shape, context.pretrained, tokens)
    if training.embedding_update == "shared":
        shared = shared_tokens(context.table, context.vocabulary)
        frozen["updated"] = jnp.zeros(context.shape.vocabulary).at[shared].set(1.0)
    rate = training.dropout
    shape = dataclasses.replace(context.shape, dropout=rate, attention_dropout=rate)
    if rate:  # only dense attention drops weights
        shape = dataclasses.replace(shape, attention="dense")
    tasks, trained = probe_tasks(training, context.table.language), examples.take(train_rows)
    parts = {
        name: examples.take(np.flatnonzero(chosen[people]))
        for name, chosen in (("held_back", held_back), ("trained", compared))
    }
    validation = Validation(
        context, training, norm, tasks, num_classes, trained, parts, int(held_back.sum())
    )
    merge = jax.jit(probes.with_probe)  # as `fit` merges, so that one program scores all
    measured = validation.measure(merge(frozen, trainable)) if held_back.any() else None

    def evaluate(params):
        return validation.measure(gather_to_host(context.mesh, params))

    task = TrainTask(
        name=name,
        objective=probes.probe_objective(shape, num_classes, norm),
        merge=probes.with_probe,
        frozen=frozen,
        trainable=trainable,
        make_batch=make_batch,
        step_tokens=training.batch_size * len(num_classes) * examples.tokens.shape[1],
        seed=context.seed,
        evaluate=evaluate,
        evaluate_at=validation.measured_at if measured else (),
    )
    fitted = fit(task, training, folder, context.mesh, context.telemetry)
    params = merge(frozen, gather_to_host(context.mesh, fitted))
    held_out = examples.take(held_out_rows)
    hits, _ = probes.probe_scores(context.shape, params, num_classes, norm, trained, held_out)
    accuracy = probes.accuracy_by_position(hits, held_out)
    cases = {"person": people[held_out_rows], "text": held_out_rows}
    cases |= {"active": held_out.active, "hits": hits.transpose(1, 2, 0)}
    cases |= {name: column[held_out_rows] for name, column in (more or {}).items()}
    cases["names"] = np.array([" ".join(task) for task in tasks])
    scores = _scores(training, tasks, accuracy, trained, held_out)
    if measured:
        scores["training"] = validation.result(folder, measured, validation.measure(params))
    return scores, cases


def _scores(
    training: Probe,
    tasks: ProbeTasks,
    accuracy_TxQ: np.ndarray,
    trained: ProbeExamples,
    held_out: ProbeExamples,
) -> dict:
    """The scores that `train_probe` returns, without its `training`."""
    accuracy: dict = {"first": {}, "whole": {}}
    baseline: dict = {"first": {}, "whole": {}}
    ceiling: dict = {"first": {}, "whole": {}}
    for t, (attribute, kind) in enumerate(tasks):
        train_labels, test_labels = trained.labels[:, t], held_out.labels[:, t]
        accuracy[kind][attribute] = [None if np.isnan(x) else float(x) for x in accuracy_TxQ[t]]
        baseline[kind][attribute] = majority_share(train_labels, test_labels)
        ceiling[kind][attribute] = float(np.isin(test_labels, train_labels).mean())
    scores = {**accuracy, "baseline": baseline}
    return {**scores, "ceiling": ceiling} if training.head == "linear" else scores


def probe_tasks(training: Probe, language: Language) -> ProbeTasks:
    """The tasks of a probe; without a linear head only first tokens, since the model's output rows
    stand for tokens, not for whole values."""
    return (all_tasks if training.head == "linear" else first_token_tasks)(language)


class ProbeReadout(Readout):
    """A readout whose configuration is a `Probe`."""

    def check(self, config: Probe, experiment: Any) -> None:
        """Raises UserError where the low-rank update has a larger rank than the embedding."""
        if (rank := config.embedding_rank) > (width := experiment.model.width):
            raise UserError(f"embedding_rank: expected at most model.width = {width}, got {rank}")

    def departures(self, configs: Sequence[Mapping[str, Any]]) -> list[str]:
        return probe_config.departures(configs, self.Config)

    def shares(self, result: dict) -> list[Share]:
        names = [name for name in _SHARES if name in result]
        return [share for name in names for share in shares_of(result[name], name)]

    def measurements(self, cases: Mapping[str, np.ndarray]) -> list[Measurements]:
        found = []
        for t, name in enumerate(cases["names"].tolist()):
            attribute, kind = name.split(" ")
            for q in range(cases["hits"].shape[1]):
                read = cases["active"][:, q, t]
                columns = cases["person"][read], cases["text"][read], cases["hits"][read, q, t]
                found += [Measurements(kind, attribute, q, *columns)] if read.any() else []
        return found

    def intervals(self, cases: Mapping[str, np.ndarray]) -> dict:
        found: dict = {"first": {}, "whole": {}}
        for t, name in enumerate(cases["names"].tolist()):
            attribute, kind = name.split(" ")
            columns = cases["hits"][:, :, t], cases["active"][:, :, t]
            found[kind][attribute], _ = intervals(cases["person"], *columns)
        return found


_SHARES = ("first", "whole", "baseline", "ceiling")


def probe_work(config: Probe, language: Language, length: int, held_out: float) -> float:
    """`Readout.work` of a probe that reads texts of `length` tokens, once a task, and is scored on
    `held_out` of them."""
    texts_read = config.steps * config.batch_size + READ_COST * held_out
    return len(probe_tasks(config, language)) * length * texts_read


def at_name(cells: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
    """Each attribute's accuracy at the first position, where little but the name was read."""
    return {name: values[0] for name, values in cells.items()}
