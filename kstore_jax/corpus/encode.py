"""Pieces -> token ids and spans, vectorised: no Python loop over biographies.

Each piece of a language is tokenised once. The tokens of a text are the concatenation of the tokens
of its pieces, because no merge of a tokenizer crosses the boundary of a piece: `world/language.py`
sets boundaries only where GPT-2's pre-tokenizer splits, and other tokenizers are checked when they
are loaded.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from kstore_jax.corpus.tokenizer import Tokenizer, Vocabulary
from kstore_jax.world.biographies import Biographies
from kstore_jax.world.language import NAME, PERSON, PRONOUN, Language, Texts
from kstore_jax.world.people import People
from kstore_jax.world.questions import Questions

SPAN_DTYPE = np.int16
"""Type of spans: token offsets from the start of a row."""
_PIECES_AT_A_TIME = 1 << 16  # whose encodings of the tokenizer are in memory


def ragged_indices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the concatenated ranges `starts[i], ..., starts[i] + lengths[i] - 1` (int64)."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenTable:
    """The token ids of every piece of a language.

    Attributes:
      tokens: (pieces, W) the ids of each piece, padded with zeros.
      lengths: (pieces,) int32: the number of ids of each piece.
    """

    language: Language
    tokenizer: Tokenizer
    tokens: np.ndarray
    lengths: np.ndarray

    def join_tokens(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the concatenated ids (T,) of pieces of any shape, and the end of each piece in
        them, in that shape.

        Rows of `tokens` are written in order at full width, each over the padding of the row
        before: one copy of fixed size per piece, several times faster than a gather of single ids.
        """
        flat = pieces.ravel()
        width, itemsize = self.tokens.shape[1], self.tokens.itemsize
        count_dtype = np.int32 if flat.size * width < 2**31 else np.int64  # int32 is twice as fast
        ends = np.cumsum(self.lengths.take(flat), dtype=count_dtype)
        total = int(ends[-1]) if len(ends) else 0
        out = np.empty(total + width, self.tokens.dtype)
        row_dtype = np.dtype((np.void, width * itemsize))
        rows_at = np.ndarray((total + 1,), row_dtype, out, strides=(itemsize,))
        starts = np.concatenate([[0], ends[:-1]])[: len(flat)]
        rows_at[starts] = self.tokens.view(row_dtype)[:, 0].take(flat)
        return out[:total], ends.reshape(pieces.shape)


@functools.cache
def token_table(language: Language, tokenizer: Tokenizer) -> TokenTable:
    """Tokenises every piece of a language, once per process."""
    pieces, lengths, ids = language.pieces, [], []
    for start in range(0, len(pieces), _PIECES_AT_A_TIME):
        encoded = tokenizer.encode(pieces[start : start + _PIECES_AT_A_TIME])
        lengths.append(np.array([len(of_piece) for of_piece in encoded], np.int32))
        ids.append(np.fromiter(itertools.chain.from_iterable(encoded), tokenizer.dtype))
    lengths = np.concatenate(lengths)
    tokens = np.zeros((len(lengths), lengths.max()), tokenizer.dtype)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = np.concatenate(ids)
    return TokenTable(language, tokenizer, tokens, lengths)


@dataclasses.dataclass(frozen=True)
class TokenizedTexts:
    """B texts as rows of tokens.

    Attributes:
      tokens: (T,) unsigned: the tokenizer's ids of all rows, concatenated.
      offsets: (B + 1,) int64; row b is `tokens[offsets[b] : offsets[b + 1]]`.
      value_spans: (B, A, 2) start and end of the value of each attribute, from the start of the
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
        """(B,) int64: tokens of each row."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "TokenizedTexts":
        """The texts in these rows; `rows` are indices."""
        lengths = self.lengths[rows]
        return TokenizedTexts(
            tokens=self.tokens[ragged_indices(self.offsets[rows], lengths)],
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            value_spans=self.value_spans[rows],
            name_spans=self.name_spans[rows],
        )


