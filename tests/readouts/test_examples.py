"""The readout `examples`: one person held out, as text."""

import dataclasses

import numpy as np
import pytest

import kstore_jax
from kstore_jax.charts.markup import join
from kstore_jax.readouts import examples
from kstore_jax.readouts.base import READOUTS
from kstore_jax.readouts.measured import Measured
from kstore_jax.world.stated import facts_of
from tests.pipeline.runners import finished_runner
from tests.report.runs import text_of


@pytest.fixture(scope="module")
def runner(finished):
    return finished_runner(finished, 1)


@pytest.fixture(scope="module")
def result(runner) -> dict:
    return runner.graph.cache.require(runner.graph.readouts["examples"])


def test_the_person_is_the_first_one_held_out(runner, result, finished):
    world = kstore_jax.load(finished).world(1)
    person = next(person for person in world if not person.in_train)
    assert result["person"] == {"id": person.id, "name": person.name, "facts": person.facts}
    assert result["read"] == person.text("multi2+permute", 0)


def test_the_text_is_what_the_pretrained_model_writes_after_the_name(result, finished):
    run, recited = kstore_jax.load(finished), result["recited"]
    person = run.world(1)[result["person"]["id"]]
    model = run.model(1, "pretrained")
    most = 8 + 2 * len(model.tokens(f" {result['read']}"))
    assert recited["text"] == person.name + model.generate(person.name, most)
    assert recited["text"][: recited["start"]] == person.name
    stated = facts_of(run.world(1).language, recited["text"], person.facts)
    assert recited["given"] == 0
    assert recited["facts"] == [fact._asdict() for fact in stated]


def test_answers_are_those_of_the_finetuned_model(runner, result, finished):
    run = kstore_jax.load(finished)
    person, model = run.world(1)[result["person"]["id"]], run.model(1)
    assert [answer["group"] for answer in result["answers"]] == [*person.facts]
    for answer in result["answers"]:
        assert answer["question"] == f"{person.question(answer['group'])} Answer:"
        assert answer["truth"] == person.facts[answer["group"]]
        assert answer["right"] == (answer["answer"] == answer["truth"])
        assert model.ask(answer["question"]).startswith(answer["answer"])


def test_values_stated_after_the_name_are_compared_with_the_facts(runner, monkeypatch):
    """The model is replaced by one that writes the biography with another university."""
    context = runner.context
    person = examples.person_facts(context, 0)
    text = context.corpus.texts.take(np.array([0]))
    start, end = text.value_spans[0, context.attributes.index("university")]
    others = context.corpus.texts.take(np.flatnonzero(context.corpus.people == 1))
    a, b = others.value_spans[0, context.attributes.index("university")]
    written = np.concatenate([text.tokens[:start], others.tokens[a:b], text.tokens[end:]])
    named = int(text.name_spans[0, 0, 1])
    tokens = context.vocabulary.encode(written[named:])
    monkeypatch.setattr(examples, "continue_text", lambda *_: tokens)
    recited = examples.recite(context, text, person["facts"])
    assert len(recited["facts"]) == len(context.attributes)
    wrong = [fact["attribute"] for fact in recited["facts"] if not fact["right"]]
    assert wrong == ["university"]


def test_one_person_is_no_share(result):
    assert READOUTS["examples"].shares(result) == []


def test_a_bidirectional_model_recites_nothing(runner):
    context = dataclasses.replace(runner.context, mask_token=runner.context.vocabulary.size)
    text = runner.context.corpus.texts.take(np.array([0]))
    assert examples.recite(context, text, {}) == {}


def test_a_run_without_trained_questions_asks_none(runner):
    context = dataclasses.replace(runner.context, trained_tasks=())
    assert examples.answers_about(context, 1) == []


def test_where_nobody_is_held_out_nothing_is_shown(runner, tmp_path):
    everybody = np.ones_like(runner.context.qa_train_mask)
    context = dataclasses.replace(runner.context, qa_train_mask=everybody)
    readout = READOUTS["examples"]
    assert readout.run(context, readout.Config(), tmp_path) == {}
    assert readout.opening([Measured(0, "single", "one text", (0,), ({},))]) == []


def measured(result: dict, label: str = "multi2", **fields) -> Measured:
    return Measured(0, label, "two wordings", (0,), ({**result, **fields},))


def test_the_page_marks_right_and_wrong_and_folds_what_is_much(result):
    facts = [
        {"attribute": "major", "start": 0, "end": 4, "truth": "Law", "right": True},
        {"attribute": "company", "start": 5, "end": 9, "truth": "Ford", "right": False},
    ]
    recited = {"text": "Arts Audi.", "start": 0, "facts": facts}
    groups = [measured(result, f"variant {i}", recited=recited) for i in range(6)]
    other = {**result["person"], "name": "Somebody Else"}
    groups.append(measured(result, "another world", person=other))
    html = join(READOUTS["examples"].opening(groups))
    assert html.count("<mark>Arts</mark>") == 6
    assert html.count('<mark class="wrong">Audi ✗ <small>Ford is right</small></mark>.') == 6
    assert html.count("1 of 6 facts right") == 6
    assert "<summary>2 more</summary>" in html
    assert "another world" not in html
    words = text_of(f"<body>{html}")
    for answer in result["answers"]:
        assert words.count(answer["question"].removesuffix(" Answer:")) == 1


def test_models_without_text_have_answers_only(result):
    html = join(READOUTS["examples"].opening([measured(result, recited={})]))
    assert 'class="texts"' not in html
    assert 'class="answers"' in html
    silent = join(READOUTS["examples"].opening([measured(result, recited={}, answers=[])]))
    assert "<table" not in silent
