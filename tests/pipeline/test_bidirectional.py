"""One field turns an experiment bidirectional, through the same stages."""

import dataclasses
import json

import numpy as np
import pytest

from kstore_jax.corpus.examples import span_examples
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import result_row
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts import spans
from kstore_jax.readouts.base import Context
from kstore_jax.readouts.recall import recall
from kstore_jax.world.people import ATTRIBUTES


@pytest.fixture(scope="module")
def runner(finished, tmp_path_factory) -> Runner:
    """The finished experiment, with its direction changed and nothing else, run to its end."""
    plain = parse(json.loads((finished / "config.json").read_text())["rows"][1])
    model = dataclasses.replace(plain.model, direction="bidirectional")
    probe = dataclasses.replace(plain.p_probe, dropout=0.1)
    bidirectional = dataclasses.replace(plain, model=model, p_probe=probe)
    runner = Runner(ExperimentGraph(bidirectional, Cache(tmp_path_factory.mktemp("bidirectional"))))
    runner.run()
    return runner


@pytest.fixture
def context(runner) -> Context:
    return runner.context


def test_every_stage_has_its_result_and_the_row_those_of_a_causal_one(runner, finished):
    assert runner.graph.done
    causal = json.loads((finished / "results.json").read_text())["rows"][1]
    assert result_row(runner.graph).keys() == causal.keys()
    assert (
        result_row(runner.graph)["vocabulary"] == causal["vocabulary"]
    )  # the mask is no token of the text


def test_answers_are_asked_for_by_as_many_masks_as_they_have_tokens(runner, context):
    examples, pools = context.questions(), runner.graph.data.language.pools
    assert len(examples) == 20 * 6
    for i in range(len(examples)):
        person, a = divmod(i, 6)
        value = pools.values[ATTRIBUTES[a]][runner.graph.data.people.values[person, a]]
        answer = examples.targets[i, 0][examples.weights[i, 0] > 0]
        assert context.vocabulary.decode(answer) == f" {value}"
        line = examples.tokens[i][: examples.lengths[i]]
        masks = np.flatnonzero(line == context.mask_token)
        assert len(masks) == len(answer)
        assert context.vocabulary.decode(line[: masks[0]]).endswith("? Answer:")
        assert line[masks[-1] + 1 :].tolist() == [context.vocabulary.end_of_text]
        assert value not in context.vocabulary.decode(line[line != context.mask_token])


def test_the_mask_has_a_row_of_its_own(context):
    assert context.mask_token == context.vocabulary.size
    assert context.shape.vocabulary > context.mask_token
    assert context.pretrained["embedding"].shape[0] == context.shape.vocabulary


def test_recall_tells_every_value_word_by_word(runner, context):
    recited = context.recall_examples(context.corpus.texts)
    assert len(recited) > 2  # values of several words
    assert np.array_equal(recited[0][0], np.arange(len(context.corpus.texts)))
    found = runner.graph.cache.result(runner.graph.recall)
    assert found["whole"].keys() == {"mean", *ATTRIBUTES}
    assert all(found["whole"][name] <= found["first"][name] for name in ATTRIBUTES)
    assert found["hidden"].keys() == {"name", "value", "values"}


@pytest.mark.parametrize("hidden", [(), ("name",), ("value",), ("values",)])
def test_recall_hides_what_it_says(context, hidden, monkeypatch):
    """Every value is told where the places of what it is told from are in sight, and only then."""
    seen = []

    def span_hits(shape, params, examples):
        seen.append(examples)
        return np.ones(examples.weights.shape[:2], bool), np.ones(examples.weights.shape[:2], bool)

    monkeypatch.setattr(spans, "span_hits", span_hits)
    rows = context.corpus.texts
    words = len(context.recall_examples(rows))
    assert recall(context)["whole"]["mean"] == 1.0
    parts = {  # of words told one by one the first, which every row has
        (): seen[:1],
        ("name",): seen[words : words + 1],
        ("value",): seen[2 * words : 2 * words + 6],
        ("values",): seen[2 * words + 6 :],
    }[hidden]
    plain = span_examples(rows, rows.value_spans, context.vocabulary).tokens
    masked = [np.flatnonzero(part.tokens[0] == context.mask_token) - 1 for part in parts]
    names = {place for start, end in rows.name_spans[0] for place in range(start, end)}
    values = [set(range(start, end)) for start, end in rows.value_spans[0]]
    for places in map(set, masked):
        if hidden == ("values",):
            assert places == set().union(*values)
        elif hidden == ("value",):
            assert places in values
        else:
            assert (names & places) == (names if hidden else set())
            assert places - names < set().union(*values)
    assert all(
        (part.tokens[0] == plain[0])[part.tokens[0] != context.mask_token].all() for part in parts
    )
