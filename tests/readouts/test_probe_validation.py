"""A probe's loss on people held back from it, and the verdict drawn from it."""

import dataclasses
import types
from typing import Any

import jax
import numpy as np
import pytest

from kstore_jax.readouts.measured import Measured
from kstore_jax.readouts.p_probe import PProbeConfig
from kstore_jax.readouts.probe_validation import (
    Validation,
    marked,
    split_people,
    still_improving,
    table,
)
from kstore_jax.readouts.probes import (
    _score_batch,
    init_probe,
    probe_objective,
    probe_scores,
    with_probe,
)
from kstore_jax.readouts.q_probe import QProbe
from kstore_jax.train.objectives import total_loss
from tests.compiled import PROGRAMS
from tests.model import reference
from tests.pipeline.runners import finished_runner
from tests.readouts.test_probes import CLASSES, SHAPE, halves, planted_examples


def context(in_train: np.ndarray, seed: int = 0, world_seed: int = 0) -> Any:
    return types.SimpleNamespace(in_train=in_train, seed=seed, world_seed=world_seed)


def test_the_people_held_back_are_of_p_train_and_a_function_of_the_world_alone():
    in_train = np.arange(500) % 2 == 0
    held_back, compared = split_people(context(in_train), 0.1)
    assert held_back.sum() == compared.sum() == 25
    assert not (held_back & compared).any()
    assert in_train[held_back | compared].all()
    again, _ = split_people(context(in_train, seed=1), 0.1)
    other, _ = split_people(context(in_train, world_seed=1), 0.1)
    assert np.array_equal(held_back, again)
    assert not np.array_equal(held_back, other)
    assert not split_people(context(in_train), 0.0)[0].any()


@pytest.mark.parametrize("people", [1, 2, 3])
def test_somebody_is_always_trained_on(people):
    in_train = np.ones(people, bool)
    held_back, _ = split_people(context(in_train), 0.9)
    assert held_back.sum() == min(round(0.9 * people), people - 1)


@pytest.mark.parametrize(
    ("steps", "losses", "expected"),
    [
        ([0, 3, 4], [4.0, 2.0, 1.97], False),
        ([0, 3, 4], [4.0, 2.0, 1.95], True),
        ([0, 1, 2], [4.0, 2.0, 1.95], False),  # half of it in a quarter
        ([0, 3, 4], [4.0, 2.0, 2.5], False),
        ([0, 5], [4.0, 3.0], None),  # nothing was measured within the training
        ([0, 3, 4], [4.100, 4.036, 4.028], True),  # slow: a ninth of its whole fall
        ([0, 3, 4], [4.0, 3.02, 3.0], False),
        ([0, 3, 4], [4.0, 3.04, 3.0], True),
        # Twice the steps: 2.284, and 7 points more are read.
        ([0, 25, 40, 50], [3.261, 2.700, 2.498, 2.466], True),
        # Twice the steps: 2.386, and 0.7 points more.
        ([0, 30, 45, 60], [3.859, 2.631, 2.510, 2.482], False),
        ([0, 3, 4], [3.1764, 3.1763, 3.1762], False),  # noise
    ],
)
def test_a_probe_whose_loss_still_fell_in_the_last_quarter_was_still_improving(
    steps, losses, expected
):
    assert still_improving(steps, losses) is expected


def validation(norm: str, **fields) -> Validation:
    trained, held_back = halves(planted_examples())
    tasks = (("a", "first"), ("b", "whole"), ("c", "first"))
    parts = {"held_back": held_back, "trained": trained}
    shown: Any = types.SimpleNamespace(shape=SHAPE, mesh=None)
    return Validation(shown, PProbeConfig(**fields), norm, tasks, CLASSES, trained, parts, 400)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_loss_is_that_of_the_objective_with_the_statistics_of_the_texts_trained_on(norm):
    probe = init_probe(SHAPE, PProbeConfig(), CLASSES, jax.random.key(0))
    params = with_probe(reference.parameters(SHAPE), probe)
    one = validation(norm)
    loss = one.measure(params)["loss"]
    objective = probe_objective(SHAPE, CLASSES, norm)
    for name, examples in one.parts.items():
        expected = total_loss(*objective(params, vars(examples))) / len(CLASSES)
        if norm == "layer" or name == "trained":
            np.testing.assert_allclose(loss[name], expected, rtol=1e-5)
        else:
            assert abs(loss[name] - float(expected)) > 1e-5


