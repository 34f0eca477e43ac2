"""Probes for few people: the model's own head, and an update of shared tokens only."""

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.corpus.encode import compact_vocabulary
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts.config import PProbe
from kstore_jax.readouts.probe_data import (
    FIRST_TOKEN_TASKS,
    class_tokens,
    person_labels,
    shared_tokens,
)
from kstore_jax.readouts.probes import class_logits, init_probe, model_head, moments, with_probe
from kstore_jax.world.people import ATTRIBUTES, draw_people
from tests.model import reference

SHAPE = Shape(vocabulary=24, layers=1, heads=2, width=16)
CLASSES = (3, 5)
TOKENS = (np.array([4, 9, 2]), np.array([7, -1, 1, 0, 3]))


def test_a_class_is_scored_by_the_output_row_of_its_token():
    params = reference.parameters(SHAPE)
    hidden = jax.random.normal(jax.random.key(0), (2, 6, 1, SHAPE.width))
    head = model_head(SHAPE, params, TOKENS)
    logits = class_logits(head, hidden, *moments(hidden, "layer"), CLASSES)
    mean, variance = hidden.mean(-1, keepdims=True), hidden.var(-1, keepdims=True)
    normed = np.asarray((hidden - mean) / np.sqrt(variance + 1e-5))[:, :, 0]
    for task, tokens in enumerate(TOKENS):
        rows = np.asarray(params["embedding"])[tokens]
        found, expected = np.asarray(logits)[task, :, 0, : len(tokens)], normed[task] @ rows.T
        known = tokens >= 0
        np.testing.assert_allclose(found[:, known], expected[:, known], rtol=1e-5, atol=1e-5)
        assert (found[:, ~known] < -1e30).all()


def test_an_update_of_shared_tokens_leaves_the_others_as_they_are():
    params = reference.parameters(SHAPE)
    trainable = init_probe(SHAPE, PProbe(embedding_rank=2), CLASSES, jax.random.key(0))
    trainable["embedding"]["a"] = jnp.ones_like(trainable["embedding"]["a"])
    updated = jnp.zeros(SHAPE.vocabulary).at[jnp.array([1, 5])].set(1.0)
    tables = with_probe({**params, "updated": updated}, trainable)["embedding"]
    changed = np.asarray(tables).reshape(2, SHAPE.vocabulary, -1) != np.asarray(params["embedding"])
    assert sorted({int(token) for token in np.nonzero(changed)[1]}) == [1, 5]


def test_the_class_of_a_person_is_the_first_token_of_the_value(language, table):
    who = draw_people(language.pools, 0, np.arange(50))
    vocabulary = compact_vocabulary(table, who)
    found, _ = person_labels(table, who, FIRST_TOKEN_TASKS)
    tokens = class_tokens(table, vocabulary)
    for task, (name, _) in enumerate(FIRST_TOKEN_TASKS):
        a = ATTRIBUTES.index(name)
        for person, klass in enumerate(found[:, task]):
            value = language.pools.values[name][who.values[person, a]]
            first = gpt2().encode([f" {value}"])[0][0]
            assert vocabulary.ids[tokens[task][klass]] == first


def test_names_and_values_are_not_shared_tokens(language, table):
    who = draw_people(language.pools, 0, np.arange(50))
    vocabulary = compact_vocabulary(table, who)
    shared = set(shared_tokens(table, vocabulary).tolist())
    assert vocabulary.end_of_text in shared
    for text in (" born", " university", "."):
        assert int(vocabulary.encode(np.array(gpt2().encode([text])[0]))[0]) in shared
    surnames = {language.pools.last_names[k] for k in who.names[:, 2]}
    firsts = {int(vocabulary.encode(np.array(gpt2().encode([f" {n}"])[0]))[0]) for n in surnames}
    assert len(firsts & shared) < 0.2 * len(firsts)
