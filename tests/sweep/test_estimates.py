"""The work of a stage is known before it runs: the tokens that it trains on and reads."""

import dataclasses
import json

import pytest

from kstore_jax.pipeline import finetune
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache, Stage
from kstore_jax.readouts import probe_training
from kstore_jax.readouts.base import Context
from kstore_jax.sweep import estimates
from kstore_jax.world.people import ATTRIBUTES


@pytest.fixture
def runner(finished) -> Runner:
    """The finished row with several texts a person."""
    row = json.loads((finished / "config.json").read_text())["rows"][1]
    return Runner(ExperimentGraph(parse(row), Cache(finished / "stages")))


def changed_from(runner: Runner, cache: Cache, **sections) -> Runner:
    """The same experiment with other sections, over a cache."""
    experiment = dataclasses.replace(runner.graph.experiment, **sections)
    return Runner(ExperimentGraph(experiment, cache))


@pytest.fixture
def context(runner) -> Context:
    return runner.context


class Tokens(Exception):
    pass


def trained(monkeypatch, runner: Runner, stage: Stage) -> int:
    """The tokens that the training of a stage counts."""

    def fit(task, training, *_):
        raise Tokens(task.step_tokens * training.steps)

    for module in (finetune, probe_training):
        monkeypatch.setattr(module, "fit", fit)
    with pytest.raises(Tokens) as raised:
        runner.compute(stage, runner.graph.cache.folder(stage))
    return raised.value.args[0]


def test_estimated_tokens_are_the_tokens_that_stages_train_and_read(runner, context, monkeypatch):
    tokens = estimates.stage_tokens(runner.graph)
    (tuned,) = runner.graph.finetune.values()
    assert tokens[runner.graph.pretrain.folder] == 24 * 4 * 32
    assert tokens[tuned.folder] == trained(monkeypatch, runner, tuned)
    ((_, recalled),) = context.recall_examples(context.corpus.texts)
    assert tokens[runner.graph.recall.folder] == pytest.approx(recalled.tokens.size / 3)
    question, wordings = (
        context.questions().tokens.shape[1],
        runner.graph.data.language.questions.shape[1],
    )
    assert tokens[runner.graph.qa.folder] == pytest.approx(
        20 * len(ATTRIBUTES) * wordings * question / 3
    )
    for stage, texts, batch in (
        (runner.graph.p_probe, 20 * 2 / 2, 6),
        (runner.graph.q_probe, 20, 8),
    ):
        steps = trained(monkeypatch, runner, stage)
        assert tokens[stage.folder] == pytest.approx(steps * (1 + texts / (3 * 24 * batch)))


def test_work_grows_with_the_people_though_few_are_drawn(runner):
    world = dataclasses.replace(runner.graph.experiment.world, people=20_000)
    many = changed_from(runner, runner.graph.cache, world=world)
    of_few, of_many = (estimates.stage_tokens(r.graph) for r in (runner, many))
    for name in ("qa", "recall"):
        before, after = (getattr(r.graph, name).folder for r in (runner, many))
        assert of_many[after] == pytest.approx(1000 * of_few[before], rel=0.2)
    (before,), (after,) = runner.graph.finetune.values(), many.graph.finetune.values()
    assert of_many[after.folder] == pytest.approx(of_few[before.folder], rel=0.2)
