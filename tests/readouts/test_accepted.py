"""Facts with several values: any of them, or all of them as texts state them, is a right answer."""

import numpy as np
import pytest

from kstore_jax.pipeline import experiment
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.graph import ExperimentGraph, resolve_auto
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts import qa, spans
from kstore_jax.readouts.examples import accepted_texts, answers
from tests.world.worlds import write_world

TOML = """
table = "films.csv"
name = ["title"]
[attributes]
year = {}
cast = {separator = ";"}
"""
ROWS = """\
title,year,cast
A,1990,Ann Poe; Bob Roe
B,1991,Bob Roe
C,1990,Cid Doe; Ann Poe; Bob Roe
D,1993,Eve Foe
"""
WHOLE = ["Ann Poe, Bob Roe", "Bob Roe", "Cid Doe, Ann Poe, Bob Roe", "Eve Foe"]


@pytest.fixture
def context(tmp_path):
    folder = write_world(tmp_path / "world", TOML, {"films.csv": ROWS})
    config = experiment.default()
    config.world.update(folder=str(folder), people=4)
    config.data.vocabulary = "compact"
    config.model.update(layers=1, heads=2, width=16)
    config.finetune.update(rank=2, embedding_rank=2)
    (one,) = experiment.parse_rows(config)
    return build_context(ExperimentGraph(resolve_auto(one), Cache(tmp_path / "cache")))


def truth(context, examples) -> list[str]:
    """The answers that examples expect."""
    end, decode = context.vocabulary.end_of_text, context.vocabulary.decode
    rows = zip(examples.targets[:, 0], examples.weights[:, 0] > 0, strict=True)
    return [decode(t[w & (t != end)]).strip() for t, w in rows]


def test_an_item_accepts_each_of_its_values(context):
    items = context.items("extraction")
    assert truth(context, context.examples(items))[1::2] == WHOLE
    found = {i: sorted(texts) for i, texts in accepted_texts(context, items).items()}
    assert found == {1: ["Ann Poe", "Bob Roe"], 5: ["Ann Poe", "Bob Roe", "Cid Doe"]}
    last = items.take(np.array([4, 5]))
    assert accepted_texts(context, last) == {1: {"Ann Poe", "Bob Roe", "Cid Doe"}}


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Bob Roe", [1, 1, 1, 0]), ("Cid Doe", [0, 0, 1, 0]), (WHOLE[0], [1, 0, 0, 0])],
)
def test_an_accepted_answer_is_scored_as_right(context, monkeypatch, answer, right):
    def hits(shape, params, examples):
        right = np.array([text == answer for text in truth(context, examples)])
        return right[:, None], right[:, None]

    def generate(context_, params, examples, beam_size):
        (ids,) = context.table.tokenizer.encode([f" {answer}"])
        tokens = np.full(examples.targets[:, 0].shape, context.vocabulary.end_of_text)
        tokens[:, : len(ids)] = context.vocabulary.encode(np.array(ids))
        return tokens

    monkeypatch.setattr(spans, "span_hits", hits)
    monkeypatch.setattr(qa, "generate_answers", generate)
    scores, cases = qa.evaluate_task(context, None, "extraction", beam_size=2)
    of_cast = cases["group"] == 1
    first_wording = cases["wording"] == 0
    assert cases["exact"][of_cast & first_wording].tolist() == list(map(bool, right))
    assert cases["beam"][of_cast[: len(cases["beam"])]].tolist() == list(map(bool, right))
    held_out = cases["test"][of_cast & first_wording]
    share = np.array(right)[held_out].mean()
    assert scores["test"]["exact"]["cast"] == scores["test"]["beam"]["cast"] == share
    monkeypatch.setattr("kstore_jax.readouts.examples.generate_answers", generate)
    items = context.items("extraction")
    accepted, lengths = accepted_texts(context, items), items.hint_lengths
    shown = answers(context, None, context.examples(items), lengths, accepted=accepted)
    assert [int(each["right"]) for each in shown[1::2]] == right


def test_the_majority_guess_is_the_commonest_accepted_answer(context):
    items = context.items("extraction")
    trained = np.repeat([True, True, False, False], 2)
    baseline = qa.majority_guess(items, trained, ~trained, ["year", "cast"])
    assert baseline["cast"] == 0.5  # Bob Roe is in C, not in D
    assert qa.majority_guess(items, ~trained, trained, ["year", "cast"])["year"] == 0.5
