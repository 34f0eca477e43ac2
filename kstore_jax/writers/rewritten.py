"""The corpus of biographies that another model wrote (bioR).

The texts come from the journal of `kstore rewrite`; `matching.py` finds the spans of names and
values in them.
"""

import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np

from kstore_jax.corpus.config import Data
from kstore_jax.corpus.encode import SPAN_DTYPE, TokenizedTexts, TokenTable
from kstore_jax.corpus.shards import Corpus, Part, entry_parts
from kstore_jax.errors import UserError
from kstore_jax.files import read_json
from kstore_jax.world import random
from kstore_jax.world.biographies import Variant
from kstore_jax.world.config import World
from kstore_jax.world.people import draw_people
from kstore_jax.world.pools import Pools
from kstore_jax.writers import journal, matching
from kstore_jax.writers.prompts import PersonFacts, person_facts, pools_fingerprint
from kstore_jax.writers.rewording import reword
from kstore_jax.writers.words import Span

MAX_NAMES = 16
"""Spans of the full name per text; the rest are left out, and missing ones are (0, 0)."""
RECORD_FIELDS = {"person": int, "entry": int, "attempt": int, "refused": list, "text": str}
"""Fields of a journal record. `refused`: why the text is rejected, empty where it is accepted."""
_SENTENCE_KEYS = 64
_SPANS_VERSION = b"3"  # of the rules in `matching.py`; raised when they find other spans


def texts_per_person(variant: Variant) -> int:
    """The number of texts that a variant needs for each person; it derives the others from them."""
    return variant.biographies_per_person if variant.reworded else 1


def check_rewritable(world: World, data: Data) -> None:
    """Raises UserError where rewritten texts cannot make the biographies of a configuration."""
    for field in ("variant", "celebrity_variant") if world.celebrities else ("variant",):
        written = getattr(data, field)
        variant = Variant.parse(written, f"data.{field}")
        if variant.order == "couples" or variant.fresh or variant.name_at:
            raise UserError(
                f"data.{field}: {written!r} exists for templates only; expected for rewritten "
                "biographies single[+permuteP][+fullname] or multiM[+permute][+fullname]"
            )
    if data.rewritten and data.tokenizer == "word":
        raise UserError("data.tokenizer: word has the words of templates only")


class RewrittenTexts:
    """The accepted texts of a journal.

    Raises:
      UserError: the folder has no journal, or the journal of another world.
      DamagedFileError: a line of the journal is damaged.
    """

    def __init__(self, folder: pathlib.Path, pools: Pools, seed: int):
        if not (folder / journal.CONFIG).is_file():
            raise UserError(f"data.rewritten: {folder}: no journal here; kstore rewrite makes one")
        config = read_json(folder / journal.CONFIG)
        for field, expected in (("seed", seed), ("pools", pools_fingerprint(pools))):
            if config.get(field) != expected:
                raise UserError(
                    f"data.rewritten: {folder}: written for another world ({field} differs)"
                )
        self.folder = folder
        self._pools, self._seed = pools, seed
        accepted = []
        for offset, record in journal.read_records(folder / journal.JOURNAL, RECORD_FIELDS):
            if not record["refused"]:
                digest = hashlib.blake2b(record["text"].encode(), digest_size=8).digest()
                number = int.from_bytes(digest, "little", signed=True)
                accepted.append((record["person"], record["entry"], offset, number))
        columns = np.array(accepted, np.int64).reshape(-1, 4)
        order = np.lexsort((columns[:, 1], columns[:, 0]))
        self._person, self._entry, self._offset, self._digest = columns[order].T

    def _rows(self, first: int, size: int, count: int) -> np.ndarray:
        """(size, count): the rows of the first `count` texts of people first .. first + size - 1.

        Raises:
          UserError: some of them are missing.
        """
        wanted = (self._person >= first) & (self._person < first + size) & (self._entry < count)
        rows = np.flatnonzero(wanted)
        if len(rows) != size * count:
            raise UserError(
                f"data.rewritten: {self.folder}: has {len(rows):,} of {size * count:,} texts; "
                "kstore rewrite requests the missing ones"
            )
        return rows.reshape(size, count)

    def fingerprint(self, variant: Variant, first: int, size: int) -> str:
        """SHA-256 of the texts that make the biographies of people first .. first + size - 1, and
        of the version of the rules for their spans."""
        digests = self._digest[self._rows(first, size, texts_per_person(variant))]
        return hashlib.sha256(_SPANS_VERSION + digests.tobytes()).hexdigest()

    def parts(self, table: TokenTable, variant: Variant, first: int, size: int) -> list[Part]:
        """The parts of the dataset of all entries of people first .. first + size - 1."""
        rows = self._rows(first, size, texts_per_person(variant))
        return entry_parts(
            size * variant.biographies_per_person,
            lambda entries: self._block(table, variant, first, rows, entries),
        )

    def person_corpus(self, table: TokenTable, variant: Variant, person: int) -> Corpus:
        """All entries of one person."""
        rows = self._rows(person, 1, texts_per_person(variant))
        return self._block(table, variant, person, rows, np.arange(variant.biographies_per_person))

    def _block(
        self,
        table: TokenTable,
        variant: Variant,
        first: int,
        rows: np.ndarray,
        entries: np.ndarray,
    ) -> Corpus:
        """Some biographies of people `first` and following.

        Args:
          rows: (people, texts_per_person) rows of the texts, from `_rows`.
          entries: ascending numbers of biographies, as for `shards.biography_block`.
        """
        person, entry = np.divmod(np.asarray(entries, np.int64), variant.biographies_per_person)
        text_rows = rows[person, entry if variant.reworded else np.zeros_like(entry)]
        lowest = int(person[0])
        ids = first + np.arange(lowest, int(person[-1]) + 1)
        by_person = person_facts(self._pools, draw_people(self._pools, self._seed, ids))
        facts = [by_person[i - lowest] for i in person.tolist()]
        path = self.folder / journal.JOURNAL
        records = journal.read_at(path, self._offset[text_rows].tolist(), RECORD_FIELDS)
        texts = [
            self._in_variant(variant, each, record["text"], int(number))
            for each, record, number in zip(facts, records, entry, strict=True)
        ]
        return Corpus(first + person, entry, encode_texts(table, self._pools, facts, texts))

    def _in_variant(self, variant: Variant, facts: PersonFacts, text: str, entry: int) -> str:
        keys = None
        if variant.order == "permuted":
            numbers = np.arange(_SENTENCE_KEYS)
            keys = random.bits(self._seed, "sentences", facts.person, entry, numbers).tolist()
        if keys is None and not variant.fullname:
            return text
        return reword(self._pools, facts, text, keys, variant.fullname)


