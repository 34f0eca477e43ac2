"""A trained model that answers and recites."""

import dataclasses
import pathlib

import numpy as np

from kstore_jax.api.inside import Inside, Patches, run_inside
from kstore_jax.corpus.examples import until_end
from kstore_jax.corpus.tokenizer import Vocabulary, read_tokenizer
from kstore_jax.errors import UserError, shown, user_path
from kstore_jax.model import hf_checkpoint
from kstore_jax.model.forward import Params
from kstore_jax.model.sampling import continue_text, room
from kstore_jax.model.transformer import Shape
from kstore_jax.world.language import ANSWER_MARK


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model and its vocabulary.

    Attributes:
      name: of the row of its run, or of its folder.
      shape: the network.
      params: its parameters, with LoRA merged.
      vocabulary: its tokens.
    """

    name: str
    shape: Shape
    params: Params = dataclasses.field(repr=False)
    vocabulary: Vocabulary = dataclasses.field(repr=False)

    def tokens(self, text: str) -> np.ndarray:
        """Returns the tokens (L,) int32 of a text, after the end of text that begins each one.

        Raises:
          UserError: the vocabulary lacks a token of the text, because the model never read it.
        """
        tokenizer = self.vocabulary.tokenizer
        (ids,) = tokenizer.encode([text])
        tokens = self.vocabulary.lookup(np.array(ids, np.int64))
        if missing := [i for i, token in zip(ids, tokens, strict=True) if token < 0]:
            raise UserError(
                f"text: the model has no token {tokenizer.decode(missing[:1])!r}, which occurs in "
                "no text it was made for (data.vocabulary=full keeps every token)"
            )
        return np.concatenate([[self.vocabulary.end_of_text], tokens]).astype(np.int32)

    def generate(
        self, prompt: str, max_tokens: int = 80, temperature: float = 0.0, seed: int = 0
    ) -> str:
        """Returns the text that the model writes after a prompt, up to the end of text.

        Biographies begin with a space, so a prompt that is to begin one may leave it out.

        Args:
          prompt: the text before; empty: none.
          max_tokens: the most tokens to write.
          temperature: 0: the most likely token each time; 1: tokens drawn from the model's
            distribution.
          seed: of the drawn tokens.

        Raises:
          UserError: the model is bidirectional, or lacks a token of the prompt.
        """
        return self._continue(_as_read(prompt), max_tokens, temperature, seed)

    def ask(self, question: str, max_tokens: int = 32) -> str:
        """Returns the model's answer to a question, without the space before it.

        Raises:
          UserError: the model is bidirectional, or lacks a token of the question.
        """
        question = question.strip().removesuffix(ANSWER_MARK.strip()).strip()
        return self._continue(question + ANSWER_MARK, max_tokens, 0.0, 0).strip()

    def run(
        self,
        text: str | np.ndarray,
        hidden: bool = False,
        attention: bool = False,
        patch: Patches | None = None,
    ) -> Inside:
        """Returns what the model computes for each token of a text.

        Args:
          text: a text, as `generate` takes a prompt; a question ends with ` Answer:`. Or tokens
            (L,) int32, beginning with the end of text.
          hidden: whether to return the hidden states of every layer.
          attention: whether to return the attention patterns of every layer.
          patch: (where, positions) -> values (positions, D), or (D,) for one position, that replace
            the residual stream. `where` is `block_2` for the output of that block, or `embedding`.
            `positions` is an int, a range, a tuple of ints, or a slice (which is a key from Python
            3.12 on).

        Raises:
          UserError: the model lacks a token of the text, or a patch does not fit it.
        """
        if isinstance(text, str):
            tokens = self.tokens(_as_read(text))
        else:
            tokens, most = np.asarray(text), self.shape.vocabulary - 1
            if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
                raise UserError(f"text: expected a text or tokens (L,), got {shown(text)}")
            if tokens.min() < 0 or tokens.max() > most:
                raise UserError(f"text: expected tokens from 0 to {most}, got {shown(text)}")
        return run_inside(
            self.shape,
            self.params,
            self.vocabulary,
            tokens.astype(np.int32),
            hidden,
            attention,
            patch or {},
        )

    def _continue(self, prompt: str, max_tokens: int, temperature: float, seed: int) -> str:
        if self.shape.direction != "causal":
            raise UserError(f"{self.name}: a bidirectional model writes no text")
        if max_tokens < 1:
            raise UserError(f"max_tokens: expected at least 1, got {max_tokens}")
        tokens, end = self.tokens(prompt), self.vocabulary.end_of_text
        left = room(self.shape, len(tokens))
        if left is not None and max_tokens > left:
            expected = f"expected at most {left} after this prompt"
            raise UserError(f"max_tokens: {expected}, got {max_tokens}")
        options = end, self.vocabulary.size, max_tokens, temperature, seed
        written = continue_text(self.shape, self.params, tokens, *options)
        return self.vocabulary.decode(until_end(written, end))


def _as_read(text: str) -> str:
    """A text as the model read it: biographies begin with a space, questions do not."""
    return f" {text}" if text[:1].isalnum() and ANSWER_MARK not in text else text


def load_hf(folder: str | pathlib.Path) -> Model:
    """Returns the model in a folder of Hugging Face: `config.json`, safetensors and
    `tokenizer.json`.

    Raises:
      UserError: a file is missing, or no network here computes the same.
    """
    path = user_path(str(folder))
    shape, params = hf_checkpoint.read(path)
    tokenizer = read_tokenizer(path / "tokenizer.json")
    ids = np.unique([*tokenizer.backend.get_vocab().values()])  # the network may have fewer rows
    return Model(path.name, shape, params, Vocabulary(tokenizer, ids[ids < shape.vocabulary]))
