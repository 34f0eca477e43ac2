"""Texts padded to one shape, with spans to predict: the input of finetuning and of readouts."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts, pad_texts
from kstore_jax.corpus.tokenizer import Vocabulary

_LENGTH_MULTIPLE = 8
"""Rows are padded to a multiple of this, so that few shapes are compiled."""


@dataclasses.dataclass(frozen=True)
class SpanExamples:
    """N texts with S spans each whose tokens are to be predicted.

    Attributes:
      tokens: (N, L) int32: the end of text, as in a packed window, the text, then padding.
      positions: (N, S, K) int32: the position from which token k of span s is predicted.
      targets: (N, S, K) int32: that token.
      weights: (N, S, K) float32: 1 for the tokens of a span, 0 for the padding up to K.
      lengths: (N,) int32: tokens of each row without padding.
    """

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: np.ndarray) -> "SpanExamples":
        """The texts in these rows; `rows` are indices or a mask."""
        columns = (getattr(self, field.name)[rows] for field in dataclasses.fields(self))
        return SpanExamples(*columns)


def until_end(tokens: np.ndarray, end: int) -> np.ndarray:
    """Returns the tokens (N,) before the first end of text."""
    ends = np.flatnonzero(tokens == end)
    return tokens[: ends[0]] if len(ends) else tokens


def padded_tokens(texts: TokenizedTexts, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Returns model tokens (N, L) int32 and the number of them without padding (N,) int32.

    Each row is the end of text, the text, and ends of text as padding up to L.
    """
    lengths = 1 + texts.lengths.astype(np.int32)
    padding = vocabulary.tokenizer.end_of_text
    return vocabulary.encode(pad_texts(texts, padded_length(lengths), padding)), lengths


def padded_length(lengths: np.ndarray) -> int:
    """Returns the length to which rows of these lengths are padded."""
    return -(-int(lengths.max()) // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE


def span_examples(
    texts: TokenizedTexts, spans: np.ndarray, vocabulary: Vocabulary, mask: int | None = None
) -> SpanExamples:
    """Returns texts and the tokens of their spans (N, S, 2), counted from the start of a row.

    Args:
      mask: None: each token is predicted from the position before it. A token: it replaces all
        tokens of the spans, and each is predicted from its own position.
    """
    tokens, lengths = padded_tokens(texts, vocabulary)
    starts, counts = spans[..., 0], spans[..., 1] - spans[..., 0]
    steps = np.arange(counts.max())
    inside = steps < counts[..., None]
    positions = np.where(inside, 1 + starts[..., None] + steps, 1)
    rows = np.arange(len(tokens))[:, None, None]
    targets = np.where(inside, tokens[rows, positions], 0)
    if mask is not None:
        tokens[np.broadcast_to(rows, inside.shape)[inside], positions[inside]] = mask
    return SpanExamples(
        tokens=tokens,
        positions=(positions - (mask is None)).astype(np.int32),
        targets=targets.astype(np.int32),
        weights=inside.astype(np.float32),
        lengths=lengths,
    )


def word_examples(
    texts: TokenizedTexts, spans: np.ndarray, vocabulary: Vocabulary, mask: int
) -> Iterator[tuple[np.ndarray, SpanExamples]]:
    """Yields, for k = 0, 1, ..., examples in which `mask` replaces word k of each span alone.

    Yields: the rows in which a span has a word k, and the examples of these rows; weights are 0 in
    spans without a word k.
    """
    unmasked = span_examples(texts, spans, vocabulary)
    begins, joins = vocabulary.word_bounds
    inside = unmasked.weights > 0
    no_token = np.zeros_like(inside[..., :1])
    joined = np.concatenate([no_token, joins[unmasked.targets[..., :-1]]], -1)
    word = np.where(inside, begins[unmasked.targets] | ~joined, False).cumsum(-1) - 1
    for k in range(int(word.max()) + 1):
        masked = inside & (word == k)
        rows = np.flatnonzero(masked.any((1, 2)))
        examples, masked = unmasked.take(rows), masked[rows]
        positions = examples.positions + 1
        lines = np.broadcast_to(np.arange(len(rows))[:, None, None], masked.shape)
        tokens = examples.tokens.copy()
        tokens[lines[masked], positions[masked]] = mask
        weights = masked.astype(np.float32)
        yield (
            rows,
            dataclasses.replace(examples, tokens=tokens, positions=positions, weights=weights),
        )
