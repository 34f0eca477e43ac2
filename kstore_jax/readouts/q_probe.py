"""Q-probing: whether a fact is readable from the name alone (Part 3.1, section 5.2)."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kstore_jax.charts.bars import Level
from kstore_jax.charts.drawing import Chart
from kstore_jax.charts.shares import shares_chart
from kstore_jax.charts.tables import Table
from kstore_jax.config.fields import number
from kstore_jax.readouts import probe_validation
from kstore_jax.readouts.base import READOUTS, Context, write_cases
from kstore_jax.readouts.levels import our_levels, side_by_side
from kstore_jax.readouts.measured import Measured
from kstore_jax.readouts.probe_config import Probe
from kstore_jax.readouts.probe_data import ProbeExamples, name_examples, person_labels
from kstore_jax.readouts.probe_training import (
    ProbeReadout,
    probe_tasks,
    probe_work,
    train_probe,
)


@dataclasses.dataclass(frozen=True)
class QProbeConfig(Probe):
    """Q-probing (Part 3.1, section 5.2)."""

    batch_size: int = number(200, 1)
    """Names a step."""


@READOUTS.register
class QProbe(ProbeReadout):
    """Trains a probe at the end of text after each full name, and scores it."""

    name = "q_probe"
    version = 2
    Config = QProbeConfig
    title = "Q-probing: is the fact readable from the name alone?"
    paragraph = (
        "The frozen model reads the full name only. Linear probes at its end predict each "
        "attribute: the first token, and the whole value (except of dates, which have too many "
        "values). High accuracy means that the name alone recalls the fact. Where accuracy "
        "is at the majority guess, expect no answers to questions about the person."
    )

    def run(self, context: Context, config: QProbeConfig, folder: pathlib.Path) -> dict:
        """Returns the scores of `train_probe`."""
        names = name_readings(context, config)
        scores, cases = train_probe(context, self.name, folder, config, "batch", *names)
        write_cases(folder, cases)
        return scores

    def work(self, context: Context, texts: Any, config: QProbeConfig, scale: float) -> float:
        names = name_readings(context, config)[0]
        held_out = scale * len(context.people)
        return probe_work(config, context.table.language, names.tokens.shape[1], held_out)

    def tables(self, groups: Sequence[Measured]) -> list[Table]:
        """How it was trained."""
        return probe_validation.table("Q-probing", groups)

    def charts(self, groups: Sequence[Measured]) -> list[Chart]:
        """First tokens and whole values by attribute, with the paper's."""
        if not groups:
            return []
        labels = {
            name: group.label_of(name) for group in groups for name in group.results[0]["first"]
        }
        note = "Accuracy in %, read at the end of the name."
        beside = side_by_side(probe_validation.marked(groups), _levels)
        return [shares_chart("q-probing", "Q-probing", beside, labels, note)]


def name_readings(
    context: Context, config: Probe
) -> tuple[ProbeExamples, np.ndarray, tuple[int, ...]]:
    """The names that Q-probing reads, the number of each one's person, and the number of classes of
    each task."""
    tasks = probe_tasks(config, context.table.language)
    _, num_classes = person_labels(context.table, context.people, tasks)
    examples = name_examples(context.table, context.people, context.vocabulary, tasks)
    return examples, np.arange(len(context.people)), num_classes


def _levels(group: Measured) -> list[Level]:
    """First tokens and whole values by attribute, with the paper's."""
    levels = []
    for kind, part, mark in (("first token", "first", "run"), ("whole value", "whole", "whole")):
        if not group.has(part):
            continue
        levels += our_levels(group, mark, (part,), kind, (0,))
        levels.append(Level("guess", group.means("baseline", part), kind))
        if group.has("ceiling"):
            levels.append(Level("ceiling", group.means("ceiling", part), kind))
        if theirs := group.published.get(f"q_{part}"):
            levels.append(Level("paper", theirs, kind))
    return levels