def test_a_task_without_readings_is_left_out_of_the_mean():
    probe = init_probe(SHAPE, PProbeConfig(), CLASSES, jax.random.key(0))
    params = with_probe(reference.parameters(SHAPE), probe)
    one = validation("layer")
    some = one.trained.active & np.array([True, False, True])
    examples = dataclasses.replace(one.trained, active=some)
    part = dataclasses.replace(one, parts={"trained": examples})
    totals, counts = probe_objective(SHAPE, CLASSES, "layer")(params, vars(examples))
    expected = np.asarray(totals)[[0, 2]] / np.asarray(counts)[[0, 2]]
    measured = part.measure(params)
    np.testing.assert_allclose(measured["loss"]["trained"], expected.mean(), rtol=1e-5)
    hits, _ = probe_scores(SHAPE, params, CLASSES, "layer", one.trained, examples)
    shares = [hits[t][examples.active[:, :, t]].mean() for t in (0, 2)]
    np.testing.assert_allclose(measured["first"]["trained"], np.mean(shares), rtol=1e-6)


@pytest.mark.parametrize(
    ("steps", "steps_per_call", "expected"),
    [(60, 5, [30, 45]), (50, 5, [25, 40]), (30_000, 10, [15_000, 22_500]), (5, 5, []), (8, 5, [5])],
)
def test_it_is_measured_after_half_and_three_quarters_of_the_steps(steps, steps_per_call, expected):
    calls = {"steps_per_call": steps_per_call, "checkpoint_every": 5 * steps_per_call}
    assert validation("layer", steps=steps, **calls).measured_at == expected


COURSE = {
    "people": 25,
    "steps": [0, 30, 45, 60],
    "loss": {"held_back": [4.0, 3.0, 2.0, 1.5], "trained": [4.0, 2.0, 1.0, 0.123]},
    "first": {"held_back": [0.1, 0.2, 0.3, 0.421], "trained": [0.1, 0.4, 0.8, 0.987]},
    "still_improving": True,
}


def group(result: dict) -> Measured:
    return Measured(0, "single", "one text", (0,), (result,))


def test_the_table_has_losses_shares_and_verdict_and_titles_are_marked():
    improving = group({"training": COURSE})
    done = group({"training": {**COURSE, "still_improving": False}})
    (shown,) = table("Q-probing", [improving, done])
    text = str(shown.html)
    for part in ("60", "4.000", "2.000", "1.500", "0.123", "42.1", "98.7", "no longer improving"):
        assert f">{part}<" in text
    labels = [each.label for each in marked([improving, done, group({})])]
    assert labels == ["single, still improving", "single", "single"]
    assert text.count(">still improving<") == 1
    assert str(table("Q-probing", [group({})])[0].html) == ""


@pytest.mark.parametrize(("head", "tokens"), [("linear", "all"), ("unembedding", "shared")])
def test_one_program_scores_a_probe_before_during_and_after_its_training(
    finished, tmp_path, head, tokens
):
    runner = finished_runner(finished, 1)
    config = runner.graph.experiment.readouts.q_probe
    config = dataclasses.replace(config, head=head, embedding_update=tokens)
    _score_batch.clear_cache()
    before = len(PROGRAMS)
    result = QProbe().run(runner.context, config, tmp_path)
    assert len(result["training"]["steps"]) > 2
    assert sum("_score_batch" in name for name in PROGRAMS[before:]) == 1
