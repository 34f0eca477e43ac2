"""Wordings that are never trained: the same items in other words, and no token of their own."""

import hashlib
import re

import numpy as np
import pytest

from kstore_jax.pipeline.experiment import parse
from kstore_jax.tasks.base import TASKS, Items
from kstore_jax.world.people import draw_people, full_names
from tests.tasks.questions import texts_of

TRAINED = {  # digests of the items in the trained wording, from before there were others
    "classification": "42a4bb73c8b002db",
    "comparison": "c5265430f54f846f",
    "inverse": "ebfee7eefe4b4ac5",
    "retrieval": "cc0f310006c6050e",
}
HINTS = {name: {"hints": True} for name in ("classification", "comparison")}


def config_of(task: str, **fields):
    return getattr(parse({"tasks": {task: {**HINTS.get(task, {}), **fields}}}).tasks, task)


def wordings_of(table, task: str, config) -> list[Items]:
    people = draw_people(table.language.pools, 4, np.arange(40))
    count = TASKS[task].num_wordings(table.language)
    return [TASKS[task].items(table, people, config, 4, wording) for wording in range(count)]


@pytest.mark.parametrize("task", TRAINED)
def test_what_is_trained_is_recorded(table, task):
    trained, *_ = wordings_of(table, task, config_of(task))
    texts = trained.texts
    parts = texts.tokens, texts.offsets, texts.value_spans, trained.answers
    parts = *parts, trained.people, trained.groups, trained.classes
    content = b"".join(np.asarray(part, np.int64).tobytes() for part in parts)
    assert hashlib.sha256(content).hexdigest()[:16] == TRAINED[task]


@pytest.mark.parametrize("task", TRAINED)
def test_a_held_out_wording_has_the_same_items_and_another_question(table, task):
    names = full_names(table.language.pools, draw_people(table.language.pools, 4, np.arange(40)))
    trained, *others = wordings_of(table, task, config_of(task))
    assert others
    seen = {prompt for prompt, *_ in texts_of(table, trained)}
    for other in others:
        for name in ("people", "groups", "classes", "hint_lengths"):
            np.testing.assert_array_equal(getattr(other, name), getattr(trained, name))
        texts = texts_of(table, other)
        assert [rest for _, *rest in texts] == [rest for _, *rest in texts_of(table, trained)]
        prompts = {prompt for prompt, *_ in texts}
        assert not prompts & seen
        seen |= prompts
        for (prompt, *_), (before, *_), people in zip(
            texts, texts_of(table, trained), trained.people, strict=True
        ):
            assert prompt.endswith("? Answer:")
            assert "{" not in prompt
            assert prompt[:7] == before[:7] or task in ("inverse", "retrieval")
            if task != "inverse":
                order = ".*".join(re.escape(names[person]) for person in people)
                assert re.search(order, prompt)


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        *((task, {}) for task in TRAINED),
        *((task, {"date": ""}) for task in ("classification", "comparison", "retrieval")),
        *((task, {"category": ""}) for task in ("classification", "comparison")),
        ("retrieval", {"pairs": ()}),
        ("inverse", {"clues": ("major",)}),
    ],
)
def test_no_held_out_wording_adds_a_token_to_a_compact_vocabulary(table, task, fields):
    trained, *others = wordings_of(table, task, config_of(task, **fields))
    for other in others:
        assert {*other.texts.tokens.tolist()} <= {*trained.texts.tokens.tolist()}
