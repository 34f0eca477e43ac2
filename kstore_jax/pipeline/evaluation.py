"""Evaluates the finetuned models of a run: accuracies, and some answers as text."""

import json
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from kstore_jax.errors import UserError
from kstore_jax.files import write_text
from kstore_jax.model.forward import Params
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.memory import check_beams
from kstore_jax.pipeline.results import select_graphs
from kstore_jax.readouts.base import Context, write_cases
from kstore_jax.readouts.examples import accepted_texts, answers
from kstore_jax.readouts.qa import evaluate_tasks
from kstore_jax.world import random


def evaluate(
    run: pathlib.Path,
    row: str | None,
    beam_size: int,
    show: int,
    out: pathlib.Path | None = None,
) -> Iterator[dict]:
    """Evaluates the models of a run one by one; skips unfinished ones with a note on stderr.

    Args:
      run: the folder of the run.
      row: name or number of the experiment; None: all.
      beam_size: beams of a search beside greedy decoding; 1: none. Bidirectional models have none.
      show: answers about held-out people to include as text.
      out: where to write `row-N/evaluation.json`, what is yielded of row N, and beside it
        `cases.npz`, every single answer (`docs/results-format.md`); None: nowhere.

    Yields: for each model `dataset`, `direction`, `seed`, `beam` (its beam size), `scores` (of each
      task of `readouts.qa.tasks`, as `evaluate_task` returns them), and `shown`, a list of answers:
      `question`, `answer`, `truth`, and whether it is `right`.

    Raises:
      UserError: there is no such run or row, or none of its models is finished.
    """
    graphs = select_graphs(run, row)
    unfinished = {i: g.why_unfinished() for i, g in graphs.items() if not _is_trained(g)}
    for i, reason in unfinished.items():
        if len(unfinished) == len(graphs):
            raise UserError(f"{run}: row {i}: {reason}")
        print(f"note: {run}: row {i} is skipped: {reason}", file=sys.stderr)
    for i, graph in graphs.items():
        if i not in unfinished:
            causal = graph.experiment.model.direction == "causal"
            evaluation, cases = _evaluate(graph, beam_size if causal else 1, show)
            if out:
                folder = out / f"row-{i}"
                folder.mkdir(parents=True, exist_ok=True)
                write_cases(folder, cases)
                write_text(folder / "evaluation.json", json.dumps(evaluation))
            yield evaluation


def _is_trained(graph: ExperimentGraph) -> bool:
    """Whether the model that answers questions is finished."""
    return graph.has_finetuned and all(
        graph.cache.result(stage) is not None for stage in graph.trainings
    )


def _evaluate(
    graph: ExperimentGraph, beam_size: int, show: int
) -> tuple[dict, dict[str, np.ndarray]]:
    """The evaluation of a model, and its cases."""
    context, experiment = build_context(graph, to_read=True), graph.experiment
    if beam_size > 1:
        check_beams("--beam", beam_size, experiment.world.people, context.vocabulary.size)
    params, tasks = context.finetuned, experiment.readouts.qa.tasks
    scores, cases = evaluate_tasks(context, params, tasks, beam_size)
    evaluation = {
        "dataset": experiment.data.variant,
        "direction": experiment.model.direction,
        "seed": experiment.seed,
        "beam": beam_size,
        "scores": scores,
        "shown": _sample_answers(context, params, experiment, beam_size, show) if show else [],
    }
    return evaluation, cases


def _sample_answers(
    context: Context, params: Params, experiment: Experiment, beam_size: int, count: int
) -> list[dict]:
    """The answers to `count` questions about held-out people, drawn by the seed of the world."""
    items, questions = context.questions(experiment.readouts.qa.tasks)
    held_out = np.flatnonzero(
        np.concatenate([each.about(~context.qa_train_mask) for each in items])
    )
    order = random.permutation(len(held_out), context.world_seed, "shown", 0)
    rows, accepted, first = held_out[order[:count]], {}, 0
    for each in items:
        of_task = np.flatnonzero((first <= rows) & (rows < first + len(each)))
        texts = accepted_texts(context, each.take(rows[of_task] - first))
        accepted |= {int(of_task[i]): found for i, found in texts.items()}
        first += len(each)
    hint_lengths = np.concatenate([each.hint_lengths for each in items])[rows]
    shown = questions.take(rows)
    return answers(context, params, shown, hint_lengths, beam_size, accepted=accepted)


def format_evaluation(row: dict) -> str:
    """An evaluation as a table for the terminal, in percent, followed by the answers shown."""
    lines = [f"{row['dataset']}, seed {row['seed']}, {row['direction']}"]
    for task, scores in row["scores"].items():
        lines += ["", *([f"task {task}"] if len(row["scores"]) > 1 else [])]
        lines += _score_lines(scores, row["beam"])
    for shown in row["shown"]:
        verdict = "right" if shown["right"] else f"wrong; the truth: {shown['truth']}"
        lines.append(f"\n{shown['question']} {shown['answer']}\n  {verdict}")
    return "\n".join(lines) + "\n"


def _score_lines(scores: dict, beam_size: int) -> list[str]:
    """The table of one task, a group of its questions a column."""
    lines, names = [], [*dict.fromkeys([*scores["test"]["exact"], *scores["train"]["exact"]])]
    widths = [max(14, len(name) + 2) for name in names]
    columns = "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    kinds = {"exact": "right", "beam": f"beam of {beam_size}", "first": "first token"}
    kinds["hint"] = "hint right"
    halves = {"test": "held out (P_test)", "train": "trained (P_train)"}
    halves["held_back"] = "held back from training"
    for half, name in halves.items():
        if half not in scores:
            continue
        lines.append(f"{name:<22}{columns}")
        measures = {kinds[kind]: shares for kind, shares in scores[half].items()}
        for number, shares in enumerate(scores["wordings"][half], start=2):
            measures[f"wording {number}, untrained"] = shares
        if half == "test":
            measures["majority guess"] = scores["baseline"]
        for label, shares in measures.items():
            texts = (f"{100 * shares[name]:.1f}" if name in shares else "–" for name in names)
            cells = (f"{text:>{w}}" for text, w in zip(texts, widths, strict=True))
            lines.append(f"  {label:<20}{''.join(cells)}")
    return lines
