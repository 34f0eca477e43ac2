"""An experiment trains on half of the people, asks the other half, and says what it found."""

import json

import numpy as np
import pytest

from kstore_jax.config import parse
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.lab import experiment
from kstore_jax.lab.experiment import Lab
from kstore_jax.lab.stages import Cache
from kstore_jax.readout import qa
from kstore_jax.world.people import ATTRIBUTES
from tests.train.training import same_bits

STAGES = ("shards", "pretrain", "recall", "finetune", "qa", "p_probe", "q_probe")


@pytest.fixture(scope="module", params=[0, 1], ids=["single", "multi2+permute"])
def lab(request, finished) -> Lab:
    """A row of the finished sweep."""
    rows = json.loads((finished / "config.json").read_text())["rows"]
    return Lab(parse(rows[request.param]), Cache(finished / "stages"))


class Caught(Exception):
    pass


@pytest.fixture
def trained_by(lab, monkeypatch, tmp_path):
    """`(stage) -> Task`: what that stage would train."""

    def stopped(task, training, folder, mesh):
        raise Caught(task)

    def task(name: str):
        monkeypatch.setattr(experiment, "fit", stopped)
        with pytest.raises(Caught) as caught:
            getattr(lab, name).compute(tmp_path)
        return caught.value.args[0]

    return task


def names(lab: Lab, inside: bool) -> list[str]:
    """The full names of P_train or P_test."""
    pools, who = (
        lab.materials.language.pools,
        lab.materials.people.rows(np.flatnonzero(lab.materials.in_train == inside)),
    )
    return [
        f"{pools.first_names[first]} {pools.middle_names[middle]} {pools.last_names[last]}"
        for first, middle, last in who.names
    ]


def steps_of(task, steps: int) -> np.ndarray:
    """(steps, batch, ...): the tokens of the first batches of a task."""
    return np.stack([task.make_batch(step, range(4))["tokens"] for step in range(steps)])


def test_every_stage_has_its_result(lab):
    assert tuple(stage.name for stage in lab.stages) == STAGES
    assert lab.done
    assert sorted(lab.materials.in_train) == [False] * 10 + [True] * 10


@pytest.mark.parametrize("stage", ["finetune", "p_probe", "q_probe"])
def test_nobody_of_p_test_enters_a_batch_and_all_of_p_train_do(lab, trained_by, stage):
    tokens = steps_of(trained_by(stage), 50)
    rows = np.unique(tokens.reshape(-1, tokens.shape[-1]), axis=0)
    texts = [lab.vocabulary.decode(row) for row in rows]
    assert not any(name in text for name in names(lab, False) for text in texts)
    assert all(any(name in text for text in texts) for name in names(lab, True))


def test_everybody_is_read_about_in_pretraining(lab, trained_by):
    tokens = steps_of(trained_by("pretrain"), 200)
    text = " ".join(lab.vocabulary.decode(row) for row in tokens.reshape(-1, tokens.shape[-1]))
    everybody = names(lab, True) + names(lab, False)
    assert sum(name in text for name in everybody) == 20


def test_a_batch_is_a_function_of_its_step(trained_by):
    for stage in ("pretrain", "finetune", "p_probe", "q_probe"):
        make = trained_by(stage).make_batch
        whole = make(3, range(4))
        for k in range(4):
            alone = make(3, range(k, k + 1))
            assert all(np.array_equal(whole[name][k], alone[name][0]) for name in whole)


def test_questions_are_asked_and_answered_to_the_end(lab):
    examples = lab.questions
    assert len(examples) == 20 * 6
    assert examples.positions.shape[1] == 1
    pools = lab.materials.language.pools
    for row in range(len(examples)):
        person, a = divmod(row, 6)
        kept = examples.weights[row, 0] > 0
        answer = lab.vocabulary.decode(examples.targets[row, 0][kept])
        value = pools.values[ATTRIBUTES[a]][lab.materials.people.values[person, a]]
        assert answer == f" {value}<|endoftext|>"
        before = lab.vocabulary.decode(examples.tokens[row, : examples.positions[row, 0, 0] + 1])
        assert before.endswith("? Answer:")
        assert value not in before


