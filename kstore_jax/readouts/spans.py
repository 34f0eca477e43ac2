"""Exact match, first-token accuracy and losses of spans: answers, and names and values in
biographies.

Greedy decoding generates an answer if and only if each of its tokens is the most likely one after
the true text before it; so one forward decides exact match under greedy decoding. The paper (Part
3.1, section 2.3) decodes with 4 beams, which may differ, and reports similar results without them.
A bidirectional model sees as many masks as the answer has tokens, and has to recover all of them
(section 7).

Shapes: N texts with S spans each, K tokens in the longest span.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.model.forward import Params, forward, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.train.objectives import cross_entropy

_COLUMNS = tuple(field.name for field in dataclasses.fields(SpanExamples))


def predict(shape: Shape, params: Params, examples: SpanExamples, batch: int = 256) -> np.ndarray:
    """The most likely token at each position of each span: (N, S, K) int32.

    Args:
      batch: texts of one call; the last batch is padded to it unless it is the only one.
    """
    return _in_batches(_predict_batch, shape, params, examples, batch)


def span_nats(shape: Shape, params: Params, examples: SpanExamples, batch: int = 64) -> np.ndarray:
    """The negative log-likelihood in nats of each span, the sum over its tokens: (N, S) float32.

    Args:
      batch: as for `predict`.
    """
    return _in_batches(_nats_of_batch, shape, params, examples, batch)


def _in_batches(
    compute: Callable, shape: Shape, params: Params, examples: SpanExamples, batch: int
) -> np.ndarray:
    """The results of `compute(shape, params, columns)`, a row for each example. They are fetched
    together, so that the device does not wait between batches."""
    found = []
    for start in range(0, len(examples), batch):
        part = slice(start, start + batch)
        missing = max(0, start + batch - len(examples)) if start else 0
        rows = {name: _pad_rows(getattr(examples, name)[part], missing) for name in _COLUMNS}
        found.append(compute(shape, params, rows))
    return np.concatenate(jax.device_get(found))[: len(examples)]


def span_hits(
    shape: Shape, params: Params, examples: SpanExamples, batch: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each span is predicted whole, and whether its first token is: (N, S) bool both."""
    hits = predict(shape, params, examples, batch) == examples.targets
    return (hits | (examples.weights == 0)).all(-1), hits[..., 0]


def stack_batches(examples: SpanExamples, batch: int = 256) -> dict[str, np.ndarray]:
    """The columns of `examples` as (batches, batch, ...), padded; one more column, `real` (batches,
    batch) bool, is False for padding."""
    batch = min(batch, len(examples))
    missing = -len(examples) % batch
    columns = {name: getattr(examples, name) for name in _COLUMNS}
    columns["real"] = np.ones(len(examples), bool)
    padded = {name: _pad_rows(column, missing) for name, column in columns.items()}
    return {name: column.reshape(-1, batch, *column.shape[1:]) for name, column in padded.items()}


def _pad_rows(column: np.ndarray, missing: int) -> np.ndarray:
    """The column with `missing` rows of zeros after it."""
    return np.pad(column, [(0, missing)] + [(0, 0)] * (column.ndim - 1))


@functools.partial(jax.jit, static_argnums=0)
def span_shares(
    shape: Shape, params: Params, batches: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The share of spans predicted whole, and of spans whose first token is: device scalars.

    Args:
      batches: columns as `stack_batches` returns them.
    """

    def count_hits(batch):
        tokens = _predict_batch(shape, params, batch)
        hits = (tokens == batch["targets"]) & batch["real"][:, None, None]
        whole = (hits | (batch["weights"] == 0)).all(-1) & batch["real"][:, None]
        return whole.sum(dtype=jnp.float32), hits[..., 0].sum(dtype=jnp.float32)

    whole, first = jax.lax.map(count_hits, batches)
    spans = batches["real"].sum(dtype=jnp.float32) * batches["positions"].shape[2]
    return whole.sum() / spans, first.sum() / spans


@functools.partial(jax.jit, static_argnums=0)
def mean_nats(shape: Shape, params: Params, batches: dict[str, jax.Array]) -> jax.Array:
    """The mean over texts of what `span_nats` returns, (S,) on the device; a text without a span
    does not count in the mean of that span.

    Args:
      batches: columns as `stack_batches` returns them.
    """

    def add_texts(batch):
        stated = (batch["weights"] > 0).any(-1) & batch["real"][:, None]
        nats = jnp.where(stated, _nats_of_batch(shape, params, batch), 0.0)
        return nats.sum(0), stated.sum(0, dtype=jnp.float32)

    nats, texts = jax.lax.map(add_texts, batches)
    return nats.sum(0) / jnp.maximum(texts.sum(0), 1.0)


@functools.partial(jax.jit, static_argnums=0)
def _predict_batch(shape, params, batch):
    """The most likely token at each of `positions` (N, S, K), of the same shape."""
    return _logits(shape, params, batch).argmax(-1).reshape(batch["positions"].shape)


@functools.partial(jax.jit, static_argnums=0)
def _nats_of_batch(shape, params, batch):
    """The negative log-likelihood of each span, (N, S)."""
    losses = cross_entropy(_logits(shape, params, batch), batch["targets"].ravel())
    return (losses.reshape(batch["targets"].shape) * batch["weights"]).sum(-1)


def _logits(shape, params, batch):
    """The logits at each position of each span, (N S K, V)."""
    rows, spans, longest = batch["positions"].shape
    positions = batch["positions"].reshape(rows, spans * longest)
    hidden = forward(shape, params, batch["tokens"], batch["lengths"], positions=positions)
    return unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
