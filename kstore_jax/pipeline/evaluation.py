"""Evaluates the finetuned models of a run: accuracies, and answers as text."""

import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from kstore_jax.errors import UserError
from kstore_jax.model.forward import Params
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import select_graphs
from kstore_jax.readouts.base import Context
from kstore_jax.readouts.qa import evaluate_questions, generate_answers
from kstore_jax.world import random
from kstore_jax.world.people import ATTRIBUTES


def evaluate(run: pathlib.Path, row: int | None, beam_size: int, show: int) -> Iterator[dict]:
    """Evaluates the models of a run, one after the other.

    Args:
      row: number of the experiment, None for all.
      beam_size: beams of a search besides greedy decoding; 1 for none, as for bidirectional models.
      show: number of answers about held-out people to include as text.

    Yields for each: `dataset`, `seed`, the scores of `evaluate_questions`, and `shown`: a
    `question`, the `answer`, the `truth`, and whether the answer is `right`.

    Rows without a finished model are skipped, with a line on stderr each.

    Raises:
      UserError: there is no such run or row, or none of its models is finished.
    """
    graphs = select_graphs(run, row)
    unfinished = {i: kind for i, graph in graphs.items() if (kind := _unfinished(graph))}
    reasons = [f"{run}: {kind} of row {i} is not finished" for i, kind in unfinished.items()]
    if len(reasons) == len(graphs):
        raise UserError(f"{reasons[0]}; run it first")
    for reason in reasons:
        print(f"note: {reason}; skipped", file=sys.stderr)
    for i, graph in graphs.items():
        if i not in unfinished:
            causal = graph.experiment.model.direction == "causal"
            yield _evaluate(graph, beam_size if causal else 1, show)


def _unfinished(graph: ExperimentGraph) -> str | None:
    """The first kind of stage that answers need and that is not finished."""
    stages = (graph.pretrain, *graph.finetune.values())
    return next((stage.kind for stage in stages if graph.cache.result(stage) is None), None)


def _evaluate(graph: ExperimentGraph, beam_size: int, show: int) -> dict:
    context, experiment = build_context(graph), graph.experiment
    params = context.finetuned
    return {
        "dataset": experiment.data.variant,
        "direction": experiment.model.direction,
        "seed": experiment.seed,
        "beam": beam_size,
        **evaluate_questions(context, params, beam_size),
        "shown": _shown(context, params, beam_size, show) if show else [],
    }


def _shown(context: Context, params: Params, beam_size: int, show: int) -> list[dict]:
    held_out = np.flatnonzero(np.repeat(~context.qa_train_mask, len(ATTRIBUTES)))
    order = random.permutation(len(held_out), context.world_seed, "shown", 0)
    examples = context.questions().take(held_out[order[:show]])
    end, decode = context.vocabulary.end_of_text, context.vocabulary.decode
    shown = []
    for i, tokens in enumerate(generate_answers(context, params, examples, beam_size)):
        inside = examples.weights[i, 0] > 0
        target = examples.targets[i, 0][inside]
        first = examples.positions[i, 0, 0] + (context.mask_token is None)
        answer = tokens[: np.append(np.flatnonzero(tokens == end), len(tokens))[0]]
        truth = decode(target[target != end]).strip()
        shown.append(
            {
                "question": decode(examples.tokens[i][1:first]),
                "answer": decode(answer).strip(),
                "truth": truth,
                "right": bool((tokens[inside] == target).all()),
            }
        )
    return shown


def format_evaluation(row: dict) -> str:
    """An evaluation as text for a terminal; shares in %."""
    lines = [f"{row['dataset']}, seed {row['seed']}, {row['direction']}", ""]
    heads = "".join(f"{name:>14}" for name in ("mean", *ATTRIBUTES))
    kinds = {"exact": "right", "beam": f"beam of {row['beam']}", "first": "first token"}
    for half, name in (("test", "held out (P_test)"), ("train", "trained (P_train)")):
        lines.append(f"{name:<22}{heads}")
        lines_of_half = {kinds[kind]: shares for kind, shares in row[half].items()}
        for number, shares in enumerate(row["wordings"][half], start=2):
            lines_of_half[f"wording {number}, untrained"] = shares
        if half == "test":
            lines_of_half["majority guess"] = row["baseline"]
        lines += [f"  {kind:<20}{_percentages(shares)}" for kind, shares in lines_of_half.items()]
    for shown in row["shown"]:
        verdict = "right" if shown["right"] else f"wrong; the truth: {shown['truth']}"
        lines.append(f"\n{shown['question']} {shown['answer']}\n  {verdict}")
    return "\n".join(lines) + "\n"


def _percentages(shares: dict[str, float]) -> str:
    return "".join(f"{100 * shares[name]:>14.1f}" for name in ("mean", *ATTRIBUTES))