def test_what_is_trained_and_what_is_frozen(lab, trained_by):
    for stage, trainable in (
        ("finetune", {"block_0/query", "block_0/value", "embedding"}),
        ("p_probe", {"embedding", "head"}),
        ("q_probe", {"embedding"}),
    ):
        task = trained_by(stage)
        assert set(task.trainable) == trainable
        network = {name: task.frozen[name] for name in lab.pretrained}
        assert same_bits(network, lab.pretrained)
    assert set(task.frozen) == {*lab.pretrained, "head", "updated"}


def test_shared_tokens_are_those_of_templates_and_not_of_names(lab, trained_by):
    updated = np.asarray(trained_by("q_probe").frozen["updated"])
    assert set(updated) == {0.0, 1.0}
    assert updated[lab.vocabulary.end_of_text] == 1
    assert 0 < updated.sum() < lab.vocabulary.size
    colons = lab.questions.tokens[np.arange(120), lab.questions.positions[:, 0, 0]]
    assert (updated[colons] == 1).all()  # of `? Answer:`
    shared = [name for name in names(lab, True) if updated[tokens_of(lab, name)].all()]
    assert shared == []


def tokens_of(lab: Lab, text: str) -> np.ndarray:
    return lab.vocabulary.encode(np.array(gpt2().encode([f" {text}"])[0]))


def test_qa_is_scored_by_half_and_attribute(lab, monkeypatch, tmp_path):
    draw = np.random.default_rng(0)
    answered = draw.random((5, 2, 20, 6)) < 0.5  # wordings
    whole, first = answered[0]
    calls = []

    def scored(shape, params, examples):
        calls.append(lab.vocabulary.decode(examples.tokens[1]))
        return tuple(right.reshape(-1, 1) for right in answered[len(calls) - 1])

    monkeypatch.setattr(qa, "span_accuracy", scored)
    found, in_train = lab.qa.compute(tmp_path), lab.materials.in_train
    for right, kind in ((whole, "exact"), (first, "first")):
        for half, inside in (("train", in_train), ("test", ~in_train)):
            expected = {name: right[inside, a].mean() for a, name in enumerate(ATTRIBUTES)}
            expected["mean"] = right[inside].mean()
            assert found[half][kind] == pytest.approx(expected)
    assert len(set(calls)) == 5
    assert calls[0] == lab.vocabulary.decode(lab.questions.tokens[1])
    for half, inside in (("train", in_train), ("test", ~in_train)):
        for (right, _), reworded in zip(answered[1:], found["wordings"][half], strict=True):
            assert reworded["mean"] == pytest.approx(right[inside].mean())
            assert reworded["major"] == pytest.approx(right[inside, 3].mean())


def test_qa_reads_the_finetuned_model(lab, monkeypatch, tmp_path):
    given = []

    def scored(shape, params, examples):
        given.append(params)
        return np.zeros((120, 1), bool), np.zeros((120, 1), bool)

    monkeypatch.setattr(qa, "span_accuracy", scored)
    lab.qa.compute(tmp_path)
    block = given[0]["block_0"]
    for name, changed in (("query", True), ("value", True), ("key", False), ("out", False)):
        before = lab.pretrained["block_0"][name]["kernel"]
        assert bool((block[name]["kernel"] != before).any()) == changed
    assert same_bits(given[0]["unembedding"], lab.pretrained["embedding"])


def test_probes_report_each_position_once_and_none_where_nobody_is_asked(lab):
    found = lab.cache.result(lab.p_probe)
    assert all(len(found["first"][name]) == 6 for name in ATTRIBUTES)
    assert set(found["whole"]) == set(ATTRIBUTES[1:])
    assert found["first"]["birth_date"][0] is not None
    if lab.experiment.data.variant == "single":  # sentences in one order: the date comes first
        assert found["first"]["birth_date"][1:] == [None] * 5
        assert None not in found["whole"]["company_city"]
    names_only = lab.cache.result(lab.q_probe)  # with the model's own head: first tokens alone
    assert all(len(names_only["first"][name]) == 1 for name in ATTRIBUTES)
    assert names_only["whole"] == {}


def test_exposures_count_how_often_a_person_is_read_about(lab):
    training, rows = lab.experiment.pretrain, lab.corpus.rows
    tokens = len(rows.tokens) + len(rows)  # with the ends of text
    per_person = lab.materials.variant.entries
    expected = training.steps * training.batch * training.window / tokens * per_person
    assert lab.cache.result(lab.pretrain)["exposures"] == pytest.approx(expected)
