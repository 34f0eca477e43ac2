"""Where pretraining starts: drawn from a key, or a model of Hugging Face."""

import pathlib

import jax
import tokenizers

from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.model import forward, hf_checkpoint
from kstore_jax.model.transformer import Shape


def initial(init_from: str, shape: Shape, vocabulary: Vocabulary, key: jax.Array) -> forward.Params:
    """The parameters before the first step; from the folder `init_from` where it is given.

    Raises:
      UserError: the folder's tokens are others than these texts use.
    """
    if not init_from:
        return forward.init(shape, key)
    folder = pathlib.Path(init_from)
    own = folder / "tokenizer.json"
    if own.is_file():
        try:
            theirs = tokenizers.Tokenizer.from_file(str(own))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"model.init_from: {own}: not a tokenizer.json ({error})") from None
        for token in vocabulary.ids.tolist():
            here, there = vocabulary.tokenizer.backend.id_to_token(token), theirs.id_to_token(token)
            if here != there:
                raise UserError(
                    f"data.tokenizer: its token {token} is {here!r}, and {there!r} in {own}, with "
                    "which model.init_from was trained; set data.tokenizer to that file"
                )
    return hf_checkpoint.start_from(folder, shape, vocabulary.ids)
