"""Pieces -> token ids and spans, vectorised: no Python loop over biographies.

Each piece of a language is tokenised once. A biography's tokens are then those of its pieces,
joined, because a tokenizer's merges never cross the boundary of a piece (`world/language.py`
places boundaries only where GPT-2's pre-tokenizer splits; others are checked when loaded).
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from kstore_jax.corpus.tokenizer import Tokenizer, Vocabulary
from kstore_jax.world.biographies import Biographies
from kstore_jax.world.language import NAME, PERSON, PRONOUN, Language, Texts
from kstore_jax.world.people import People
from kstore_jax.world.questions import Questions

SPAN_DTYPE = np.int16  # of places inside a row


def ragged_indices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices `starts[0], starts[0] + 1, ...` of ranges of the given lengths, joined."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenTable:
    """The ids of every piece of a language.

    Attributes:
      tokens: (pieces, W) the ids of each piece, filled up with zeros.
      lengths: (pieces,) int32 how many ids each piece has.
    """

    language: Language
    tokenizer: Tokenizer
    tokens: np.ndarray
    lengths: np.ndarray

    def join_tokens(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a sequence of pieces (T,), and where each piece ends in them.

        Whole rows of `tokens` are written in order, each over the filling of the one before: one
        copy of fixed size a piece, several times faster than a gather of single ids.
        """
        flat = pieces.ravel()
        widest = flat.size * self.tokens.shape[1]
        counting = np.int32 if widest < 2**31 else np.int64  # twice as fast where it is enough
        ends = np.cumsum(self.lengths.take(flat), dtype=counting)
        total = int(ends[-1]) if len(ends) else 0
        width, item = self.tokens.shape[1], self.tokens.itemsize
        out = np.empty(total + width, self.tokens.dtype)
        row = np.dtype((np.void, width * item))
        places = np.ndarray((total + 1,), row, out, strides=(item,))
        starts = np.concatenate([[0], ends[:-1]])[: len(flat)]
        places[starts] = self.tokens.view(row)[:, 0].take(flat)
        return out[:total], ends.reshape(pieces.shape)


@functools.cache
def token_table(language: Language, tokenizer: Tokenizer) -> TokenTable:
    """Tokenises every piece of a language, once a process."""
    encoded = tokenizer.encode(language.pieces)
    lengths = np.array([len(ids) for ids in encoded], np.int32)
    tokens = np.zeros((len(encoded), lengths.max()), tokenizer.dtype)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = np.concatenate(encoded)
    return TokenTable(language, tokenizer, tokens, lengths)


@dataclasses.dataclass(frozen=True)
class TokenizedTexts:
    """B texts as tokens.

    Attributes:
      tokens: (T,) unsigned: the tokenizer's ids of all rows, joined.
      offsets: (B + 1,) int64; row b is `tokens[offsets[b] : offsets[b + 1]]`.
      value_spans: (B, 6, 2) start and end of the value of each attribute, from the start of the
        row; for questions (B, 1, 2), the answer; for other texts (B, 0, 2).
      name_spans: (B, M, 2) start and end of each occurrence of the full name.
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

    def take(self, which: np.ndarray) -> "TokenizedTexts":
        """Some of these rows, by their place here."""
        lengths = self.lengths[which]
        return TokenizedTexts(
            tokens=self.tokens[ragged_indices(self.offsets[which], lengths)],
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            value_spans=self.value_spans[which],
            name_spans=self.name_spans[which],
        )


def without_spans(tokens: np.ndarray, lengths: np.ndarray) -> TokenizedTexts:
    """Rows of the given lengths without spans."""
    nowhere = np.empty((len(lengths), 0, 2), SPAN_DTYPE)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return TokenizedTexts(tokens, offsets, nowhere, nowhere)


def concatenate(several: Sequence[TokenizedTexts]) -> TokenizedTexts:
    """All rows of several as one, without spans."""
    lengths = np.concatenate([rows.lengths for rows in several])
    return without_spans(np.concatenate([rows.tokens for rows in several]), lengths)


def encode_biographies(table: TokenTable, entries: Biographies) -> TokenizedTexts:
    """Tokens and spans of biographies; `value_spans[:, a]` is the span of attribute a."""
    rows = encode_pieces(table, entries.texts)
    by_attribute = np.empty_like(rows.value_spans)
    lines = np.arange(len(by_attribute))[:, None] * by_attribute.shape[1]
    by_attribute.reshape(-1, 2)[lines + entries.order] = rows.value_spans
    return dataclasses.replace(rows, value_spans=by_attribute)


def encode_questions(table: TokenTable, questions: Questions) -> TokenizedTexts:
    """Tokens and spans of questions with their answers."""
    return encode_pieces(table, questions.texts)


def encode_pieces(table: TokenTable, texts: Texts) -> TokenizedTexts:
    """Tokens and spans of texts; `value_spans[:, s]` is the span of the value of sentence s."""
    tokens, ends = table.join_tokens(texts.pieces)
    offsets = np.concatenate([[0], ends[:, -1]])

    def spans(first_slots: np.ndarray, last_slots: np.ndarray) -> np.ndarray:
        starts = ends[:, first_slots] - table.lengths.take(texts.pieces[:, first_slots])
        both = np.stack([starts, ends[:, last_slots]], axis=-1)
        return (both - offsets[:-1, None, None]).astype(SPAN_DTYPE)

    return TokenizedTexts(
        tokens=tokens,
        offsets=offsets,
        value_spans=spans(texts.value_slots, texts.value_slots),
        name_spans=spans(texts.name_slots, texts.name_slots + 2),
    )


def full_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Every id of the tokenizer."""
    return Vocabulary(tokenizer, np.arange(tokenizer.size))


def compact_vocabulary(table: TokenTable, who: People, reverse: bool = False) -> Vocabulary:
    """The tokens that texts about these people can use: all templates and questions, and the names
    and values of these people; the same for every variant, but for `reverse`, which adds those
    that say "the person"."""
    language = table.language
    kinds = (PRONOUN, NAME, PERSON) if reverse else (PRONOUN, NAME)
    names, values = who.names + language.name_offsets, who.values + language.value_offsets
    parts = [language.forms[:, :, kinds], language.questions, names, values]
    parts += [language.closing] * reverse
    used, _ = table.join_tokens(np.unique(np.concatenate([part.ravel() for part in parts])))
    ids = np.union1d(used.astype(np.int64), [table.tokenizer.end_of_text])
    return Vocabulary(table.tokenizer, ids)


def pad_texts(rows: TokenizedTexts, length: int, padding: int) -> np.ndarray:
    """All rows as (B, length): one padding token, the row, then padding."""
    out = np.full((len(rows), length), padding, rows.tokens.dtype)
    lengths = rows.lengths
    line = np.repeat(np.arange(len(rows)), lengths)
    out[line, 1 + ragged_indices(np.zeros_like(lengths), lengths)] = rows.tokens
    return out
