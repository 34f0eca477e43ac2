"""What the finetuned models of a run answer, in figures and in words."""

import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from kstore_jax.errors import UserError
from kstore_jax.pipeline import answering
from kstore_jax.pipeline.lab import Lab
from kstore_jax.pipeline.results import rows_of
from kstore_jax.world import random
from kstore_jax.world.people import ATTRIBUTES


def evaluate(run: pathlib.Path, row: int | None, beam: int, show: int) -> Iterator[dict]:
    """Asks the models of a run, one after the other.

    Args:
      row: which of its experiments, None for all.
      beam: width of a beam search beside greedy decoding; 1 for none, as of bidirectional models.
      show: how many answers about people held out are given in words.

    Yields for each: `dataset`, `seed`, what `answering.answers` finds, and `shown`: a question, the
    answer `said`, the `truth`, and whether it is `right`.

    Rows of which a model is not finished are left out of all, with a line on stderr each.

    Raises:
      UserError: there is no such run or row, or no model of it is finished.
    """
    labs = rows_of(run, row)
    unfinished = {which: stage for which, lab in labs.items() if (stage := _unfinished(lab))}
    said = [f"{run}: {stage} of row {n} is not finished" for n, stage in unfinished.items()]
    if len(said) == len(labs):
        raise UserError(f"{said[0]}; run it first")
    for line in said:
        print(f"note: {line} and left out", file=sys.stderr)
    for which, lab in labs.items():
        if which not in unfinished:
            yield _evaluated(lab, 1 if lab.mask is not None else beam, show)


def _unfinished(lab: Lab) -> str | None:
    """The first stage that answers need and that is not done."""
    stages = (lab.pretrain, *lab.finetune.values())
    return next((stage.name for stage in stages if lab.cache.result(stage) is None), None)


def _evaluated(lab: Lab, beam: int, show: int) -> dict:
    params = lab.finetuned
    return {
        "dataset": lab.experiment.data.variant,
        "direction": lab.experiment.model.direction,
        "seed": lab.experiment.seed,
        "beam": beam,
        **answering.answers(lab, params, beam),
        "shown": _shown(lab, params, beam, show) if show else [],
    }


def _shown(lab: Lab, params, beam: int, show: int) -> list[dict]:
    held_out = np.flatnonzero(np.repeat(~lab.materials.taught, len(ATTRIBUTES)))
    order = random.shuffled(len(held_out), lab.experiment.world.seed, "shown", 0)
    examples = lab.asked().rows(held_out[order[:show]])
    end, decode = lab.vocabulary.end_of_text, lab.vocabulary.decode
    found = []
    for i, answer in enumerate(answering.said(lab, params, examples, beam)):
        kept = examples.weights[i, 0] > 0
        target = examples.targets[i, 0][kept]
        first = examples.positions[i, 0, 0] + (lab.mask is None)
        said = answer[: np.append(np.flatnonzero(answer == end), len(answer))[0]]
        truth = decode(target[target != end]).strip()
        found.append(
            {
                "question": decode(examples.tokens[i][1:first]),
                "said": decode(said).strip(),
                "truth": truth,
                "right": bool((answer[kept] == target).all()),
            }
        )
    return found


def text(row: dict) -> str:
    """An evaluation to be read in a terminal; shares in %."""
    lines = [f"{row['dataset']}, seed {row['seed']}, {row['direction']}", ""]
    heads = "".join(f"{name:>14}" for name in ("mean", *ATTRIBUTES))
    kinds = {"exact": "right", "beam": f"beam of {row['beam']}", "first": "first token"}
    for half, name in (("test", "held out (P_test)"), ("train", "trained (P_train)")):
        lines.append(f"{name:<22}{heads}")
        told = {kinds[kind]: shares for kind, shares in row[half].items()}
        for number, shares in enumerate(row["wordings"][half], start=2):
            told[f"wording {number}, untrained"] = shares
        if half == "test":
            told["majority guess"] = row["baseline"]
        lines += [f"  {kind:<20}{_percentages(shares)}" for kind, shares in told.items()]
    for shown in row["shown"]:
        verdict = "right" if shown["right"] else f"wrong; the truth: {shown['truth']}"
        lines.append(f"\n{shown['question']} {shown['said']}\n  {verdict}")
    return "\n".join(lines) + "\n"


def _percentages(shares: dict[str, float]) -> str:
    return "".join(f"{100 * shares[name]:>14.1f}" for name in ("mean", *ATTRIBUTES))