def without_spans(tokens: np.ndarray, lengths: np.ndarray) -> TokenizedTexts:
    """Returns texts without spans from concatenated tokens (T,) and the length of each row (B,)."""
    no_spans = np.empty((len(lengths), 0, 2), SPAN_DTYPE)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return TokenizedTexts(tokens, offsets, no_spans, no_spans)


def concatenate(several: Sequence[TokenizedTexts]) -> TokenizedTexts:
    """Returns the rows of several `TokenizedTexts` in order, without spans."""
    lengths = np.concatenate([texts.lengths for texts in several])
    return without_spans(np.concatenate([texts.tokens for texts in several]), lengths)


def encode_biographies(table: TokenTable, biographies: Biographies) -> TokenizedTexts:
    """Returns tokens and spans of biographies; `value_spans[:, a]` is the span of attribute a."""
    texts = encode_pieces(table, biographies.texts)
    by_attribute = np.empty_like(texts.value_spans)
    first = np.arange(len(by_attribute))[:, None] * by_attribute.shape[1]
    by_attribute.reshape(-1, 2)[first + biographies.order] = texts.value_spans
    return dataclasses.replace(texts, value_spans=by_attribute)


def encode_questions(table: TokenTable, questions: Questions) -> TokenizedTexts:
    """Returns tokens and spans of questions with their answers."""
    return encode_pieces(table, questions.texts)


def encode_pieces(table: TokenTable, texts: Texts) -> TokenizedTexts:
    """Returns tokens and spans of texts; `value_spans[:, s]` is the span of sentence s's value."""
    tokens, ends = table.join_tokens(texts.pieces)
    offsets = np.concatenate([[0], ends[:, -1]])

    def spans(first_slots: np.ndarray, last_slots: np.ndarray) -> np.ndarray:
        starts = ends[:, first_slots] - table.lengths.take(texts.pieces[:, first_slots])
        both = np.stack([starts, ends[:, last_slots]], axis=-1)
        return (both - offsets[:-1, None, None]).astype(SPAN_DTYPE)

    last_parts = texts.name_slots + len(table.language.name_offsets) - 1
    return TokenizedTexts(
        tokens=tokens,
        offsets=offsets,
        value_spans=spans(texts.value_slots, texts.value_slots + table.language.schema.chunks - 1),
        name_spans=spans(texts.name_slots, last_parts),
    )


def full_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Returns the vocabulary of all ids of a tokenizer."""
    return Vocabulary(tokenizer, np.arange(tokenizer.size))


def compact_vocabulary(table: TokenTable, people: People, reverse: bool = False) -> Vocabulary:
    """Returns the vocabulary of the ids that texts about these people can use.

    These are the ids of all templates and questions, and of the names and values of these people.
    All variants share them; `reverse` adds the texts that say "the person".
    """
    language = table.language
    references = (PRONOUN, NAME, PERSON) if reverse else (PRONOUN, NAME)
    names, values = people.names + language.name_offsets, language.value_pieces(people.values)
    pieces = [language.forms[:, :, references], language.questions, names, values]
    pieces += [language.closing] * reverse
    for name, (starts, members) in language.pools.accepted.items():
        of = people.values[:, language.schema.names.index(name)]
        single = members[ragged_indices(starts[of], starts[of + 1] - starts[of])]
        pieces.append(single + language.value_offsets[language.schema.names.index(name)])
    used, _ = table.join_tokens(np.unique(np.concatenate([part.ravel() for part in pieces])))
    ids = np.union1d(used.astype(np.int64), [table.tokenizer.end_of_text])
    return Vocabulary(table.tokenizer, ids)


def pad_texts(texts: TokenizedTexts, length: int, padding: int) -> np.ndarray:
    """Returns all rows as (B, length): one token `padding`, the row, then `padding`."""
    out = np.full((len(texts), length), padding, texts.tokens.dtype)
    lengths = texts.lengths
    rows = np.repeat(np.arange(len(texts)), lengths)
    out[rows, 1 + ragged_indices(np.zeros_like(lengths), lengths)] = texts.tokens
    return out
