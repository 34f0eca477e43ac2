"""Recall and answers in the course of pretraining (Part 3.1, Fig. 1)."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from kstore_jax.charts.curves import STEP, curves_spec, thinned
from kstore_jax.charts.drawing import GREY, PERCENT, WIDTH, Chart, percent, picture_name
from kstore_jax.config.fields import number
from kstore_jax.model.forward import Params
from kstore_jax.readouts import spans
from kstore_jax.readouts.base import READOUTS, Context, Readout, ReadoutConfig
from kstore_jax.readouts.measured import Measured
from kstore_jax.train.mesh import shard_tree
from kstore_jax.world import random

_CURVES = {
    "bio_train_first": ("biographies, P_train", "#0072B2", "--"),
    "bio_test_first": ("biographies, P_test", "#0072B2", "-"),
    "qa_train_first": ("answers, P_train", "#D55E00", "--"),
    "qa_test_first": ("answers, P_test", "#D55E00", "-"),
    "qa_test_exact": ("whole answers, P_test", "#009E73", "-"),
}
"""The curves of Fig. 1: label, colour and line style."""


@dataclasses.dataclass(frozen=True)
class DynamicsConfig(ReadoutConfig):
    """Recall and answers every `pretrain.evaluate_every` steps (Part 3.1, Fig. 1)."""

    people: int = number(200, 1)
    """People of P_train, and of P_test."""


@READOUTS.register
class Dynamics(Readout):
    """Recall and answers in the course of pretraining."""

    name = "dynamics"
    Config = DynamicsConfig
    measures_training = True

    title = "The model while it was pretrained"
    paragraph = (
        "First tokens of the values in the biographies, and of the answers, for people whose "
        "questions are trained (P_train) and for the others (P_test); and whole answers about "
        "P_test."
    )
    in_the_paper = (
        "With questions mixed in, they rise in this order in the paper (Fig. 1): answers about "
        "P_train, biographies of P_train, biographies of P_test, answers about P_test."
    )

    def during(
        self, context: Context, config: DynamicsConfig
    ) -> Callable[[Params], dict[str, jax.Array]]:
        return dynamics(context, config.people)

    def charts(self, groups: Sequence[Measured]) -> list[Chart]:
        return [
            _chart(group, seed, result["lines"])
            for group in groups
            for seed, result in zip(group.seeds, group.results, strict=True)
            if set(_CURVES) & set(result["lines"][0]["evaluation"])
        ]


def dynamics(context: Context, people: int) -> Callable[[Params], dict[str, jax.Array]]:
    """Returns `params -> scalars on the device`, which pretraining calls every so many steps.

    `bio_*_first`: the share of values in the first biography whose first token is predicted.
    `qa_*_first`, `qa_*_exact`: the share of answers whose first token, and whose every token, is
    predicted. `*` is `train` or `test`: at most `people` people whose questions are trained, or
    held out.
    """
    groups = {"train": context.qa_train_mask, "test": ~context.qa_train_mask}
    items, questions, parts = *context.questions(), {}
    for name, members in groups.items():
        who = np.flatnonzero(members)
        who = who[random.permutation(len(who), context.world_seed, "dynamics", 0)[:people]]
        chosen = items[0].about(np.isin(np.arange(len(members)), who))
        parts[f"qa_{name}"] = questions.take(np.flatnonzero(chosen))
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


def _chart(group: Measured, seed: int, lines: Sequence[dict]) -> Chart:
    """What a row's model knew while it was pretrained."""
    curves = {n: style for n, style in _CURVES.items() if n in lines[0]["evaluation"]}
    last = lines[-1]["evaluation"]
    lines = thinned(lines, 25)
    labels = [label for label, _, _ in curves.values()]
    values = [
        {"step": line["step"], "y": 100 * line["evaluation"][name], "curve": curves[name][0]}
        for line in lines
        for name in curves
    ]
    tooltips = [
        {
            "step": line["step"],
            "tooltip": f"step {line['step']:,} – "
            + "; ".join(f"{curves[n][0]}: {percent(line['evaluation'][n])}" for n in curves),
        }
        for line in lines
    ]
    styles = [(colour, dash) for _, colour, dash in curves.values()]
    drawn = curves_spec(values, labels, styles, PERCENT)
    rule = {
        "mark": {"type": "rule", "strokeWidth": 9, "color": GREY, "opacity": 0},
        "name": "steps",
        "data": {"values": tooltips},
        "encoding": {"x": STEP, "description": {"field": "tooltip"}},
    }
    rows = [(line["step"], *(100 * line["evaluation"][n] for n in curves)) for line in lines]
    ends = ", ".join(f"{curves[name][0]} {percent(last[name])}" for name in curves)
    return Chart(
        name=picture_name(f"dynamics-{seed}", group.which, group.label),
        title=f"{group.label}, seed {seed}: while it was pretrained",
        alt=f"{group.label}, seed {seed}: first tokens right over pretraining steps. "
        f"At the end: {ends}.",
        spec={"width": WIDTH, "height": 210, "layer": [drawn, rule]},
        columns=("step", *labels),
        rows=rows,
    )
