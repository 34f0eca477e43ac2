"""The work of a stage is told before it is done: in the tokens that it trains and reads."""

import dataclasses
import json

import pytest

from kstore_jax.pipeline import answering
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.lab import Lab
from kstore_jax.pipeline.stages import Cache, Stage
from kstore_jax.readouts import probing
from kstore_jax.sweep import estimates
from kstore_jax.world.people import ATTRIBUTES

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def lab(finished) -> Lab:
    """The row of several texts a person, done."""
    row = json.loads((finished / "config.json").read_text())["rows"][1]
    return Lab(parse(row), Cache(finished / "stages"))


class Told(Exception):
    pass


def trained(monkeypatch, lab: Lab, stage: Stage) -> int:
    """The tokens that a stage itself says it trains."""

    def fit(task, training, *_):
        raise Told(task.step_tokens * training.steps)

    for module in (answering, probing):
        monkeypatch.setattr(module, "fit", fit)
    with pytest.raises(Told) as told:
        stage.compute(lab.cache.folder(stage))
    return told.value.args[0]


def test_tokens_are_those_that_the_stages_train_and_read(lab, monkeypatch):
    found = estimates.tokens(lab)
    (tuned,) = lab.finetune.values()
    assert found[lab.pretrain.folder] == 24 * 4 * 32
    assert found[tuned.folder] == trained(monkeypatch, lab, tuned)
    ((_, recited),) = lab.recited(lab.corpus.rows)
    assert found[lab.recall.folder] == pytest.approx(recited.tokens.size / 3)
    question, wordings = lab.asked().tokens.shape[1], lab.materials.language.questions.shape[1]
    assert found[lab.qa.folder] == pytest.approx(20 * len(ATTRIBUTES) * wordings * question / 3)
    for stage, texts, batch in ((lab.p_probe, 20 * 2 / 2, 6), (lab.q_probe, 20, 8)):
        steps = trained(monkeypatch, lab, stage)
        assert found[stage.folder] == pytest.approx(steps * (1 + texts / (3 * 24 * batch)))


def test_work_grows_with_the_people_though_few_are_looked_at(lab):
    world = dataclasses.replace(lab.experiment.world, people=20_000)
    many = Lab(dataclasses.replace(lab.experiment, world=world), lab.cache)
    few, more = estimates.tokens(lab), estimates.tokens(many)
    for name in ("qa", "recall"):
        before, after = (getattr(of, name).folder for of in (lab, many))
        assert more[after] == pytest.approx(1000 * few[before], rel=0.2)
    (before,), (after,) = lab.finetune.values(), many.finetune.values()
    assert more[after.folder] == pytest.approx(few[before.folder], rel=0.2)
