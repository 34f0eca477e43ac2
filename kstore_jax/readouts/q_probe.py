"""Q-probing: whether a fact is readable from the name alone (Part 3.1, section 5.2)."""

import pathlib

from kstore_jax.readouts.base import Context
from kstore_jax.readouts.config import QProbe
from kstore_jax.readouts.probe_data import name_examples, person_labels
from kstore_jax.readouts.probe_training import probe_tasks, train_probe

VERSION = 1


def q_probe(context: Context, training: QProbe, folder: pathlib.Path) -> dict:
    """Trains the probe at the end of text after each full name, and scores it.

    Args:
      folder: where checkpoints and metrics go.

    Returns: the scores of `train_probe`.
    """
    tasks = probe_tasks(training)
    _, num_classes = person_labels(context.table, context.people, tasks)
    examples = name_examples(context.table, context.people, context.vocabulary, tasks)
    return train_probe(
        context, "q_probe", folder, training, "batch", examples, context.in_train, num_classes
    )[0]
