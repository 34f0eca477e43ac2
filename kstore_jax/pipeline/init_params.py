"""The parameters pretraining starts from: random, or a Hugging Face model."""

import pathlib

import tokenizers

from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.model import forward, hf_checkpoint
from kstore_jax.readouts.base import Context


def init_params(context: Context, init_from: str) -> forward.Params:
    """Parameters before the first step, drawn from the seed or read from the folder `init_from`.

    Raises:
      UserError: the folder's tokens are not the ones these texts use.
    """
    if not init_from:
        return forward.init(context.shape, context.key("init"))
    folder = pathlib.Path(init_from)
    if (tokenizer := folder / "tokenizer.json").is_file():
        _check_tokens(context.vocabulary, tokenizer)
    return hf_checkpoint.load_init(folder, context.shape, context.vocabulary.ids)


def _check_tokens(vocabulary: Vocabulary, path: pathlib.Path) -> None:
    """Raises UserError where a token of the vocabulary is another one in `path`."""
    try:
        theirs = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"model.init_from: {path}: not a tokenizer.json ({error})") from None
    for token in vocabulary.ids.tolist():
        here, there = vocabulary.tokenizer.backend.id_to_token(token), theirs.id_to_token(token)
        if here != there:
            raise UserError(
                f"data.tokenizer: its token {token} is {here!r}, and {there!r} in {path}, with "
                "which model.init_from was trained; set data.tokenizer to that file"
            )
