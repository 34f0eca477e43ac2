"""The work of a stage is known before it runs: the tokens that it trains on and reads."""

import dataclasses

import pytest

from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Stage
from kstore_jax.readouts.base import Context
from kstore_jax.sweep import estimates
from tests.pipeline.runners import finished_runner, planned_training, with_sections
from tests.world.bundled import ATTRIBUTES


@pytest.fixture
def runner(finished) -> Runner:
    """The finished row with several texts a person."""
    return finished_runner(finished, 1)


@pytest.fixture
def context(runner) -> Context:
    return runner.context


def trained(monkeypatch, runner: Runner, stage: Stage) -> int:
    """The tokens that the training of a stage counts."""

    folder = runner.graph.cache.folder(stage)
    task, training = planned_training(monkeypatch, runner, stage, folder)
    return task.step_tokens * training.steps


def test_estimated_tokens_are_the_tokens_that_stages_train_and_read(runner, context, monkeypatch):
    tokens = estimates.stage_tokens(runner.graph)
    (tuned,) = runner.graph.finetune.values()
    assert tokens[runner.graph.pretrain.folder] == 24 * 4 * 32
    assert tokens[tuned.folder] == trained(monkeypatch, runner, tuned)
    ((_, recalled),) = context.recall_examples(context.corpus.texts)
    assert tokens[runner.graph.readouts["recall"].folder] == pytest.approx(recalled.tokens.size / 3)
    question, wordings = (
        context.questions()[1].tokens.shape[1],
        runner.graph.data.language.questions.shape[1],
    )
    assert tokens[runner.graph.readouts["qa"].folder] == pytest.approx(
        20 * len(ATTRIBUTES) * wordings * question / 3
    )
    for stage, texts, batch in (
        (runner.graph.readouts["p_probe"], 20 * 2 / 2, 6),
        (runner.graph.readouts["q_probe"], 20, 8),
    ):
        steps = trained(monkeypatch, runner, stage)
        assert tokens[stage.folder] == pytest.approx(steps * (1 + texts / (3 * 24 * batch)))


def test_work_grows_with_the_people_though_few_are_drawn(runner):
    world = dataclasses.replace(runner.graph.experiment.world, people=20_000)
    many = with_sections(runner, runner.graph.cache, world=world)
    of_few, of_many = (estimates.stage_tokens(r.graph) for r in (runner, many))
    for name in ("qa", "recall"):
        before, after = (r.graph.readouts[name].folder for r in (runner, many))
        assert of_many[after] == pytest.approx(1000 * of_few[before], rel=0.2)
    (before,), (after,) = runner.graph.finetune.values(), many.graph.finetune.values()
    assert of_many[after.folder] == pytest.approx(of_few[before.folder], rel=0.2)
