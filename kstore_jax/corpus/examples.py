"""Rows of one text each, padded to one shape: what finetuning and every readout consume."""

import dataclasses

import numpy as np

from kstore_jax.corpus.encode import TokenRows, padded
from kstore_jax.corpus.tokenizer import Vocabulary

_MULTIPLE = 8  # rows are padded to a multiple of this, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Spans:
    """N texts with S spans each whose tokens are to be predicted.

    Attributes:
      tokens: (N, L) int32; each row begins with the end of text, as in a packed window.
      positions: (N, S, K) int32: from where the k-th token of span s is predicted.
      targets: (N, S, K) int32: that token.
      weights: (N, S, K) float32: 1 for the tokens of the span, 0 for what fills it up to K.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, which: np.ndarray) -> "Spans":
        """Some of the texts."""
        return Spans(*(getattr(self, field.name)[which] for field in dataclasses.fields(self)))


def tokens_of(rows: TokenRows, vocabulary: Vocabulary) -> np.ndarray:
    """All rows as (N, L) int32 model tokens: the end of text, the row, ends of text up to L."""
    length = -(-(1 + int(rows.lengths.max())) // _MULTIPLE) * _MULTIPLE
    return vocabulary.encode(padded(rows, length, vocabulary.tokenizer.end_of_text))


def span_examples(rows: TokenRows, spans: np.ndarray, vocabulary: Vocabulary) -> Spans:
    """The texts of `rows` and the tokens in `spans` (N, S, 2), counted from the start of a row."""
    tokens = tokens_of(rows, vocabulary)
    starts, lengths = spans[..., 0], spans[..., 1] - spans[..., 0]
    steps = np.arange(lengths.max())
    inside = steps < lengths[..., None]
    positions = np.where(inside, starts[..., None] + steps, 0)
    lines = np.arange(len(tokens))[:, None, None]
    return Spans(
        tokens=tokens,
        positions=positions.astype(np.int32),
        targets=np.where(inside, tokens[lines, positions + 1], 0).astype(np.int32),
        weights=inside.astype(np.float32),
    )
