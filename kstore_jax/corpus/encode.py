"""Pieces -> token ids and spans, vectorised: no Python loop over biographies.

Each piece of a language is tokenised once. A biography's tokens are then a ragged gather, because
byte-pair merges never cross the boundary of a piece (`world/language.py` places boundaries only
where GPT-2's pre-tokenizer splits).
"""

import dataclasses
import functools

import numpy as np

from kstore_jax.corpus.tokenizer import END_OF_TEXT, GPT2_SIZE, Vocabulary, gpt2
from kstore_jax.world.biographies import Entries
from kstore_jax.world.language import Language
from kstore_jax.world.people import People
from kstore_jax.world.questions import Questions


def ragged(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices `starts[0], starts[0] + 1, ...` of ranges of the given lengths, joined."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


@dataclasses.dataclass(frozen=True)
class PieceTokens:
    """GPT-2 ids of every piece: piece p is `tokens[starts[p] : starts[p] + lengths[p]]`."""

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def join(self, pieces: np.ndarray) -> np.ndarray:
        """The tokens (uint16) of a sequence of pieces."""
        flat = pieces.ravel()
        return self.tokens[ragged(self.starts[flat], self.lengths[flat])]


@functools.cache
def piece_tokens(language: Language) -> PieceTokens:
    """Tokenises every piece of a language, once a process."""
    encoded = [e.ids for e in gpt2().encode_batch(language.pieces)]
    lengths = np.array([len(ids) for ids in encoded])
    return PieceTokens(
        tokens=np.array([token for ids in encoded for token in ids], np.uint16),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
    )


@dataclasses.dataclass(frozen=True)
class TokenRows:
    """B texts as tokens.

    Attributes:
      tokens: (T,) uint16 GPT-2 ids of all rows, joined.
      offsets: (B + 1,) int64; row b is `tokens[offsets[b] : offsets[b + 1]]`.
      value_spans: (B, 6, 2) int64 start and end of the value of each attribute, from the start of
        the row; for questions (B, 1, 2), the answer.
      name_spans: (B, 6, 2) int64 start and end of the full name in each sentence, both -1 where
        there is none; for questions (B, 1, 2).
    """

    tokens: np.ndarray
    offsets: np.ndarray
    value_spans: np.ndarray
    name_spans: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def rows(self, which: np.ndarray) -> "TokenRows":
        """Some of these rows, by their place here."""
        lengths = self.lengths[which]
        return TokenRows(
            tokens=self.tokens[ragged(self.offsets[which], lengths)],
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            value_spans=self.value_spans[which],
            name_spans=self.name_spans[which],
        )


def encode_entries(language: Language, entries: Entries) -> TokenRows:
    """Tokens and spans of biographies; `value_spans[:, a]` is the span of attribute a."""
    rows = _encode(language, entries.pieces, entries.value_slots, entries.name_slots)
    by_attribute = np.empty_like(rows.value_spans)
    np.put_along_axis(by_attribute, entries.order[:, :, None], rows.value_spans, axis=1)
    return dataclasses.replace(rows, value_spans=by_attribute)


def encode_questions(language: Language, questions: Questions) -> TokenRows:
    """Tokens and spans of questions with their answers."""
    return _encode(
        language,
        questions.pieces[:, None],
        questions.value_slots[:, None],
        questions.name_slots[:, None],
    )


def _encode(language, pieces, value_slots, name_slots) -> TokenRows:
    """pieces (B, S, slots); value_slots, name_slots (B, S), the latter -1 where there is none."""
    table = piece_tokens(language)
    lengths = table.lengths[pieces]
    ends = np.cumsum(lengths.reshape(len(pieces), -1), axis=1).reshape(lengths.shape)
    starts = ends - lengths

    def at(array, slots):
        return np.take_along_axis(array, slots[:, :, None], axis=2)[:, :, 0]

    spans = np.stack([at(starts, value_slots), at(ends, value_slots)], axis=-1)
    named = np.maximum(name_slots, 0)
    names = np.stack([at(starts, named), at(ends, named + 2)], axis=-1)
    return TokenRows(
        tokens=table.join(pieces),
        offsets=np.concatenate([[0], np.cumsum(ends[:, -1, -1])]),
        value_spans=spans,
        name_spans=np.where((name_slots < 0)[:, :, None], -1, names),
    )


def full_vocabulary() -> Vocabulary:
    """GPT-2's 50257 tokens."""
    return Vocabulary(np.arange(GPT2_SIZE))


def compact_vocabulary(language: Language, who: People) -> Vocabulary:
    """The tokens that texts about these people can use: all templates and questions, and the names
    and values of these people; the same for every variant."""
    table = piece_tokens(language)
    literals = np.arange(int(language.names[0]))
    names = (who.names + language.names).ravel()
    values = (who.values + language.values).ravel()
    used = np.unique(table.join(np.concatenate([literals, np.unique(names), np.unique(values)])))
    return Vocabulary(np.union1d(used.astype(np.int64), [END_OF_TEXT]))


def padded(rows: TokenRows, length: int, padding: int) -> np.ndarray:
    """All rows as (B, length) uint16: one padding token, the row, then padding."""
    out = np.full((len(rows), length), padding, np.uint16)
    lengths = rows.lengths
    line = np.repeat(np.arange(len(rows)), lengths)
    out[line, 1 + ragged(np.zeros_like(lengths), lengths)] = rows.tokens
    return out
