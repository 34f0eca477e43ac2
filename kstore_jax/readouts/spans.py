"""Exact match and first-token accuracy of spans: answers, and values in biographies.

Greedy decoding generates an answer if and only if each of its tokens is the most likely one after
the true text before it; so one forward decides exact match under greedy decoding. The paper (Part
3.1, section 2.3) decodes with 4 beams, which may differ, and reports similar results without them.
A bidirectional model sees as many masks as the answer has tokens, and has to recover all of them
(section 7).

Shapes: N texts with S spans each, K tokens in the longest span.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.model.forward import Params, forward, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.train.objectives import at_positions

_COLUMNS = tuple(field.name for field in dataclasses.fields(SpanExamples))


def predict(shape: Shape, params: Params, examples: SpanExamples, batch: int = 256) -> np.ndarray:
    """The most likely token at each position of each span: (N, S, K) int32.

    Args:
      batch: texts of one call; the last batch is padded to it unless it is the only one.
    """
    tokens = []
    for start in range(0, len(examples), batch):
        part = slice(start, start + batch)
        missing = max(0, start + batch - len(examples)) if start else 0
        columns = examples.tokens, examples.positions, examples.lengths
        rows = [_pad_rows(column[part], missing) for column in columns]
        count = len(examples.tokens[part])
        tokens.append(jax.device_get(_predict_batch(shape, params, *rows))[:count])
    return np.concatenate(tokens)


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
        tokens = _predict_batch(
            shape, params, *(batch[x] for x in ("tokens", "positions", "lengths"))
        )
        hits = (tokens == batch["targets"]) & batch["real"][:, None, None]
        whole = (hits | (batch["weights"] == 0)).all(-1) & batch["real"][:, None]
        return whole.sum(dtype=jnp.float32), hits[..., 0].sum(dtype=jnp.float32)

    whole, first = jax.lax.map(count_hits, batches)
    spans = batches["real"].sum(dtype=jnp.float32) * batches["positions"].shape[2]
    return whole.sum() / spans, first.sum() / spans


@functools.partial(jax.jit, static_argnums=0)
def _predict_batch(shape, params, tokens, positions, lengths):
    """The most likely token at each of `positions` (N, S, K), of the same shape."""
    rows, spans, longest = positions.shape
    hidden = forward(shape, params, tokens, lengths)
    hidden = at_positions(hidden, positions.reshape(rows, spans * longest))
    logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
    return logits.argmax(-1).reshape(positions.shape)
