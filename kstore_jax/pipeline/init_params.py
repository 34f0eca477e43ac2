"""The parameters pretraining starts from: random, or a Hugging Face model."""

import pathlib

import tokenizers

from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.model import forward, hf_checkpoint
from kstore_jax.readouts.base import Context


def init_params(context: Context, init_from: str) -> forward.Params:
    """Parameters before the first step of pretraining.

    Args:
      init_from: the folder of a Hugging Face model; empty: drawn from the seed.

    Raises:
      UserError: the folder holds no such model, or its tokenizer has other ids for these texts.
    """
    if not init_from:
        return forward.init(context.shape, context.key("init"))
    folder = pathlib.Path(init_from)
    if (tokenizer := folder / "tokenizer.json").is_file():
        _check_tokens(context.vocabulary, tokenizer)
    return hf_checkpoint.load_init(folder, context.shape, context.vocabulary.ids)


def _check_tokens(vocabulary: Vocabulary, path: pathlib.Path) -> None:
    """Raises UserError where the tokenizer at `path` has another token at an id in use."""
    try:
        theirs = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"model.init_from: {path}: not a tokenizer.json ({error})") from None
    for token in vocabulary.ids.tolist():
        here, there = vocabulary.tokenizer.backend.id_to_token(token), theirs.id_to_token(token)
        if here != there:
            raise UserError(
                f"data.tokenizer: its token {token} is {here!r}, but {there!r} in {path}, the "
                "tokenizer of model.init_from; set data.tokenizer to that file"
            )
