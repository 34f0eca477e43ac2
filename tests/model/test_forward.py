"""There is one way through the model, and everything takes it."""

import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.model import forward as module
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts import probes, spans
from kstore_jax.readouts.p_probe import PProbeConfig
from kstore_jax.readouts.probe_data import ProbeExamples
from kstore_jax.train import masking, objectives
from tests.model import reference

SHAPE = Shape(vocabulary=16, layers=1, heads=2, width=16, init_std=0.0201)  # traced here alone
TOKENS = np.zeros((2, 6), np.int32)
LENGTHS = np.full(2, 6, np.int32)
PLACES = np.ones((2, 1), np.int32)
SPANS = SpanExamples(
    TOKENS, PLACES[:, :, None], PLACES[:, :, None], np.ones((2, 1, 1), np.float32), LENGTHS
)
CLASSES = (3, 2)


def examples():
    active = np.ones((2, 1, 2), bool)
    return ProbeExamples(TOKENS, PLACES, np.zeros((2, 2), np.int32), active, LENGTHS)


def next_token(params):
    return objectives.next_token(SHAPE)(params, {"tokens": TOKENS})


def masked_words(params):
    tokens = np.arange(16)
    words = masking.WordMasking(tokens > 0, tokens > 0, end_of_text=0, mask=15)
    batch = {"tokens": TOKENS, "keys": jax.random.split(jax.random.key(0), 2)}
    return objectives.masked_words(SHAPE, words)(params, batch)


def answers(params):
    batch = {"tokens": TOKENS, "positions": PLACES, "targets": PLACES}
    weights = np.ones((2, 1), np.float32)
    return objectives.answer_tokens(SHAPE)(params, {**batch, "weights": weights})


def probe_objective(params):
    return probes.probe_objective(SHAPE, CLASSES, "layer")(with_head(params), vars(examples()))


def probe_scores(params):
    both = examples(), examples()
    return probes.probe_scores(SHAPE, with_head(params), CLASSES, "batch", *both)


def with_head(params):
    trainable = probes.init_probe(SHAPE, PProbeConfig(), CLASSES, jax.random.key(0))
    return probes.with_probe(params, trainable)


def span_hits(params):
    return spans.span_hits(SHAPE, params, SPANS)


class Reached(Exception):
    pass


@pytest.mark.parametrize(
    "user",
    [next_token, masked_words, answers, probe_objective, probe_scores, span_hits],
)
def test_training_answers_and_probes_go_through_the_one_forward(monkeypatch, user):
    params = reference.parameters(SHAPE)

    class Stopped(module.Transformer):
        def apply(self, *_, **__):
            raise Reached

    monkeypatch.setattr(module, "Transformer", Stopped)
    with pytest.raises(Reached) as caught:
        user(params)
    frames = traceback.extract_tb(caught.value.__traceback__)
    through = [f.name for f in frames if f.filename == module.__file__]
    assert through == ["forward"]


def test_forward_ignores_what_is_not_the_network_s():
    params = reference.parameters(SHAPE)
    tokens = np.arange(6, dtype=np.int32)[None]
    plain = module.forward(SHAPE, params, tokens)
    with_more = module.forward(SHAPE, {**params, "head": jnp.ones((3,))}, tokens)
    assert np.array_equal(plain, with_more)


def test_a_longer_table_is_indexed_by_larger_tokens():
    params = reference.parameters(SHAPE)
    table = params["embedding"]
    stacked = {**params, "embedding": jnp.concatenate([jnp.zeros_like(table), table])}
    tokens = np.arange(6, dtype=np.int32)[None]
    shifted = module.forward(SHAPE, stacked, tokens + np.int32(16))
    assert np.array_equal(module.forward(SHAPE, params, tokens), shifted)
