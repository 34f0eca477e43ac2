"""How fast BERT trains beside GPT, and what it gains by logits of masked tokens alone.

    python -m benchmarks.directions --json [--config=configs/directions.py] [--rounds=5]

The training steps of the first row of a configuration, in turn: as a GPT; as a BERT; and as a BERT
that computes the logits of all tokens, where its loss needs one in seven.
"""

import argparse
import dataclasses
import importlib.util
import json
import statistics
import sys

from kstore_jax.bench.train import TrainingSteps, temporary_context
from kstore_jax.errors import run_guarded
from kstore_jax.pipeline.experiment import Experiment, parse_rows
from kstore_jax.pipeline.graph import resolve_auto
from kstore_jax.pipeline.pretrain import pretraining_objective
from kstore_jax.train.masking import max_predictions

GPT, BERT, UNGATHERED = "GPT", "BERT", "BERT, logits of every token"


def training_steps(experiment: Experiment, name: str) -> TrainingSteps:
    """The compiled steps of a competitor."""
    direction = "causal" if name == GPT else "bidirectional"
    model = dataclasses.replace(experiment.model, direction=direction)
    experiment = resolve_auto(dataclasses.replace(experiment, model=model))
    with temporary_context(experiment) as context:
        most = (lambda length: length) if name == UNGATHERED else max_predictions
        objective = pretraining_objective(context, most)
        return TrainingSteps(context.shape, experiment.pretrain, objective)


def compare(experiment: Experiment, rounds: int, calls: int) -> list[dict]:
    """Tokens a second of each, and the median over rounds of the ratio to GPT's."""
    steps = {name: training_steps(experiment, name) for name in (GPT, BERT, UNGATHERED)}
    training = experiment.pretrain
    tokens = training.batch_size * training.seq_len * training.steps_per_call * calls
    rates = {name: [] for name in steps}
    for one in steps.values():
        one.run(1)
    for _ in range(rounds):
        for name, one in steps.items():
            rates[name].append(tokens / one.run(calls))
    return [
        {
            "name": name,
            "tokens_per_s": round(statistics.median(found)),
            "ratio_to_gpt": round(
                statistics.median(x / gpt for x, gpt in zip(found, rates[GPT], strict=True)), 3
            ),
        }
        for name, found in rates.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", default="configs/directions.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2, help="of the compiled loop, a round")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    spec = importlib.util.spec_from_file_location("configuration", given.config)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = compare(parse_rows(module.get_config())[0], given.rounds, given.calls)
    if given.json:
        print(json.dumps({"rows": rows}))
    else:
        for row in rows:
            print(f"{row['name']:<30} {row['tokens_per_s']:>9,} tokens/s {row['ratio_to_gpt']:>7}")


if __name__ == "__main__":
    sys.exit(run_guarded(main))
