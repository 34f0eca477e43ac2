"""Finetuning on tasks: a fraction of P_train, a start from another finetuning, hints."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from kstore_jax.config.rows import product
from kstore_jax.errors import UserError
from kstore_jax.pipeline.evaluation import format_evaluation
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.finetune import finetune, left_out_people
from kstore_jax.pipeline.results import result_row
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts import qa
from kstore_jax.readouts.measured import Measured
from kstore_jax.tasks.base import TASKS
from kstore_jax.tasks.classification import ClassificationConfig
from kstore_jax.world.people import in_train_half
from tests.pipeline.runners import finished_runner, with_sections


@pytest.fixture(scope="module")
def cache(finished, tmp_path_factory) -> Cache:
    """A copy of the stages of the finished sweep, to write to."""
    folder = tmp_path_factory.mktemp("own") / "stages"
    shutil.copytree(finished / "stages", folder)
    return Cache(folder)


@pytest.fixture(scope="module")
def runner(finished) -> Runner:
    return finished_runner(finished, 1)


def tuned(runner: Runner, cache: Cache, **fields) -> Runner:
    finetuning = dataclasses.replace(runner.graph.experiment.finetune, **fields)
    return with_sections(runner, cache, finetune=finetuning)


def classifying(runner: Runner, cache: Cache, *questions: str, hints: bool) -> Runner:
    """A runner that trains and asks some questions of classification; probes are left out."""
    e = runner.graph.experiment
    asked = dataclasses.replace(e.readouts.qa, tasks=("classification",))
    readouts = {
        name: dataclasses.replace(getattr(e.readouts, name), enabled=False)
        for name in ("p_probe", "q_probe", "examples")
    }
    config = ClassificationConfig(questions=questions, hints=hints)
    return with_sections(
        runner,
        cache,
        finetune=dataclasses.replace(e.finetune, tasks=("classification",)),
        tasks=dataclasses.replace(e.tasks, classification=config),
        readouts=dataclasses.replace(e.readouts, qa=asked, **readouts),
    )


def test_a_fraction_of_p_train_is_trained_and_the_others_are_held_back(runner, cache):
    some = tuned(runner, cache, people_fraction=0.4)
    (stage,) = some.graph.finetune.values()
    assert some.ensure(stage)["questions"] == 4 * 6
    some.ensure(some.graph.readouts["qa"])
    with np.load(cache.folder(some.graph.readouts["qa"]) / "cases.npz") as cases:
        people = cases["extraction.person"][:, 0]
        members = {
            half: {*people[cases[f"extraction.{half}"]].tolist()}
            for half in ("train", "test", "held_back")
        }
    assert [len(own) for own in members.values()] == [4, 10, 6]
    context = some.context
    assert members["test"] == {*np.flatnonzero(~context.in_train).tolist()}
    left_out = left_out_people(context.in_train, context.everyone.ids, 0.4, context.world_seed)
    assert members["held_back"] == {*np.flatnonzero(left_out).tolist()}


def test_people_without_a_question_are_one_line(runner, tmp_path):
    training, nobody = runner.graph.experiment.finetune, np.zeros(20, bool)
    context = dataclasses.replace(runner.context, qa_train_mask=nobody)
    with pytest.raises(UserError, match=r"^finetune\.people_fraction: .* got 1\.0 of 0 people$"):
        finetune(context, training, nobody, tmp_path)


def test_more_people_are_more_than_the_same_people():
    halves, before = in_train_half(3, np.arange(100)), np.zeros(100, bool)
    for fraction, count in ((0.001, 1), (0.1, 5), (0.5, 25), (1.0, 50)):
        trained = halves & ~left_out_people(halves, np.arange(100), fraction, 3)
        assert trained.sum() == count
        assert (trained >= before).all()
        before = trained


def test_finetuning_starts_from_the_model_of_another_one(runner, cache):
    rate = runner.graph.experiment.finetune.learning_rate
    again = tuned(
        runner, cache, learning_rate=1e-9, people_fraction=0.4, first=product(learning_rate=[rate])
    )
    (questions,) = runner.graph.finetune.values()
    first, (second,) = again.graph.first, again.graph.finetune.values()
    assert first is not None
    assert (first.folder, second.parents) == (questions.folder, (first,))
    again.ensure(second)
    model, theirs = again.context.finetuned, runner.context.finetuned
    np.testing.assert_allclose(model["embedding"], theirs["embedding"], atol=1e-6)
    np.testing.assert_allclose(model["unembedding"], theirs["unembedding"], atol=1e-6)
    pretrained = again.context.pretrained["embedding"]
    assert np.abs(np.asarray(model["embedding"] - pretrained)).max() > 1e-4


def test_the_head_learns_the_tokens_that_no_biography_has(runner, cache):
    asking = classifying(runner, cache, "even_month", hints=False)
    asking = tuned(asking, cache, embedding_side="new", steps=4, checkpoint_every=4)
    (stage,) = asking.graph.finetune.values()
    asking.ensure(stage)
    context = asking.context
    new = set(np.flatnonzero(context.new_tokens()).tolist())
    read = context.vocabulary.encode(context.corpus.texts.tokens)
    assert not new & {*read.tolist()}
    tokenizer = context.table.tokenizer
    answers = context.vocabulary.encode(np.array([*tokenizer.encode([" Yes", " No"])]).ravel())
    assert new >= {*answers.tolist()}
    head, before = (
        np.asarray(x) for x in (context.finetuned["unembedding"], context.pretrained["embedding"])
    )
    changed = {*np.flatnonzero((head != before).any(1)).tolist()}
    assert {*answers.tolist()} <= changed <= new


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"people_fraction": 0.0}, r"people_fraction: expected more than 0, got 0\.0"),
        ({"first": product(rank=[1, 2])}, r"first: expected one row .* got 2"),
        ({"first": product(steps=[0])}, r"first: expected one row with steps"),
        ({"first": product(tasks=[("extracton",)])}, r"first\.tasks: no task 'extracton'"),
        ({"first": product(rnk=[1])}, r"first\.rnk: no such field"),
        ({"first": product(rank=[900])}, r"first\.rank: expected at most model\.width"),
        ({"grid": product(people_fraction=[0.1])}, r"grid: expected rows without people_fraction"),
    ],
)
def test_finetunings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(UserError, match=rf"^finetune\.{message}"):
        parse({"finetune": fields})


def test_rows_that_ask_other_questions_of_a_task_share_a_pretrained_model(runner, cache):
    asked = [("even_month",), ("luck",), ()]
    graphs = [
        classifying(runner, cache, *questions, hints=hints).graph
        for questions in asked
        for hints in (False, True)
    ]
    assert len({graph.pretrain.folder for graph in graphs}) == 1
    assert len({stage.folder for graph in graphs for stage in graph.finetune.values()}) == 6
    assert graphs[0].pretrain.folder != runner.graph.pretrain.folder


@pytest.fixture(scope="module")
def hinted(runner, cache) -> Runner:
    """A finished run with and without hints."""
    own = classifying(runner, cache, "even_month", "luck", hints=True)
    own.run()
    return own


def test_right_hints_and_answers_after_hints_are_counted(hinted, monkeypatch):
    """Of three answers in turn: all is right; the hint is wrong; the answer is wrong."""
    context, generate = hinted.context, []
    end = context.vocabulary.end_of_text

    def fake(context, params, examples, beam_size):
        tokens = np.where(examples.weights[:, 0] > 0, examples.targets[:, 0], end)
        ends = (tokens == end).argmax(axis=1)
        tokens[1::3, 0] += 1
        thirds = np.arange(2, len(tokens), 3)
        tokens[thirds, ends[thirds] - 1] += 1
        generate.append(len(tokens))
        return tokens

    monkeypatch.setattr(qa, "generate_answers", fake)
    scores, both = qa.evaluate_task(context, context.finetuned, "classification", 1)
    first = both["wording"] == 0
    cases = {name: column[first] for name, column in both.items() if name != "names"}
    cases["names"] = both["names"]
    names = ["even_month", "luck", "even_month_with_hint", "luck_with_hint"]
    assert cases["names"].tolist() == names
    assert generate == [40, 40]  # the answers with a hint, of 20 people, in each wording
    hints = np.flatnonzero(cases["hinted"])
    assert set(cases["group"][hints]) == {2, 3}
    right = np.arange(40) % 3
    assert cases["hint"][hints].tolist() == (right != 1).tolist()
    assert cases["exact"][hints].tolist() == (right != 2).tolist()
    assert not cases["hint"][~cases["hinted"]].any()
    assert list(scores["test"]["hint"]) == ["mean", *names[2:]]
    held_out = cases["test"] & (cases["group"] == 3)
    assert scores["test"]["hint"]["luck_with_hint"] == cases["hint"][held_out].mean()
    assert scores["test"]["exact"]["luck_with_hint"] == cases["exact"][held_out].mean()


def test_a_wording_that_is_not_trained_has_scores_intervals_and_a_table(hinted):
    graph, context = hinted.graph, hinted.context
    scores = graph.cache.require(graph.readouts["qa"])["classification"]
    with np.load(cases_of(hinted)) as cases:
        columns = {name.partition(".")[2]: column for name, column in cases.items()}
    for half, (shares,) in scores["wordings"].items():
        own = columns[half] & (columns["wording"] == 1)
        assert list(shares) == list(scores[half]["exact"])
        assert own.sum() == 4 * 10
        luck = own & (columns["group"] == 1)
        assert shares["luck"] == columns["exact"][luck].mean()
    metric = "qa.classification.wordings.test"
    lines = [line for line in result_row(graph).lines() if line["metric"] == metric]
    assert {line["attribute"] for line in lines} == set(scores["wordings"]["test"][0])
    assert {(line["position"], line["n"]) for line in lines if line["attribute"] == "luck"} == {
        (1, 10)
    }
    _, trained = context.questions(graph.trained_tasks)
    text = context.vocabulary.decode(trained.tokens.ravel())
    assert "an even one? Answer:" in text
    assert "in an even month?" not in text
    tables = qa.QA().tables([Measured(0, "single", "", (0,), ({"classification": scores},))])
    (table,) = [t for t in tables if t.title.startswith("Questions in wordings never trained")]
    (body,) = table.bodies
    assert [line.name for line in body.lines] == ["the trained wording", "never trained"]


def test_held_out_wordings_are_in_the_key_of_the_answers_alone(runner, cache, monkeypatch):
    before = classifying(runner, cache, hints=False).graph
    monkeypatch.setattr(TASKS["classification"], "rewordings_version", 2)
    after = classifying(runner, cache, hints=False).graph
    assert after.readouts["qa"].folder != before.readouts["qa"].folder
    assert [stage.folder for stage in after.trainings] == [
        stage.folder for stage in before.trainings
    ]


def test_shares_of_hints_have_intervals_and_cases(hinted):
    row = result_row(hinted.graph)
    lines = {(line["metric"], line["attribute"]): line for line in row.lines()}
    line = lines["qa.classification.test.hint", "luck_with_hint"]
    assert line["low"] <= line["value"] <= line["high"]
    assert line["n"] == 10
    assert ("qa.classification.test.hint", "luck") not in lines
    with np.load(cases_of(hinted)) as cases:
        columns = {name.partition(".")[2]: column for name, column in cases.items()}
    own = [m for m in qa.task_measurements("classification", columns) if m.metric.endswith("hint")]
    assert {m.attribute for m in own} == {"even_month_with_hint", "luck_with_hint"}
    assert {len(m.right) for m in own} == {10}


def test_the_terminal_prints_the_share_of_right_hints(hinted):
    scores = hinted.graph.cache.require(hinted.graph.readouts["qa"])["classification"]
    evaluation = {"dataset": "single", "seed": 0, "direction": "causal", "beam": 1, "shown": []}
    text = format_evaluation({**evaluation, "scores": {"classification": scores}})
    (line,) = [line for line in text.splitlines() if "hint right" in line][:1]
    shares = [scores["test"]["hint"].get(name) for name in scores["test"]["exact"]]
    assert line.split()[2:] == ["–" if x is None else f"{100 * x:.1f}" for x in shares]
    assert shares.count(None) == 2


def cases_of(runner: Runner) -> pathlib.Path:
    return runner.graph.cache.folder(runner.graph.readouts["qa"]) / "cases.npz"
