"""Finetuning on questions about half of the people (Part 3.1, section 3)."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from kstore_jax.corpus.sampler import ShuffledIndices
from kstore_jax.errors import UserError
from kstore_jax.pipeline import adapters
from kstore_jax.pipeline.finetune_config import Finetune
from kstore_jax.readouts import spans
from kstore_jax.readouts.base import Context
from kstore_jax.tasks.base import Items, trained_order
from kstore_jax.train import objectives
from kstore_jax.train.distributed import gather_to_host
from kstore_jax.train.fit import TrainTask, fit
from kstore_jax.world import random

VERSION = 1


def finetune(
    context: Context, training: Finetune, held_back_mask: np.ndarray, folder: pathlib.Path
) -> dict:
    """Finetunes the pretrained model on the questions about P_train.

    Args:
      held_back_mask: (everyone,) bool: people of P_train whom training leaves out, to choose a row
        of a grid.
      folder: where checkpoints and metrics go.

    Returns: `questions`, how many were trained; where people are held back also `validation`, the
      exact match on their questions, from 0 to 1.

    Raises:
      UserError: no question is about these people alone, or about those held back.
    """
    items, examples = context.questions(training.tasks)
    everyone, fraction = context.everyone.ids, training.people_fraction
    left_out = left_out_people(context.qa_train_mask, everyone, fraction, context.world_seed)
    train_rows = _rows_about(items, context.qa_train_mask & ~held_back_mask & ~left_out)
    validation_rows = _rows_about(items, held_back_mask)
    for field, rows, needed in (
        ("people_fraction", train_rows, True),
        ("validation", validation_rows, held_back_mask.any()),
    ):
        if needed and not len(rows):
            value, people = getattr(training, field), context.qa_train_mask.sum()
            raise UserError(
                f"finetune.{field}: expected people with at least one question, got {value} of "
                f"{people} people"
            )
    order = ShuffledIndices(len(train_rows), context.seed)

    def make_batch(step, rows):
        drawn = order.read(step * training.batch_size + rows.start, len(rows))
        batch = examples.take(train_rows[drawn])
        return {
            "tokens": batch.tokens,
            "positions": batch.positions[:, 0],
            "targets": batch.targets[:, 0],
            "weights": batch.weights[:, 0],
            "lengths": batch.lengths,
        }

    frozen, trainable = adapters.split(
        context.shape, context.pretrained, training, context.key("lora"), context.new_tokens
    )
    task = TrainTask(
        name="finetune",
        objective=objectives.answer_tokens(context.shape),
        merge=adapters.merge_of(training),
        frozen=frozen,
        trainable=trainable,
        make_batch=make_batch,
        step_tokens=training.batch_size * examples.tokens.shape[1],
        seed=context.seed,
    )
    trained = fit(task, training, folder, context.mesh, context.telemetry)
    params = task.merge(task.frozen, gather_to_host(context.mesh, trained))
    result: dict = {"questions": len(train_rows)}
    if held_back_mask.any():
        exact, _ = spans.span_hits(context.shape, params, examples.take(validation_rows))
        result["validation"] = float(exact.mean())
    return result


def _rows_about(items: Sequence[Items], members: np.ndarray) -> np.ndarray:
    """The rows of the examples of several tasks that are only about people of a mask."""
    return np.flatnonzero(np.concatenate([each.about(members) for each in items]))


def held_back_people(qa_train_mask: np.ndarray, fraction: float, world_seed: int) -> np.ndarray:
    """(everyone,) bool: the fraction of P_train's people that chooses a row of a grid, at least one
    of them."""
    shuffled = random.shuffled_members(qa_train_mask, world_seed, "validation")
    held_back_mask = np.zeros_like(qa_train_mask)
    count = max(1, round(fraction * len(shuffled))) if fraction else 0
    held_back_mask[shuffled[:count]] = True
    return held_back_mask


def left_out_people(
    qa_train_mask: np.ndarray, ids: np.ndarray, fraction: float, world_seed: int
) -> np.ndarray:
    """(everyone,) bool: P_train without the fraction of its people that `trained_order` has first,
    at least one of them."""
    order = trained_order(world_seed, ids)
    members = order[qa_train_mask[order]]
    left_out = np.zeros_like(qa_train_mask)
    left_out[members[max(1, round(fraction * len(members))) :]] = True
    return left_out


def best_row(results: Mapping[Finetune, dict]) -> Finetune:
    """The row of a grid with the best `validation`, or the only row.

    Args:
      results: row -> the result of its finetuning.
    """
    if len(results) < 2:
        return next(iter(results))
    return max(results, key=lambda row: results[row]["validation"])
