"""How much of the biographies a pretrained model recites."""

import dataclasses

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts
from kstore_jax.corpus.examples import SpanExamples, span_examples
from kstore_jax.readouts import spans
from kstore_jax.readouts.base import Context
from kstore_jax.tasks.extraction import accuracy_by_attribute

VERSION = 1
_TEXTS = 1000  # biographies that are read with more hidden


def recall(context: Context) -> dict:
    """The share of values predicted in the biographies, from the text before them or, by a
    bidirectional model, each word from all other text.

    Returns: `whole` and `first` (first token) by attribute. A bidirectional model also gets
      `hidden`: `whole` with more hidden than the predicted word: `name`, every full name as well;
      `value`, all words of the value; `values`, all words of all values, which leaves the name
      alone to predict them from.
    """
    rows = context.corpus.texts
    whole, first = _recall_hits(context, rows)
    shares = {"whole": accuracy_by_attribute(whole), "first": accuracy_by_attribute(first)}
    if context.mask_token is None:
        return shares
    some = rows.take(np.arange(0, len(rows), -(-len(rows) // _TEXTS)))
    values = [some.value_spans[:, a : a + 1] for a in range(some.value_spans.shape[1])]
    hidden = {
        "name": _recall_hits(context, some, context.mask_token)[0],
        "value": np.concatenate(
            [_jointly_masked_hits(context, some, one) for one in values], axis=1
        ),
        "values": _jointly_masked_hits(context, some, some.value_spans),
    }
    return {
        **shares,
        "hidden": {what: accuracy_by_attribute(right) for what, right in hidden.items()},
    }


def _recall_hits(
    context: Context, rows: TokenizedTexts, name_mask: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each value is predicted whole, and whether its first token is: (N, 6) bool both;
    `name_mask` hides the full names."""
    whole = np.ones(rows.value_spans.shape[:2], bool)
    first = None
    for which, examples in context.recall_examples(rows):
        if name_mask is not None:
            examples = _hide(examples, rows.name_spans[which], name_mask)
        right, first_right = spans.span_hits(context.shape, context.pretrained, examples)
        whole[which] &= right
        first = first_right if first is None else first
    assert first is not None
    return whole, first


def _jointly_masked_hits(context: Context, rows: TokenizedTexts, hidden: np.ndarray) -> np.ndarray:
    """Whether each of the spans, all hidden at once, is predicted whole: (N, S) bool."""
    examples = span_examples(rows, hidden, context.vocabulary, context.mask_token)
    return spans.span_hits(context.shape, context.pretrained, examples)[0]


def _hide(examples: SpanExamples, hidden: np.ndarray, mask_token: int) -> SpanExamples:
    """The examples with the spans `hidden` (N, M, 2), counted from the start of a row, masked."""
    positions = np.arange(examples.tokens.shape[1]) - 1
    inside = (hidden[..., :1] <= positions) & (positions < hidden[..., 1:])
    tokens = np.where(inside.any(1), np.int32(mask_token), examples.tokens)
    return dataclasses.replace(examples, tokens=tokens)
