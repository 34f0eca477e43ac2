"""The same kind of corpus as templates give, of biographies that somebody else wrote (bioR).

The texts come from the journal that `kstore rewrite` left in a folder; where names and values stand
in them is found by `world/matching.py`.
"""

import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np

from kstore_jax.corpus.encode import SPAN, PieceTokens, TokenRows
from kstore_jax.corpus.shards import Corpus, Part, entry_parts
from kstore_jax.errors import UserError
from kstore_jax.files import read_json
from kstore_jax.world import random
from kstore_jax.world.biographies import Variant
from kstore_jax.world.people import Pools, people
from kstore_jax.writers import journal, matching, prompts
from kstore_jax.writers.rewording import reworded

NAMES = 16  # occurrences of the full name that are kept of a text; where there are fewer, (0, 0)
FIELDS = ("person", "entry", "attempt", "refused", "text")
"""What a record of the journal holds: whose biography, which, at which attempt, why the text is not
kept (nothing where it is), and the text."""
_KEYS = 64


def sources(variant: Variant) -> int:
    """How many texts a person have to be written for a variant; the others are made from them."""
    return variant.entries if variant.reworded else 1


def check_variant(variant: Variant, written: str, field: str) -> None:
    """Raises UserError where a variant is not one that written texts can be brought into."""
    if variant.order == "couples" or variant.fresh or variant.name_at:
        raise UserError(
            f"{field}: {written!r} is of templates only; of rewritten biographies there are "
            "single[+permuteP][+fullname] and multiM[+permute][+fullname]"
        )


class Rewritten:
    """The texts that were kept of a journal.

    Raises:
      UserError: the folder holds no journal, or one about another world.
      DamagedFileError: a line of the journal is not as it was written.
    """

    def __init__(self, folder: pathlib.Path, pools: Pools, seed: int):
        if not (folder / journal.CONFIG).is_file():
            raise UserError(f"data.rewritten: {folder}: no journal here; kstore rewrite makes one")
        made = read_json(folder / journal.CONFIG)
        for field, here in (("seed", seed), ("pools", prompts.fingerprint(pools))):
            if made.get(field) != here:
                raise UserError(
                    f"data.rewritten: {folder}: written for another world ({field} differs)"
                )
        self.folder = folder
        self._pools, self._seed = pools, seed
        kept = []
        for offset, record in journal.records(folder / journal.JOURNAL, FIELDS):
            if not record["refused"]:
                digest = hashlib.blake2b(record["text"].encode(), digest_size=8).digest()
                mark = int.from_bytes(digest, "little", signed=True)
                kept.append((record["person"], record["entry"], offset, mark))
        columns = np.array(kept, np.int64).reshape(-1, 4)
        order = np.lexsort((columns[:, 1], columns[:, 0]))
        self._person, self._entry, self._offset, self._mark = columns[order].T

    def _rows(self, first: int, size: int, count: int) -> np.ndarray:
        """(size, count): the rows of the first `count` texts of these people.

        Raises:
          UserError: some of them are not there.
        """
        here = (self._person >= first) & (self._person < first + size) & (self._entry < count)
        rows = np.flatnonzero(here)
        if len(rows) != size * count:
            raise UserError(
                f"data.rewritten: {self.folder}: holds {len(rows):,} of {size * count:,} texts; "
                "kstore rewrite goes on"
            )
        return rows.reshape(size, count)

    def fingerprint(self, variant: Variant, first: int, size: int) -> str:
        """SHA-256 of the texts that a dataset is made of."""
        marks = self._mark[self._rows(first, size, sources(variant))]
        return hashlib.sha256(marks.tobytes()).hexdigest()

    def parts(self, table: PieceTokens, variant: Variant, first: int, size: int) -> list[Part]:
        """The parts of the dataset of all entries of people first .. first + size - 1."""
        rows = self._rows(first, size, sources(variant))
        return entry_parts(
            size * variant.entries,
            lambda entries: self._block(table, variant, first, rows, entries),
        )

    def about(self, table: PieceTokens, variant: Variant, person: int) -> Corpus:
        """All entries of one person."""
        rows = self._rows(person, 1, sources(variant))
        return self._block(table, variant, person, rows, np.arange(variant.entries))

    def _block(
        self,
        table: PieceTokens,
        variant: Variant,
        first: int,
        kept: np.ndarray,
        entries: np.ndarray,
    ) -> Corpus:
        """Some biographies of people `first` and following, numbered as in `biographies`."""
        person, entry = np.divmod(np.asarray(entries, np.int64), variant.entries)
        rows = kept[person, entry if variant.reworded else np.zeros_like(entry)]
        lowest = int(person[0])
        who = people(self._pools, self._seed, first + np.arange(lowest, int(person[-1]) + 1))
        told = prompts.facts(self._pools, who)
        about = [told[i - lowest] for i in person.tolist()]
        path = self.folder / journal.JOURNAL
        found = journal.read_at(path, self._offset[rows].tolist())
        texts = [
            self._in_variant(variant, facts, record["text"], int(number))
            for facts, record, number in zip(about, found, entry, strict=True)
        ]
        return Corpus(first + person, entry, encode_texts(table, self._pools, about, texts))

    def _in_variant(self, variant: Variant, who: prompts.Facts, text: str, entry: int) -> str:
        keys = None
        if variant.order == "permuted":
            numbers = np.arange(_KEYS)
            keys = random.bits(self._seed, "sentences", who.person, entry, numbers).tolist()
        if keys is None and not variant.fullname:
            return text
        return reworded(self._pools, who, text, keys, variant.fullname)


def encode_texts(
    table: PieceTokens, pools: Pools, about: list[prompts.Facts], texts: list[str]
) -> TokenRows:
    """Tokens and spans of texts, each after a space as every biography is.

    Raises:
      UserError: a text does not state what it is about.
    """
    backend = table.tokenizer.backend
    encoded = backend.encode_batch([f" {text}" for text in texts], add_special_tokens=False)
    values = np.zeros((len(texts), 6, 2), SPAN)
    names = np.zeros((len(texts), NAMES, 2), SPAN)
    for row, (who, text, tokens) in enumerate(zip(about, texts, encoded, strict=True)):
        found = matching.find(pools, text, who.name, who.values)
        if None in found.values:
            raise UserError(f"data.rewritten: a text about person {who.person} lacks a fact")
        starts, ends = np.array(tokens.offsets).T
        values[row] = _in_tokens(_with_space(text, found.values), starts, ends)
        named = found.names[:NAMES]
        names[row, : len(named)] = _in_tokens(_with_space(text, named), starts, ends)
    lengths = np.array([len(tokens.ids) for tokens in encoded], np.int64)
    flat = np.fromiter((i for e in encoded for i in e.ids), table.tokenizer.dtype, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return TokenRows(flat, offsets, values, names)


def _with_space(text: str, spans: Sequence[matching.Span]) -> np.ndarray:
    """Spans of a text as those of the text after a space, each with the space before it: what a
    value is among the pieces of a template."""
    return np.array(
        [(start + (text[start - 1 : start] not in ("", " ")), end + 1) for start, end in spans]
    )


def _in_tokens(spans: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Spans of characters (S, 2) as spans of the tokens that begin and end at these (T,)."""
    first = np.searchsorted(ends, spans[:, 0], side="right")
    last = np.searchsorted(starts, spans[:, 1], side="left")
    return np.stack([first, last], axis=1)
