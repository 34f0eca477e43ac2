"""Recall and answers in the course of pretraining (Part 3.1, Fig. 1)."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np

from kstore_jax.charts.curves import curves_spec, thinned
from kstore_jax.charts.drawing import PERCENT, WIDTH, Chart, beside, in_percent, percent
from kstore_jax.config.fields import number
from kstore_jax.model.forward import Params
from kstore_jax.readouts import spans
from kstore_jax.readouts.base import READOUTS, Context, Readout, ReadoutConfig
from kstore_jax.readouts.measured import Measured, means
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
        drawn = [
            group
            for group in groups
            if all(set(_CURVES) & {*row["lines"][0]["evaluation"]} for row in group.results)
        ]
        pairs = [drawn[i : i + 2] for i in range(0, len(drawn), 2)]
        return [_chart(i + 1, pair) for i, pair in enumerate(pairs)]


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


def _chart(number: int, groups: Sequence[Measured]) -> Chart:
    """What the models of groups knew while they were pretrained, side by side."""
    measured = {name for group in groups for name in group.results[0]["lines"][0]["evaluation"]}
    curves = {name: style for name, style in _CURVES.items() if name in measured}
    rows, ends = [], []
    for group in groups:
        for seed, result in zip(group.seeds, group.results, strict=True):
            shares = [
                (line["step"], _shares(line, curves)) for line in thinned(result["lines"], 25)
            ]
            rows += [
                (group.label, seed, step, *map(in_percent, of_step.values()))
                for step, of_step in shares
            ]
            last = _in_words(shares[-1][1], curves)
            ends.append(f"{group.label}, seed {seed} – {last}.")
    return Chart(
        name=f"dynamics-{number}",
        title=f"{' and '.join(group.label for group in groups)}: in the course of pretraining",
        alt=f"First tokens right over pretraining steps. At the end: {' '.join(ends)}",
        spec=beside([[(group.label, _panel(group, curves)) for group in groups]]),
        columns=("dataset", "seed", "step", *(label for label, _, _ in curves.values())),
        rows=rows,
        note="A line a seed.",
    )


def _shares(line: dict, curves: Iterable[str]) -> dict[str, float | None]:
    return {name: line["evaluation"].get(name) for name in curves}


def _in_words(shares: Mapping[str, float | None], curves: Mapping[str, tuple]) -> str:
    named = {curves[name][0]: share for name, share in shares.items() if share is not None}
    return "; ".join(f"{label}: {percent(share)}" for label, share in named.items())


def _panel(group: Measured, curves: Mapping[str, tuple[str, str, str]]) -> dict:
    """The curves of a group, each seed a line; tooltips have the means over the seeds."""
    lines = [
        (seed, line)
        for seed, result in zip(group.seeds, group.results, strict=True)
        for line in thinned(result["lines"], 25)
    ]
    values = [
        {"step": line["step"], "y": 100 * share, "curve": curves[name][0], "row": seed}
        for seed, line in lines
        for name, share in _shares(line, curves).items()
        if share is not None
    ]
    by_step: dict[int, list[dict]] = {}
    for _, line in lines:
        by_step.setdefault(line["step"], []).append(_shares(line, curves))
    points = [
        {
            "step": step,
            "tooltip": f"{group.label} – step {step:,} – {_in_words(means(of_step), curves)}",
        }
        for step, of_step in by_step.items()
    ]
    return curves_spec(
        values,
        points,
        {label: (colour, dash) for label, colour, dash in curves.values()},
        PERCENT,
        (WIDTH, 210),
        [result.get("exposures", 0.0) for result in group.results],
    )
