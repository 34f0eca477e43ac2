"""Q-probing: whether a fact is readable from the name alone (Part 3.1, section 5.2)."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kstore_jax.charts.bars import MARKS, bar, bar_spec, listed, of_the_paper
from kstore_jax.charts.drawing import Chart, in_percent, picture_name
from kstore_jax.charts.tables import Table
from kstore_jax.config.fields import number
from kstore_jax.readouts import probe_validation
from kstore_jax.readouts.base import READOUTS, Context
from kstore_jax.readouts.measured import Measured
from kstore_jax.readouts.probe_config import Probe
from kstore_jax.readouts.probe_data import name_examples, person_labels
from kstore_jax.readouts.probe_training import (
    ProbeReadout,
    at_name,
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
        tasks = probe_tasks(config, context.table.language)
        _, num_classes = person_labels(context.table, context.people, tasks)
        examples = name_examples(context.table, context.people, context.vocabulary, tasks)
        people = np.arange(len(context.people))
        return train_probe(
            context, self.name, folder, config, "batch", examples, people, num_classes
        )[0]

    def work(self, context: Context, texts: Any, config: QProbeConfig, scale: float) -> float:
        language = context.table.language
        tasks = probe_tasks(config, language)
        names = name_examples(context.table, context.people, context.vocabulary, tasks)
        return probe_work(config, language, names.tokens.shape[1], scale * len(context.people))

    def tables(self, groups: Sequence[Measured]) -> list[Table]:
        """How it was trained."""
        return probe_validation.table("Q-probing", groups)

    def charts(self, groups: Sequence[Measured]) -> list[Chart]:
        return [_chart(group) for group in groups]


def _chart(group: Measured) -> Chart:
    """First tokens and whole values by attribute, with the paper's."""
    guess, published = group.means("baseline"), group.published
    ceiling = group.means("ceiling") if group.has("ceiling") else None
    attributes = [*group.results[0]["first"]]
    label = {name: group.label_of(name) for name in attributes}
    levels: dict[tuple[str, str], Mapping] = {}
    values = []
    for kind, part, mark in (("first token", "first", "run"), ("whole value", "whole", "whole")):
        levels[mark, kind] = at_name(group.means(part))
        levels["guess", kind] = guess[part]
        if ceiling:
            levels["ceiling", kind] = ceiling[part]
        if published.get("q_first"):
            levels["paper", kind] = published[f"q_{part}"]
        for seed, result in zip(group.seeds, group.results, strict=True):
            own = result[part] if len(group.seeds) > 1 else {}
            values += [
                bar("seed", group.label_of(a), own[a][0], kind, f"seed {seed}")
                for a in attributes
                if a in own
            ]
    values += [
        bar(mark, label[a], shares[a], kind)
        for (mark, kind), shares in levels.items()
        for a in attributes
        if a in shares
    ]
    columns = ("", *(f"{MARKS[mark].partition(',')[0]}, {kind}" for mark, kind in levels))
    rows = [
        (label[a], *(in_percent(shares.get(a)) for shares in levels.values())) for a in attributes
    ]
    values.sort(key=lambda value: value["kind"])
    first = listed(levels["run", "first token"], label)
    whole = listed(levels["whole", "whole value"], label)
    alt = f"{group.label}: Q-probing. First token: {first}."
    if whole:
        alt += f" Whole: {whole}."
    spec, legend = bar_spec(values, [*label.values()], 18)
    return Chart(
        name=picture_name("q-probing", group.which, group.label),
        title=f"{group.label}: Q-probing{probe_validation.mark(group)}",
        alt=alt + of_the_paper(levels.get(("paper", "first token")), label),
        spec=spec,
        columns=columns,
        rows=rows,
        legend=legend,
    )
