"""Forgetting: the loss on real text before and after pretraining."""

import dataclasses

import jax
import numpy as np
import pytest

from kstore_jax.charts.markup import join
from kstore_jax.corpus.text import open_documents
from kstore_jax.errors import UserError
from kstore_jax.model.forward import forward, init, unembed
from kstore_jax.pipeline import experiment
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.graph import ExperimentGraph, resolve_auto
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts import forgetting
from kstore_jax.readouts.measured import Measured
from kstore_jax.readouts.shares import shares_of


def tiny(**fields):
    """The fields of an experiment with the readout, with a tokenizer of few tokens."""
    config = experiment.default()
    config.world.people = 4
    config.data.tokenizer = "bpe300"
    config.model.update(layers=1, heads=2, width=16, dtype="float32")
    config.finetune.update(rank=2, embedding_rank=2)
    config.readouts.forgetting.update(enabled=True, **fields)
    return config


def graph_of(config, tmp_path) -> ExperimentGraph:
    (one,) = experiment.parse_rows(config)
    return ExperimentGraph(resolve_auto(one), Cache(tmp_path / "cache"))


def test_losses_are_of_the_model_before_and_after(tmp_path):
    (tmp_path / "mine.txt").write_text("Once upon a time there was a table of facts.")
    graph = graph_of(tiny(text=str(tmp_path / "mine.txt"), tokens=300), tmp_path)
    context = build_context(graph)
    after = init(context.shape, jax.random.key(7))
    context = dataclasses.replace(context, load_pretrained=lambda _: after)
    readout, config = forgetting.Forgetting(), graph.experiment.readouts.forgetting
    result = readout.run(context, config, tmp_path)
    assert [*result] == ["text", "general"]
    assert 256 <= result["general"]["tokens"] <= 300
    tokens = context.table.tokenizer.encode([(tmp_path / "mine.txt").read_text()])[0]
    assert result["text"]["tokens"] == len(tokens)  # with the end of text, without the first
    whole = context.vocabulary.encode(np.array([*tokens, context.table.tokenizer.end_of_text]))
    for when, params in (("before", context.untrained), ("after", after)):
        hidden = forward(context.shape, params, whole[None, :-1])[0]
        logits = np.asarray(unembed(context.shape, params, hidden), np.float64)
        log_shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = -log_shares[np.arange(len(tokens)), whole[1:]].mean()
        assert result["text"][when] == pytest.approx(expected, rel=1e-4)
    assert result["text"]["before"] != result["text"]["after"]
    assert {share.metric for share in shares_of(result)} == {"text", "general"}
    (table,) = readout.tables([Measured(0, "row", "words", (0,), (result,))])
    page = join([table.html])
    change = result["text"]["after"] - result["text"]["before"]
    assert f"{change:+.3f}" in page


def test_windows_are_consecutive_tokens_of_the_documents(tmp_path):
    graph = graph_of(tiny(tokens=600), tmp_path)
    context = build_context(graph)
    windows = forgetting._windows(context, open_documents(str(forgetting.PASSAGES)), 600)
    assert windows.shape == (2, 257)
    assert windows[0, -1] == windows[1, 0]


def test_a_changed_text_is_measured_again(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a")
    first = graph_of(tiny(text=str(path)), tmp_path).readouts["forgetting"].folder
    assert graph_of(tiny(text=str(path)), tmp_path).readouts["forgetting"].folder == first
    path.write_text("a b")
    assert graph_of(tiny(text=str(path)), tmp_path).readouts["forgetting"].folder != first


def test_what_cannot_be_measured_is_refused(tmp_path):
    config = tiny(text=str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match=r"^readouts\.forgetting\.text: .*none\.txt: no such file"):
        experiment.parse_rows(config)
    config = tiny()
    config.data.vocabulary = "compact"
    with pytest.raises(UserError, match=r"^readouts\.forgetting\.enabled: expected data\.vocab"):
        experiment.parse_rows(config)
    config = tiny()
    config.model.direction = "bidirectional"
    with pytest.raises(UserError, match=r"^readouts\.forgetting\.enabled: expected a causal mo"):
        experiment.parse_rows(config)
