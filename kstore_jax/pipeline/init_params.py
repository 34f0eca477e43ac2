"""The network, the tokenizer and the parameters pretraining starts from: random, or those of a
Hugging Face model."""

import pathlib

import tokenizers

from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError, user_path
from kstore_jax.model import forward, hf_checkpoint
from kstore_jax.model.config import IN_FOLDER, Model
from kstore_jax.model.hf_config import check_fields, read_shape
from kstore_jax.readouts.base import Context


def fill_from_folder(values: dict) -> dict:
    """Returns the fields of an experiment with the network and the tokenizer of `model.init_from`
    where they are not set; without it, as they are, but a tokenizer of None has its default.

    Raises:
      UserError: the folder holds no network of ours, or fields that are set differ from it.
    """
    model, data = values.get("model"), values.get("data")
    if isinstance(data, dict) and data.get("tokenizer", "") is None:
        data = {name: value for name, value in data.items() if name != "tokenizer"}
        values = {**values, "data": data}
    if not isinstance(model, dict) or not isinstance(start := model.get("init_from"), str):
        return values
    given = Model.expand(model)
    is_complete = given.keys() >= {*IN_FOLDER} and "tokenizer" in (data or {})
    if not start or is_complete:
        return values
    try:
        folder = user_path(start)
        theirs = read_shape(folder)
    except UserError as error:
        raise UserError(f"model.init_from: {error}") from None
    check_fields(given, theirs, folder)
    values = {**values, "model": {**{name: getattr(theirs, name) for name in IN_FOLDER}, **given}}
    if (tokenizer := folder / "tokenizer.json").is_file() and isinstance(data, dict | None):
        values["data"] = {"tokenizer": str(tokenizer), **(data or {})}
    return values


def init_params(context: Context, init_from: str) -> forward.Params:
    """Parameters before the first step of pretraining.

    Args:
      init_from: the folder of a Hugging Face model; empty: drawn from the seed.

    Raises:
      UserError: the folder holds no such model, or its tokenizer has other ids for these texts.
    """
    if not init_from:
        return forward.init(context.shape, context.key("init"))
    _check_tokens(context.vocabulary, pathlib.Path(init_from))
    return hf_checkpoint.load_init(pathlib.Path(init_from), context.shape, context.vocabulary.ids)


def check_init(vocabulary: Vocabulary, init_from: str) -> None:
    """Raises UserError where `init_params` would; reads no weights."""
    _check_tokens(vocabulary, pathlib.Path(init_from))
    hf_checkpoint.check_init(pathlib.Path(init_from), vocabulary.ids)


def _check_tokens(vocabulary: Vocabulary, folder: pathlib.Path) -> None:
    """Raises UserError where the tokenizer in a folder has another token at an id in use."""
    if not (path := folder / "tokenizer.json").is_file():
        return
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
