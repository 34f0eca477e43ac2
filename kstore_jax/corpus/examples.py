"""Rows of one text each, padded to one shape: what finetuning and every readout consume."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts, pad_texts
from kstore_jax.corpus.tokenizer import Vocabulary

_MULTIPLE = 8  # rows are padded to a multiple of this, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class SpanExamples:
    """N texts with S spans each whose tokens are to be predicted.

    Attributes:
      tokens: (N, L) int32; each row begins with the end of text, as in a packed window.
      positions: (N, S, K) int32: from where the k-th token of span s is predicted.
      targets: (N, S, K) int32: that token.
      weights: (N, S, K) float32: 1 for the tokens of the span, 0 for what fills it up to K.
      lengths: (N,) int32: how many of the L tokens are text.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, which: np.ndarray) -> "SpanExamples":
        """Some of the texts."""
        return SpanExamples(
            *(getattr(self, field.name)[which] for field in dataclasses.fields(self))
        )


def padded_tokens(rows: TokenizedTexts, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """All rows as (N, L) int32 model tokens: the end of text, the row, ends of text up to L; and
    how many of them are text, (N,) int32."""
    lengths = 1 + rows.lengths.astype(np.int32)
    length = -(-int(lengths.max()) // _MULTIPLE) * _MULTIPLE
    padding = vocabulary.tokenizer.end_of_text
    return vocabulary.encode(pad_texts(rows, length, padding)), lengths


def span_examples(
    rows: TokenizedTexts, spans: np.ndarray, vocabulary: Vocabulary, mask: int | None = None
) -> SpanExamples:
    """The texts of `rows` and the tokens in `spans` (N, S, 2), counted from the start of a row.

    Each token is predicted from the one before it, or from its own place where `mask`, a token,
    hides all of the spans.
    """
    tokens, lengths = padded_tokens(rows, vocabulary)
    starts, count = spans[..., 0], spans[..., 1] - spans[..., 0]
    steps = np.arange(count.max())
    inside = steps < count[..., None]
    places = np.where(inside, 1 + starts[..., None] + steps, 1)
    lines = np.arange(len(tokens))[:, None, None]
    targets = np.where(inside, tokens[lines, places], 0)
    if mask is not None:
        tokens[np.broadcast_to(lines, inside.shape)[inside], places[inside]] = mask
    return SpanExamples(
        tokens=tokens,
        positions=(places - (mask is None)).astype(np.int32),
        targets=targets.astype(np.int32),
        weights=inside.astype(np.float32),
        lengths=lengths,
    )


def word_examples(
    rows: TokenizedTexts, spans: np.ndarray, vocabulary: Vocabulary, mask: int
) -> Iterator[tuple[np.ndarray, SpanExamples]]:
    """For k = 0, 1, ...: the k-th word of each span hidden, all else in sight.

    Yields which rows have a span of so many words, and those rows; the weights of their other spans
    are 0.
    """
    shown = span_examples(rows, spans, vocabulary)
    begins, joins = vocabulary.word_bounds
    inside = shown.weights > 0
    before = np.concatenate([np.zeros_like(inside[..., :1]), joins[shown.targets[..., :-1]]], -1)
    word = np.where(inside, begins[shown.targets] | ~before, False).cumsum(-1) - 1
    for k in range(int(word.max()) + 1):
        hidden = inside & (word == k)
        which = np.flatnonzero(hidden.any((1, 2)))
        part, hidden = shown.take(which), hidden[which]
        places = part.positions + 1
        lines = np.broadcast_to(np.arange(len(which))[:, None, None], hidden.shape)
        tokens = part.tokens.copy()
        tokens[lines[hidden], places[hidden]] = mask
        weights = hidden.astype(np.float32)
        yield which, dataclasses.replace(part, tokens=tokens, positions=places, weights=weights)
