"""The side-by-side: ratios are taken within a round, and every competitor trains the same shape."""

import json
import os
import subprocess
import sys

import jax
import optax
import pytest

from benchmarks import directions, machine
from benchmarks.page import multiplied
from benchmarks.rewrite import measure
from benchmarks.shape import Shape
from benchmarks.train import (
    DISPATCH,
    DTYPES,
    OURS,
    PEERS,
    busy_processor,
    compare,
    row,
    training_steps,
)
from kstore_jax.corpus.config import Data
from kstore_jax.model.config import Model
from kstore_jax.pipeline.experiment import Experiment, Finetune, Pretrain
from kstore_jax.report import groups
from kstore_jax.report.results import read_results
from kstore_jax.world.config import World
from tests.report.runs import a_row, a_run

SIZES = ("--layers=1", "--width=16", "--heads=2", "--window=8", "--batch=2", "--vocabulary=32")
TINY = Shape(layers=1, width=16, heads=2, window=8, batch=2, vocabulary=32)


def test_a_ratio_is_the_median_of_those_within_a_round():
    rates = {  # the second round was disturbed, all of it
        (OURS, "float32"): (30.0, 3.0, 40.0),
        (PEERS[0], "float32"): (20.0, 2.0, 20.0),
        (PEERS[1], "float32"): (19.0, 9.0, 19.0),
    }
    ours = row(OURS, "float32", 5, rates)
    assert ours["tokens_per_s"] == 30
    assert ours["ratio_to_best_peer"] == 1.5
    assert row(PEERS[0], "float32", 5, rates)["ratio_to_best_peer"] == 1.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [OURS, *PEERS])
def test_every_competitor_trains_the_shape(name, dtype):
    if name != OURS:
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
    steps = training_steps(name, TINY, dtype)
    assert steps.run(2) > 0
    assert _updates(steps) == 2 * steps.steps_a_call  # or tokens/s would be those of fewer steps
    block = 12 * 16**2 + 13 * 16
    learnt_positions = 0 if name == OURS else 8 * 16
    assert steps.parameters == 32 * 16 + block + 2 * 16 + learnt_positions


def _updates(steps) -> int:
    """How often the weights were updated, by the optimizer's own count."""
    if hasattr(steps, "state"):
        counts = jax.tree.leaves(optax.tree_utils.tree_get_all_with_path(steps.state, "count"))
        return int(next(leaf for leaf in counts if isinstance(leaf, jax.Array)))
    (state, *_) = steps._optimizer.state.values()
    return int(state["step"])


def test_what_a_process_of_a_competitor_tells_of_its_calls():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train", *SIZES, f"--work={OURS}:float32"],
        input="1\n",
        capture_output=True,
        text=True,
        check=True,
    )
    ready, seconds = map(json.loads, done.stdout.splitlines())
    assert ready["call_tokens"] == DISPATCH * 2 * 8
    assert seconds > 0


def test_of_one_dtype_the_others_are_not_started():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    rows = compare(TINY, rounds=1, dtypes=["bfloat16"])
    assert [(row["name"], row["dtype"]) for row in rows] == [
        (name, "bfloat16") for name in (OURS, *PEERS)
    ]


def test_a_machine_is_described_by_its_processor_its_products_and_its_memory():
    found = machine.describe(1)
    assert found["processor"]
    assert set(found["flags"]) <= set(machine.FLAGS)
    assert {"JAX", "NumPy"} <= set(found["product_gflop_s"])
    speeds = [s for each in found["product_gflop_s"].values() for s in each.values()]
    assert all(0.1 < speed < 1e6 for speed in [*speeds, found["copy_gb_s"]])


def test_a_processor_is_kept_busy_and_let_go():
    def children() -> set[str]:
        out = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True)
        return {line for line in out.stdout.decode().splitlines() if "while True" in line}

    with busy_processor():
        assert len(children()) == 1
    assert not children()


@pytest.mark.slow
def test_the_benchmark_prints_a_row_for_each_competitor():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train", "--json", "--rounds=1", *SIZES],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout)["rows"]
    assert {(row["name"], row["dtype"]) for row in rows} == {
        (name, dtype) for name in (OURS, *PEERS) for dtype in DTYPES
    }
    assert all(row["tokens_per_s"] > 0 and row["ratio_to_best_peer"] > 0 for row in rows)


EXPERIMENT = Experiment(
    world=World(people=20),
    data=Data(vocabulary="compact"),
    model=Model(layers=1, heads=2, width=16, dtype="float32"),
    pretrain=Pretrain(batch_size=2, seq_len=64, steps_per_call=2, checkpoint_every=2),
    finetune=Finetune(embedding_rank=4),
)


def test_directions_are_compared_in_turn():
    rows = directions.compare(EXPERIMENT, rounds=1, calls=1)
    assert [row["name"] for row in rows] == [
        directions.GPT,
        directions.BERT,
        directions.UNGATHERED,
    ]
    assert rows[0]["ratio_to_gpt"] == 1.0
    assert all(row["tokens_per_s"] > 0 for row in rows)


def test_logits_of_masked_tokens_alone_are_less_work_than_those_of_every_token():
    def flops(name):
        return directions.training_steps(EXPERIMENT, name).compiled.cost_analysis()["flops"]

    every, gpt = flops(directions.UNGATHERED), flops(directions.GPT)
    assert flops(directions.BERT) < 0.7 * every
    assert every > 0.95 * gpt


def test_the_rate_of_rewriting_counts_answers_and_rejections():
    found = measure(300, 16, wrong=0.2)
    assert found["answers"] == 300 + found["rejected"] > 300
    for name in ("answers_per_s", "peak_memory_mib", "cpu_us_an_answer"):
        assert found[name] > 0


def test_the_page_of_many_runs_has_each_of_them(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    out.mkdir()
    rows = [a_row("single"), a_row("multi2")]
    multiplied(a_run(run, rows), 5, out)
    found = groups.groups(groups.distinct(read_results(out).rows))
    assert [len(group.rows) for group in found] == [1] * 5
    assert [group.dataset for group in found].count("single") == 3
