"""Recall: the share of values in the biographies that a pretrained model predicts."""

import dataclasses

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts
from kstore_jax.corpus.examples import SpanExamples, span_examples
from kstore_jax.readouts import spans
from kstore_jax.readouts.base import Context
from kstore_jax.tasks.extraction import accuracy_by_attribute

VERSION = 1
_HIDDEN_TEXTS = 1000
"""At most so many biographies are read with more of their text hidden."""


def recall(context: Context) -> dict:
    """The share of values that the pretrained model predicts in the biographies.

    A causal model predicts them from the text before, a bidirectional one word by word from all
    other text.

    Returns: `whole` (every token right) and `first` (the first token right), by attribute. For a
      bidirectional model also `hidden`, `whole` with more text hidden than the predicted word:
      - `name`: every full name, too;
      - `value`: all words of the value;
      - `values`: all words of all values, so that only the name identifies the person.
    """
    rows = context.corpus.texts
    whole, first = _recall_hits(context, rows)
    shares = {"whole": accuracy_by_attribute(whole), "first": accuracy_by_attribute(first)}
    if context.mask_token is None:
        return shares
    sample = rows.take(np.arange(0, len(rows), -(-len(rows) // _HIDDEN_TEXTS)))
    values = np.split(sample.value_spans, sample.value_spans.shape[1], axis=1)
    hits = {
        "name": _recall_hits(context, sample, context.mask_token)[0],
        "value": np.concatenate([_masked_hits(context, sample, v) for v in values], axis=1),
        "values": _masked_hits(context, sample, sample.value_spans),
    }
    return {**shares, "hidden": {name: accuracy_by_attribute(x) for name, x in hits.items()}}


def _recall_hits(
    context: Context, rows: TokenizedTexts, name_mask: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each value is predicted whole, and whether its first token is: (N, 6) bool both.

    Args:
      name_mask: a token that replaces the full names; None: they stay.
    """
    whole = np.ones(rows.value_spans.shape[:2], bool)
    first = None
    for which, examples in context.recall_examples(rows):
        if name_mask is not None:
            examples = _hide(examples, rows.name_spans[which], name_mask)
        word_hits, first_hits = spans.span_hits(context.shape, context.pretrained, examples)
        whole[which] &= word_hits
        first = first_hits if first is None else first  # of the first words
    assert first is not None  # every text has values
    return whole, first


def _masked_hits(context: Context, rows: TokenizedTexts, masked: np.ndarray) -> np.ndarray:
    """Whether each of the spans `masked` (N, S, 2), masked all at once, is predicted whole: (N, S)
    bool."""
    examples = span_examples(rows, masked, context.vocabulary, context.mask_token)
    return spans.span_hits(context.shape, context.pretrained, examples)[0]


def _hide(examples: SpanExamples, hidden: np.ndarray, mask_token: int) -> SpanExamples:
    """The examples with `mask_token` in the spans `hidden` (N, M, 2), counted from the start of a
    text."""
    positions = np.arange(examples.tokens.shape[1]) - 1
    inside = (hidden[..., :1] <= positions) & (positions < hidden[..., 1:])
    tokens = np.where(inside.any(1), np.int32(mask_token), examples.tokens)
    return dataclasses.replace(examples, tokens=tokens)
