"""Recall and answers in the course of pretraining (Part 3.1, Fig. 1)."""

from collections.abc import Callable

import jax
import numpy as np

from kstore_jax.model.forward import Params
from kstore_jax.readouts import spans
from kstore_jax.readouts.base import Context
from kstore_jax.train.mesh import shard_tree
from kstore_jax.world import random
from kstore_jax.world.people import ATTRIBUTES


def dynamics(context: Context, people: int) -> Callable[[Params], dict[str, jax.Array]]:
    """Returns `params -> scalars on the device`, which pretraining calls every so many steps.

    `bio_*_first`: the share of values in the first biography whose first token is predicted.
    `qa_*_first`, `qa_*_exact`: the share of answers whose first token, and whose every token, is
    predicted. `*` is `train` or `test`: at most `people` people whose questions are trained, or
    held out.
    """
    groups = {"train": context.qa_train_mask, "test": ~context.qa_train_mask}
    questions, parts = context.questions(), {}
    for name, members in groups.items():
        who = np.flatnonzero(members)
        who = who[random.permutation(len(who), context.world_seed, "dynamics", 0)[:people]]
        rows = np.flatnonzero(np.isin(np.arange(len(members)), who).repeat(len(ATTRIBUTES)))
        parts[f"qa_{name}"] = questions.take(rows)
        first_entries = np.isin(context.corpus.people, who) & (context.corpus.entries == 0)
        if first_entries.any():
            biographies = context.corpus.texts.take(np.flatnonzero(first_entries))
            parts[f"bio_{name}"] = context.recall_examples(biographies)[0][1]
    batches = {
        name: shard_tree(context.mesh, spans.stack_batches(part)) for name, part in parts.items()
    }

    def evaluate(params: Params) -> dict[str, jax.Array]:
        scalars = {}
        for name, batch in batches.items():
            exact, first = spans.span_shares(context.shape, params, batch)
            scalars[f"{name}_first"] = first
            if name.startswith("qa"):
                scalars[f"{name}_exact"] = exact
        return scalars

    return evaluate
