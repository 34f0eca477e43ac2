"""`model.direction` alone makes an experiment bidirectional, with the same stages."""

import dataclasses
import json

import numpy as np
import pytest

from kstore_jax.corpus.examples import span_examples
from kstore_jax.pipeline.results import result_row
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts import spans
from kstore_jax.readouts.base import Context
from kstore_jax.readouts.decode import exact_match
from kstore_jax.readouts.qa import generate_answers
from kstore_jax.readouts.recall import recall
from tests.pipeline.runners import finished_runner, with_sections
from tests.world.bundled import ATTRIBUTES


@pytest.fixture(scope="module")
def runner(finished, tmp_path_factory) -> Runner:
    """The second row of the finished sweep, made bidirectional and run to its end."""
    causal = finished_runner(finished, 1)
    model = dataclasses.replace(causal.graph.experiment.model, direction="bidirectional")
    probe = dataclasses.replace(causal.graph.experiment.readouts.p_probe, dropout=0.1)
    cache = Cache(tmp_path_factory.mktemp("bidirectional"))
    readouts = dataclasses.replace(causal.graph.experiment.readouts, p_probe=probe)
    runner = with_sections(causal, cache, model=model, readouts=readouts)
    runner.run()
    return runner


@pytest.fixture
def context(runner) -> Context:
    return runner.context


def test_the_results_have_the_fields_of_a_causal_experiment(runner, finished):
    assert runner.graph.done
    causal = json.loads((finished / "results.json").read_text())["rows"][1]
    row = result_row(runner.graph)
    assert row.to_json().keys() == causal.keys()
    assert row.vocabulary == causal["vocabulary"]  # the mask is no token of a text
    hidden = row.intervals["recall"]["hidden"]
    for part, shares in row.readouts["recall"]["hidden"].items():
        for name, share in shares.items():
            assert hidden[part][name]["low"] <= share <= hidden[part][name]["high"]


def test_questions_mask_every_token_of_the_answer(context):
    _, questions = context.questions()
    assert len(questions) == 20 * 6
    masks = (questions.tokens == context.mask_token).sum(1)
    assert masks.tolist() == questions.weights[:, 0].sum(1).tolist()
    assert masks.min() > 0


def test_the_mask_has_a_row_of_the_embedding_beyond_the_vocabulary(context):
    assert context.mask_token == context.vocabulary.size
    assert context.shape.vocabulary > context.mask_token
    assert context.pretrained["embedding"].shape[0] == context.shape.vocabulary


def test_recall_predicts_every_value_word_by_word(runner, context):
    words = context.recall_examples(context.corpus.texts)
    assert len(words) > 2  # values of several words
    assert np.array_equal(words[0][0], np.arange(len(context.corpus.texts)))
    shares = runner.graph.cache.require(runner.graph.readouts["recall"])
    assert shares["whole"].keys() == {"mean", *ATTRIBUTES}
    assert all(shares["whole"][name] <= shares["first"][name] for name in ATTRIBUTES)
    assert shares["hidden"].keys() == {"name", "value", "values"}


def test_generated_answers_fill_in_the_masks(context):
    _, questions = context.questions()
    answers = generate_answers(context, context.finetuned, questions, 1)
    predicted = spans.predict(context.shape, context.finetuned, questions)[:, 0]
    is_masked = questions.weights[:, 0] > 0
    assert np.array_equal(answers[is_masked], predicted[is_masked])
    assert (answers[~is_masked] == context.vocabulary.end_of_text).all()
    exact, _ = spans.span_hits(context.shape, context.finetuned, questions)
    assert np.array_equal(exact_match(answers, questions), exact)


@pytest.mark.parametrize("hidden", [(), ("name",), ("value",), ("values",)])
def test_recall_masks_exactly_the_text_it_reports_as_hidden(context, hidden, monkeypatch, tmp_path):
    calls = []

    def span_hits(shape, params, examples):
        calls.append(examples)
        return np.ones(examples.weights.shape[:2], bool), np.ones(examples.weights.shape[:2], bool)

    monkeypatch.setattr(spans, "span_hits", span_hits)
    rows = context.corpus.texts
    words = len(context.recall_examples(rows))
    assert recall(context, tmp_path)["whole"]["mean"] == 1.0
    examples = {  # where words are predicted one by one, the first word, which every value has
        (): calls[:1],
        ("name",): calls[words : words + 1],
        ("value",): calls[2 * words : 2 * words + 6],
        ("values",): calls[2 * words + 6 :],
    }[hidden]
    plain = span_examples(rows, rows.value_spans, context.vocabulary).tokens
    names = {i for start, end in rows.name_spans[0] for i in range(start, end)}
    values = [set(range(start, end)) for start, end in rows.value_spans[0]]
    for one in examples:
        is_masked = one.tokens[0] == context.mask_token
        masked = set(np.flatnonzero(is_masked) - 1)
        if hidden == ("values",):
            assert masked == set().union(*values)
        elif hidden == ("value",):
            assert masked in values
        else:
            assert (names & masked) == (names if hidden else set())
            assert masked - names < set().union(*values)
        assert (one.tokens[0] == plain[0])[~is_masked].all()
