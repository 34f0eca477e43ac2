"""Exact match and first-token accuracy of spans: answers, and values in biographies.

Greedy decoding gives an answer if and only if each of its tokens is the most likely one after the
true text before it, so one forward decides exact match under greedy decoding. The paper (Part 3.1,
section 2.3) decodes with 4 beams, which may differ, and reports similar results without them. A
bidirectional model sees as many masks as the answer has tokens, and has to recover all of them
(section 7).

Shapes: N texts, S spans each, K tokens a span.
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
    """The most likely token at each place of each span, given the true others: (N, S, K) int32."""
    tokens = []
    for start in range(0, len(examples), batch):
        part = slice(start, start + batch)
        missing = max(0, start + batch - len(examples)) if start else 0
        rows = [
            np.pad(column[part], [(0, missing)] + [(0, 0)] * (column.ndim - 1))
            for column in (examples.tokens, examples.positions, examples.lengths)
        ]
        count = len(examples.tokens[part])
        tokens.append(jax.device_get(_predict_batch(shape, params, *rows))[:count])
    return np.concatenate(tokens)


def span_hits(
    shape: Shape, params: Params, examples: SpanExamples, batch: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each span is predicted whole, and whether its first token is: (N, S) bool both."""
    right = predict(shape, params, examples, batch) == examples.targets
    return (right | (examples.weights == 0)).all(-1), right[..., 0]


def stack_batches(examples: SpanExamples, batch: int = 256) -> dict[str, np.ndarray]:
    """The columns of `examples` as (batches, batch, ...), padded; `real` (batches, batch) bool is
    False for padding."""
    batch = min(batch, len(examples))
    missing = -len(examples) % batch
    columns = {name: getattr(examples, name) for name in _COLUMNS}
    columns["real"] = np.ones(len(examples), bool)
    padded = {
        name: np.pad(column, [(0, missing)] + [(0, 0)] * (column.ndim - 1))
        for name, column in columns.items()
    }
    return {name: column.reshape(-1, batch, *column.shape[1:]) for name, column in padded.items()}


@functools.partial(jax.jit, static_argnums=0)
def span_shares(
    shape: Shape, params: Params, batches: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The share of spans predicted whole, and whose first token is: scalars on the device.

    Args:
      batches: columns as `stack` returns them.
    """

    def right(batch):
        tokens = _predict_batch(
            shape, params, *(batch[x] for x in ("tokens", "positions", "lengths"))
        )
        right = (tokens == batch["targets"]) & batch["real"][:, None, None]
        whole = (right | (batch["weights"] == 0)).all(-1) & batch["real"][:, None]
        return whole.sum(dtype=jnp.float32), right[..., 0].sum(dtype=jnp.float32)

    whole, first = jax.lax.map(right, batches)
    spans = batches["real"].sum(dtype=jnp.float32) * batches["positions"].shape[2]
    return whole.sum() / spans, first.sum() / spans


@functools.partial(jax.jit, static_argnums=0)
def _predict_batch(shape, params, tokens, positions, lengths):
    rows, spans, width = positions.shape
    hidden = forward(shape, params, tokens, lengths)
    hidden = at_positions(hidden, positions.reshape(rows, spans * width))
    logits = unembed(shape, params, hidden.reshape(-1, hidden.shape[-1]))
    return logits.argmax(-1).reshape(positions.shape)
