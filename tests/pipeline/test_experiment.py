"""An experiment trains on half of the people, asks the other half, and says what it found."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from kstore_jax.config.rows import product
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.pipeline import finetune, run
from kstore_jax.pipeline.context import best_finetuning
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache, NotFinished
from kstore_jax.readouts import probe_training, spans
from kstore_jax.readouts.base import Context
from kstore_jax.readouts.dynamics import dynamics
from kstore_jax.readouts.qa import evaluate_questions
from kstore_jax.train.telemetry import METRICS, read_metrics
from kstore_jax.world.people import ATTRIBUTES
from tests.train.training import same_bits

STAGES = ("shards", "pretrain", "recall", "finetune", "qa", "p_probe", "q_probe")


@pytest.fixture(scope="module", params=[0, 1], ids=["single", "multi2+permute"])
def runner(request, finished) -> Runner:
    """A row of the finished sweep."""
    rows = json.loads((finished / "config.json").read_text())["rows"]
    return Runner(ExperimentGraph(parse(rows[request.param]), Cache(finished / "stages")))


@pytest.fixture
def context(runner) -> Context:
    return runner.context


def changed_from(runner: Runner, cache: Cache, **sections) -> Runner:
    """The same experiment with other sections, over a cache."""
    experiment = dataclasses.replace(runner.graph.experiment, **sections)
    return Runner(ExperimentGraph(experiment, cache))


class Caught(Exception):
    pass


@pytest.fixture
def trained_by(runner, monkeypatch, tmp_path):
    """`(stage) -> Task`: what that stage would train."""

    def stopped(task, *_):
        raise Caught(task)

    def task(name: str):
        for module in (finetune, probe_training):
            monkeypatch.setattr(module, "fit", stopped)
        monkeypatch.setattr(run, "fit_batched", lambda jobs, _: stopped(jobs[0].task))
        (stage,) = (stage for stage in runner.graph.stages if stage.kind == name)
        with pytest.raises(Caught) as caught:
            runner.compute(stage, tmp_path)
        return caught.value.args[0]

    return task


def names(runner: Runner, inside: bool) -> list[str]:
    """The full names of P_train or P_test."""
    pools, who = (
        runner.graph.data.language.pools,
        runner.graph.data.people.take(np.flatnonzero(runner.graph.data.in_train == inside)),
    )
    return [
        f"{pools.first_names[first]} {pools.middle_names[middle]} {pools.last_names[last]}"
        for first, middle, last in who.names
    ]


def steps_of(task, steps: int) -> np.ndarray:
    """(steps, batch, ...): the tokens of the first batches of a task."""
    return np.stack([task.make_batch(step, range(4))["tokens"] for step in range(steps)])


def test_every_stage_has_its_result(runner):
    assert tuple(stage.kind for stage in runner.graph.stages) == STAGES
    assert runner.graph.done
    assert sorted(runner.graph.data.in_train) == [False] * 10 + [True] * 10


@pytest.mark.parametrize("stage", ["finetune", "p_probe", "q_probe"])
def test_nobody_of_p_test_enters_a_batch_and_all_of_p_train_do(runner, context, trained_by, stage):
    tokens = steps_of(trained_by(stage), 50)
    rows = np.unique(tokens.reshape(-1, tokens.shape[-1]), axis=0)
    texts = [context.vocabulary.decode(row) for row in rows]
    assert not any(name in text for name in names(runner, False) for text in texts)
    assert all(any(name in text for text in texts) for name in names(runner, True))


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "q_probe"])
def test_the_next_row_trains_by_the_program_of_the_one_before(finished, tmp_path, stage):
    rows = json.loads((finished / "config.json").read_text())["rows"]
    for i, row in enumerate(rows):
        runner = Runner(ExperimentGraph(parse(row), Cache(finished / "stages")))
        (of_row,) = (one for one in runner.graph.stages if one.kind == stage)
        (tmp_path / str(i)).mkdir()
        runner.compute(of_row, tmp_path / str(i))
    assert read_metrics(tmp_path / "1" / METRICS)[-1]["spent"]["compile"] == 0.0


def test_everybody_is_read_about_in_pretraining(runner, context, trained_by):
    tokens = steps_of(trained_by("pretrain"), 200)
    text = " ".join(context.vocabulary.decode(row) for row in tokens.reshape(-1, tokens.shape[-1]))
    everybody = names(runner, True) + names(runner, False)
    assert sum(name in text for name in everybody) == 20


def test_a_batch_is_a_function_of_its_step(trained_by):
    for stage in ("pretrain", "finetune", "p_probe", "q_probe"):
        make = trained_by(stage).make_batch
        whole = make(3, range(4))
        for k in range(4):
            alone = make(3, range(k, k + 1))
            assert all(np.array_equal(whole[name][k], alone[name][0]) for name in whole)


def test_questions_are_asked_and_answered_to_the_end(runner, context):
    examples = context.questions()
    assert len(examples) == 20 * 6
    assert examples.positions.shape[1] == 1
    pools = runner.graph.data.language.pools
    for row in range(len(examples)):
        person, a = divmod(row, 6)
        kept = examples.weights[row, 0] > 0
        answer = context.vocabulary.decode(examples.targets[row, 0][kept])
        value = pools.values[ATTRIBUTES[a]][runner.graph.data.people.values[person, a]]
        assert answer == f" {value}<|endoftext|>"
        before = context.vocabulary.decode(
            examples.tokens[row, : examples.positions[row, 0, 0] + 1]
        )
        assert before.endswith("? Answer:")
        assert value not in before


def test_what_is_trained_and_what_is_frozen(context, trained_by):
    for stage, trainable in (
        ("finetune", {"block_0/query", "block_0/value", "embedding"}),
        ("p_probe", {"embedding", "head"}),
        ("q_probe", {"embedding"}),
    ):
        task = trained_by(stage)
        assert set(task.trainable) == trainable
        network = {name: task.frozen[name] for name in context.pretrained}
        assert same_bits(network, context.pretrained)
    assert set(task.frozen) == {*context.pretrained, "head", "updated"}


def test_shared_tokens_are_those_of_templates_and_not_of_names(runner, context, trained_by):
    updated = np.asarray(trained_by("q_probe").frozen["updated"])
    assert set(updated) == {0.0, 1.0}
    assert updated[context.vocabulary.end_of_text] == 1
    assert 0 < updated.sum() < context.vocabulary.size
    colons = context.questions().tokens[np.arange(120), context.questions().positions[:, 0, 0]]
    assert (updated[colons] == 1).all()  # of `? Answer:`
    shared = [name for name in names(runner, True) if updated[tokens_of(runner, name)].all()]
    assert shared == []


def tokens_of(runner: Runner, text: str) -> np.ndarray:
    return runner.context.vocabulary.encode(np.array(gpt2().encode([f" {text}"])[0]))


def test_qa_is_scored_by_half_and_attribute(runner, context, monkeypatch, tmp_path):
    draw = np.random.default_rng(0)
    answered = draw.random((5, 2, 20, 6)) < 0.5  # wordings
    whole, first = answered[0]
    calls = []

    def scored(shape, params, examples):
        calls.append(context.vocabulary.decode(examples.tokens[1]))
        return tuple(right.reshape(-1, 1) for right in answered[len(calls) - 1])

    monkeypatch.setattr(spans, "span_hits", scored)
    found, in_train = runner.compute(runner.graph.qa, tmp_path), runner.graph.data.in_train
    for right, kind in ((whole, "exact"), (first, "first")):
        for half, inside in (("train", in_train), ("test", ~in_train)):
            expected = {name: right[inside, a].mean() for a, name in enumerate(ATTRIBUTES)}
            expected["mean"] = right[inside].mean()
            assert found[half][kind] == pytest.approx(expected)
    assert len(set(calls)) == 5
    assert calls[0] == context.vocabulary.decode(context.questions().tokens[1])
    for half, inside in (("train", in_train), ("test", ~in_train)):
        for (right, _), reworded in zip(answered[1:], found["wordings"][half], strict=True):
            assert reworded["mean"] == pytest.approx(right[inside].mean())
            assert reworded["major"] == pytest.approx(right[inside, 3].mean())


def test_qa_reads_the_finetuned_model(runner, context, monkeypatch, tmp_path):
    given = []

    def scored(shape, params, examples):
        given.append(params)
        return np.zeros((120, 1), bool), np.zeros((120, 1), bool)

    monkeypatch.setattr(spans, "span_hits", scored)
    runner.compute(runner.graph.qa, tmp_path)
    block = given[0]["block_0"]
    for name, changed in (("query", True), ("value", True), ("key", False), ("out", False)):
        before = context.pretrained["block_0"][name]["kernel"]
        assert bool((block[name]["kernel"] != before).any()) == changed
    assert same_bits(given[0]["unembedding"], context.pretrained["embedding"])


def test_probes_report_each_position_once_and_none_where_nobody_is_asked(runner):
    found = runner.graph.cache.result(runner.graph.p_probe)
    assert all(len(found["first"][name]) == 6 for name in ATTRIBUTES)
    assert set(found["whole"]) == set(ATTRIBUTES[1:])
    assert found["first"]["birth_date"][0] is not None
    if (
        runner.graph.experiment.data.variant == "single"
    ):  # sentences in one order: the date comes first
        assert found["first"]["birth_date"][1:] == [None] * 5
        assert None not in found["whole"]["company_city"]
    names_only = runner.graph.cache.result(
        runner.graph.q_probe
    )  # with the model's own head: first tokens alone
    assert all(len(names_only["first"][name]) == 1 for name in ATTRIBUTES)
    assert names_only["whole"] == {}


def test_exposures_count_how_often_a_person_is_read_about(runner, context):
    training, rows = runner.graph.experiment.pretrain, context.corpus.texts
    tokens = len(rows.tokens) + len(rows)  # with the ends of text
    per_person = runner.graph.data.variant.biographies_per_person
    expected = training.steps * training.batch_size * training.seq_len / tokens * per_person
    assert runner.graph.cache.result(runner.graph.pretrain)["exposures"] == pytest.approx(expected)


def made_of(runner: Runner, cache, **finetune) -> Runner:
    """The same experiment, finetuned in another way; what it shares is computed already."""
    changed = dataclasses.replace(runner.graph.experiment.finetune, steps=4, **finetune)
    return changed_from(runner, cache, finetune=changed)


@pytest.fixture(scope="module")
def own_cache(finished, tmp_path_factory):
    """A copy of the stages that may be written to."""
    folder = tmp_path_factory.mktemp("own") / "stages"
    shutil.copytree(finished / "stages", folder)
    return Cache(folder)


def test_without_finetuning_the_pretrained_model_is_asked(runner, context, own_cache):
    finetuning = dataclasses.replace(runner.graph.experiment.finetune, steps=0)
    alone = changed_from(runner, own_cache, finetune=finetuning)
    assert "finetune" not in [stage.kind for stage in alone.graph.stages]
    assert same_bits(alone.context.finetuned, context.pretrained)
    assert alone.ensure(alone.graph.qa)["test"]["exact"].keys() == {"mean", *ATTRIBUTES}


def test_full_finetuning_changes_every_weight(runner, context, own_cache):
    full = made_of(runner, own_cache, method="full")
    with pytest.raises(NotFinished, match=r"stage finetune is not finished; `kstore sweep`"):
        _ = full.context.finetuned
    full.ensure(full.graph.qa)
    changed = jax.tree.map(
        lambda a, b: bool((a != b).any()), full.context.finetuned, context.pretrained
    )
    unchanged = [path for path, did in jax.tree_util.tree_leaves_with_path(changed) if not did]
    # what is added to every key changes no attention, so that its gradient is rounding or zero
    assert all("key" in str(path) and "bias" in str(path) for path in unchanged)


def test_of_a_grid_the_row_that_answers_most_about_the_held_back_is_asked(runner, own_cache):
    grid = product(learning_rate=[1e-9, 3e-3], weight_decay=[0.1])
    several = made_of(runner, own_cache, grid=grid, validation=0.3)
    assert [stage.kind for stage in several.graph.stages].count("finetune") == 2
    found = several.ensure(several.graph.qa)
    rates = [row["learning_rate"] for row in found["grid"]]
    assert rates == [1e-9, 3e-3]
    best = max(found["grid"], key=lambda row: row["validation"])
    assert [row for row in found["grid"] if row["chosen"]] == [best]
    assert best_finetuning(several.graph).learning_rate == best["learning_rate"]
    for row, stage in several.graph.finetune.items():
        assert row.grid == ()
        assert several.ensure(stage)["questions"] == 7 * 6  # 3 of 10 people are held back


def test_people_held_back_are_of_p_train_and_enter_no_batch(
    runner, context, own_cache, monkeypatch, tmp_path
):
    def stopped(task, *_):
        raise Caught(task)

    monkeypatch.setattr(finetune, "fit", stopped)
    several = made_of(runner, own_cache, grid=product(rank=[1, 2]), validation=0.3)
    read = []
    for stage in several.graph.finetune.values():
        with pytest.raises(Caught) as caught:
            several.compute(stage, tmp_path)
        texts = [
            context.vocabulary.decode(row)
            for row in steps_of(caught.value.args[0], 99).reshape(
                -1, context.questions().tokens.shape[1]
            )
        ]
        read.append({name for name in names(runner, True) if any(name in text for text in texts)})
        assert not any(name in text for name in names(runner, False) for text in texts)
    assert len(read[0]) == 7
    assert read[0] == read[1]


def test_dynamics_of_the_finished_model_are_its_recall_and_answers(runner, context):
    """Over everybody, they are what the stages after pretraining found."""
    shares = jax.device_get(dynamics(context, 99)(context.pretrained))
    assert shares.keys() == {
        "bio_train_first", "bio_test_first",
        "qa_train_first", "qa_train_exact", "qa_test_first", "qa_test_exact",
    }  # fmt: skip
    answered = evaluate_questions(context, context.pretrained, 2)
    for half in ("train", "test"):
        for kind in ("exact", "first"):
            expected = answered[half][kind]["mean"]
            assert float(shares[f"qa_{half}_{kind}"]) == pytest.approx(expected, abs=1e-6)
    if runner.graph.data.variant.biographies_per_person == 1:
        recall = runner.graph.cache.result(runner.graph.recall)["first"]["mean"]
        both = (shares["bio_train_first"] + shares["bio_test_first"]) / 2
        assert float(both) == pytest.approx(recall, abs=1e-6)


def test_dynamics_are_in_the_metrics_of_pretraining(runner, own_cache):
    training = dataclasses.replace(
        runner.graph.experiment.pretrain, steps=4, warmup_steps=1, evaluate_every=2
    )
    watched = changed_from(runner, own_cache, pretrain=training)
    watched.ensure(watched.graph.pretrain)
    lines = read_metrics(own_cache.folder(watched.graph.pretrain) / METRICS)
    assert [line["step"] for line in lines if "evaluation" in line] == [2, 4]
    expected = jax.device_get(dynamics(watched.context, 200)(watched.context.pretrained))
    assert lines[-1]["evaluation"] == pytest.approx(jax.tree.map(float, expected))


def test_p_probing_of_couples_tells_what_was_stated_before(runner, own_cache):
    data = dataclasses.replace(runner.graph.experiment.data, variant="couple2")
    couples = changed_from(runner, own_cache, data=data)
    found = couples.ensure(couples.graph.p_probe)
    held_out = int((~couples.graph.data.in_train).sum()) * 2  # entries each
    for kind in ("first", "whole"):
        for name, cells in found["by_stated"][kind].items():
            a = ATTRIBUTES.index(name)
            other = ATTRIBUTES[a ^ 1]
            told = [tuple(cell["stated"]) for cell in cells]
            assert len(set(told)) == len(told)
            for cell in cells:
                assert name not in cell["stated"]
                stated = [ATTRIBUTES.index(x) for x in cell["stated"]]
                assert all(x - 1 in stated for x in stated if x % 2)  # pairs stand in their order
                assert sum(x % 2 == 0 and x + 1 not in stated for x in stated) <= 1  # and together
            positions = found[kind][name]
            asked = sum(cell["readings"] for cell in cells)
            right = sum(cell["readings"] * cell["right"] for cell in cells)
            assert asked >= held_out * (1 + a % 2)
            assert 0 <= right <= asked
            assert len(positions) == 6
            if a % 2:  # with and without the first of its pair
                assert {other in stated for stated in told} == {True, False}
    assert "by_stated" not in runner.graph.cache.result(runner.graph.p_probe)
