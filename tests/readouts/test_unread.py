"""The loss on texts of people never read."""

import dataclasses

import jax
import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.model.forward import forward, unembed
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts import unread
from kstore_jax.readouts.unread import Unread, UnreadConfig
from kstore_jax.train.masking import mask_words
from kstore_jax.train.telemetry import METRICS, read_metrics
from kstore_jax.world.people import full_names
from tests.pipeline.runners import finished_runner, with_sections
from tests.report.runs import SHUFFLED, SINGLE, a_run, csv_of, write_page

WANTED = UnreadConfig(enabled=True, people=5)


@pytest.fixture
def runner(finished, tmp_path):
    """A run that is pretrained for four steps on all tokens of GPT-2, and measured twice."""
    one = finished_runner(finished, 1)
    e = one.graph.experiment
    return with_sections(
        one,
        Cache(tmp_path / "stages"),
        data=dataclasses.replace(e.data, vocabulary="full"),
        readouts=dataclasses.replace(e.readouts, unread=WANTED),
        pretrain=dataclasses.replace(e.pretrain, steps=4, warmup_steps=1, evaluate_every=2),
    )


def log_likelihoods(context, params, tokens, length=None):
    """The logarithm of the probability of every token at every position of one text: (L, V)."""
    lengths = None if length is None else np.array([length], np.int32)
    hidden = forward(context.shape, params, tokens[None], lengths)[0]
    return np.asarray(jax.nn.log_softmax(unembed(context.shape, params, hidden)), np.float64)


def test_the_losses_of_a_run_are_those_of_texts_it_read_and_of_others(runner, tmp_path):
    runner.ensure(runner.graph.pretrain)
    lines = read_metrics(runner.graph.cache.folder(runner.graph.pretrain) / METRICS)
    measured = [line["evaluation"] for line in lines if "evaluation" in line]
    context = runner.context
    people = unread._people_never_read(context, 5)
    pools = context.table.language.pools
    read = set(full_names(pools, context.everyone))
    assert not read & set(full_names(pools, people))
    for name, group in (
        ("loss_unread", people),
        ("loss_read", context.people.take(np.arange(5))),
    ):
        losses = []
        texts = unread._texts(context, group)
        for i in range(5):
            ids = texts.tokens[texts.offsets[i] : texts.offsets[i + 1]]
            text = context.vocabulary.tokenizer.decode(ids.tolist())
            assert full_names(pools, group)[i] in text
            tokens = np.concatenate([[context.vocabulary.end_of_text], ids]).astype(np.int32)
            scores = log_likelihoods(context, context.pretrained, tokens[:-1])
            losses += [-scores[k, token] for k, token in enumerate(tokens[1:])]
        assert measured[-1][name] == pytest.approx(np.mean(losses), rel=1e-5)
    assert [line["step"] for line in lines if "evaluation" in line] == [2, 4]
    assert measured[0]["loss_unread"] != measured[1]["loss_unread"]


def test_a_bidirectional_model_has_the_same_words_masked_each_time(finished, tmp_path):
    one = finished_runner(finished, 1)
    e = one.graph.experiment
    runner = with_sections(
        one,
        Cache(tmp_path),
        model=dataclasses.replace(e.model, direction="bidirectional", dropout=0.5),
        data=dataclasses.replace(e.data, vocabulary="full"),
        pretrain=dataclasses.replace(e.pretrain, steps=2, warmup_steps=1),
    )
    runner.ensure(runner.graph.pretrain)
    context = runner.context
    params = context.pretrained
    loss = Unread().during(context, WANTED)
    found = jax.device_get(loss(params))
    assert found == jax.device_get(loss(params))
    texts = unread._texts(context, unread._people_never_read(context, 5))
    tokens, lengths = unread.padded_tokens(texts, context.vocabulary)
    keys = jax.random.split(context.key("unread"), 5)
    inputs, chosen = map(np.asarray, mask_words(context.words, keys, tokens))
    losses = []
    for i in range(5):
        scores = log_likelihoods(context, params, inputs[i], lengths[i])
        losses += [-scores[k, tokens[i, k]] for k in np.flatnonzero(chosen[i])]
    assert float(found["loss_unread"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_what_cannot_be_measured_is_refused_by_field(finished):
    runner = finished_runner(finished, 1)
    e = runner.graph.experiment
    with pytest.raises(UserError, match=r"^readouts\.unread\.enabled: .*evaluate_every"):
        Unread().check(WANTED, e)
    every = dataclasses.replace(e.pretrain, evaluate_every=2)
    few = dataclasses.replace(e, pretrain=every)
    Unread().check(WANTED, few)
    most = runner.graph.data.language.pools.full_name_count - e.world.people
    with pytest.raises(UserError, match=rf"^readouts\.unread\.people: expected at most {most}"):
        Unread().check(UnreadConfig(enabled=True, people=most + 1), few)
    with pytest.raises(UserError, match=r"^readouts\.unread\.people: .*compact vocabulary"):
        unread._people_never_read(runner.context, 50)


def test_the_page_draws_both_losses(tmp_path):
    lines = [
        {
            "step": 10 * i,
            "exposures": float(i),
            "evaluation": {"loss_unread": 5.0, "loss_read": 4.0},
        }
        for i in (1, 2)
    ]
    row = dataclasses.replace(SINGLE, evaluations=lines)
    page = write_page(a_run(tmp_path, [row, SHUFFLED]))
    head, *rest = csv_of(page, "unread-1")
    assert head[-2:] == ["people never read", "people read"]
    assert [line[-2:] for line in rest] == [["5.0", "4.0"]] * 2