def encode_texts(
    table: TokenTable, pools: Pools, facts: Sequence[PersonFacts], texts: Sequence[str]
) -> TokenizedTexts:
    """Tokens and spans of texts, one per person; every text begins with a space, like biographies
    from templates.

    Raises:
      UserError: a text does not state a fact of its person.
    """
    backend = table.tokenizer.backend
    encoded = backend.encode_batch([f" {text}" for text in texts], add_special_tokens=False)
    count = len(pools.schema.attributes)
    value_spans = np.zeros((len(texts), count, 2), SPAN_DTYPE)
    name_spans = np.zeros((len(texts), MAX_NAMES, 2), SPAN_DTYPE)
    for row, (person, text, tokens) in enumerate(zip(facts, texts, encoded, strict=True)):
        spans = matching.find_facts(pools, text, person.name, person.values)
        values = [span for span in spans.values if span is not None]
        if len(values) < count:
            raise UserError(
                f"data.rewritten: a text about person {person.person} lacks "
                f"{', '.join(spans.missing)}; without its line in {journal.JOURNAL}, kstore "
                "rewrite requests another one"
            )
        starts, ends = np.array(tokens.offsets).T
        value_spans[row] = _in_tokens(_with_space(text, values), starts, ends)
        names = spans.names[:MAX_NAMES]
        name_spans[row, : len(names)] = _in_tokens(_with_space(text, names), starts, ends)
    lengths = np.array([len(tokens.ids) for tokens in encoded], np.int64)
    tokens = np.fromiter((i for e in encoded for i in e.ids), table.tokenizer.dtype, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return TokenizedTexts(tokens, offsets, value_spans, name_spans)


def _with_space(text: str, spans: Sequence[Span]) -> np.ndarray:
    """(S, 2) spans of characters of ` text`, each including the space before it: a value among the
    pieces of a template includes it too."""
    return np.array(
        [(start + (text[start - 1 : start] not in ("", " ")), end + 1) for start, end in spans]
    )


def _in_tokens(spans: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(S, 2) spans of tokens that cover spans of characters (S, 2); the tokens begin and end at
    characters `starts` and `ends` (T,)."""
    first = np.searchsorted(ends, spans[:, 0], side="right")
    last = np.searchsorted(starts, spans[:, 1], side="left")
    return np.stack([first, last], axis=1)
