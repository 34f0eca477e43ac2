"""Reads and writes model folders of Hugging Face. Here are their safetensors, in `hf_config.py` the
networks that their `config.json` describes."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kstore_jax.errors import UserError
from kstore_jax.model.config import Network
from kstore_jax.model.forward import Params, init
from kstore_jax.model.hf_config import (
    check_fields,
    layout_of,
    layouts_of,
    model_type_of,
    read_shape,
    to_config,
)
from kstore_jax.model.hf_layouts import HEAD_NAMES
from kstore_jax.model.transformer import Shape

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_BUFFERS = (".attn.bias", ".masked_bias", ".attention.bias", ".rotary_emb.inv_freq")  # of old files


def _tensor_paths(shape: Shape) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the name of each tensor of theirs, and the paths of our parameters in it."""
    name, layout = model_type_of(shape), layout_of(shape)
    ours = _flat_shapes(shape)
    modules = {layout.base + theirs: names for theirs, names in layout.outside.items()}
    for layer in range(shape.layers):
        for theirs, names in layout.modules.items():
            path = layout.base + layout.block.format(layer) + theirs
            modules[path] = tuple(f"block_{layer}/{module}" for module in names)
    for theirs, table in layout.tables.items():
        yield f"{layout.base}{theirs}.weight", (table,)
    for path, names in modules.items():
        for leaf, suffix in (("kernel", "weight"), ("scale", "weight"), ("bias", "bias")):
            if f"{names[0]}/{leaf}" in ours:
                yield f"{path}.{suffix}", tuple(f"{module}/{leaf}" for module in names)
    if not shape.tie_embeddings:
        yield f"{HEAD_NAMES.get(name, 'lm_head')}.weight", ("unembedding",)


def _flat_shapes(shape: Shape) -> dict[str, Any]:
    """Returns the arrays of a network by path, as `jax.ShapeDtypeStruct`."""
    return flatten_dict(jax.eval_shape(lambda key: init(shape, key), jax.random.key(0)), sep="/")


def to_tensors(shape: Shape, params: Params) -> dict[str, np.ndarray]:
    """Returns their tensors, float32, by name."""
    ours = flatten_dict(params, sep="/")
    return {
        theirs: np.ascontiguousarray(_pack(shape, [np.asarray(ours[path]) for path in paths]))
        if paths[0].endswith(("kernel", "bias"))
        else np.asarray(ours[paths[0]])
        for theirs, paths in _tensor_paths(shape)
    }


def _pack(shape: Shape, parts: list[np.ndarray]) -> np.ndarray:
    """Joins our kernels (inputs, outputs) or biases (outputs,) into one tensor of theirs."""
    transposed = layout_of(shape).transposed
    if len(parts) > 1 and transposed:  # GPT-NeoX: rows of query, key and value of each head
        per_head = [x.T.reshape(shape.heads, -1, *x.T.shape[1:]) for x in parts]
        return np.stack(per_head, axis=1).reshape(-1, *parts[0].T.shape[1:])
    joined = np.concatenate(parts, axis=-1)
    return joined.T if transposed else joined


def _unpack(shape: Shape, tensor: np.ndarray, parts: int) -> list[np.ndarray]:
    """The inverse of `_pack` for a tensor of so many parts."""
    transposed = layout_of(shape).transposed
    if parts > 1 and transposed:
        per_head = tensor.reshape(shape.heads, parts, -1, *tensor.shape[1:])
        return [per_head[:, i].reshape(-1, *tensor.shape[1:]).T for i in range(parts)]
    return np.split(tensor.T if transposed else tensor, parts, axis=-1)


def from_tensors(shape: Shape, tensors: dict[str, np.ndarray], where: str) -> Params:
    """Returns our parameters from their tensors, without a copy; `where` names the file in errors.

    Raises:
      UserError: a tensor is missing, has the wrong shape, or is not of this architecture.
    """
    layout = layout_of(shape)
    expected, params = _flat_shapes(shape), {}
    unread = dict(tensors)
    if "lm_head.weight" in unread and model_type_of(shape) == "gpt_neox":
        unread["embed_out.weight"] = unread.pop("lm_head.weight")
    for theirs, paths in _tensor_paths(shape):
        name = theirs if theirs in unread else theirs.removeprefix(layout.base)
        if name not in unread:
            raise UserError(f"{where}: {theirs}: missing")
        tensor = np.asarray(unread.pop(name), np.float32)
        packed = paths[0].endswith(("kernel", "bias"))
        try:
            parts = _unpack(shape, tensor, len(paths)) if packed else [tensor]
        except ValueError:
            parts = [tensor] * len(paths)
        for path, part in zip(paths, parts, strict=True):
            if part.shape != expected[path].shape:
                raise UserError(f"{where}: {theirs}: shape {tensor.shape} does not fit config.json")
            params[path] = part
    heads = ("lm_head.weight", "embed_out.weight") if shape.tie_embeddings else ()
    if extra := [name for name in unread if name not in heads and not name.endswith(_BUFFERS)]:
        raise UserError(f"{where}: {extra[0]}: no such tensor in our {model_type_of(shape)}")
    return unflatten_dict(params, sep="/")


def read(folder: pathlib.Path) -> tuple[Shape, Params]:
    """Returns the shape and the float32 parameters of the network in a folder.

    Raises:
      UserError: a file is missing, damaged or describes no network of ours.
    """
    shape, params = _read(folder)
    return shape, jax.tree.map(jnp.asarray, params)


def _read(folder: pathlib.Path) -> tuple[Shape, Params]:
    """`read` into the memory of the host, one tensor after another."""
    shape = read_shape(folder)
    tensors: dict[str, np.ndarray] = {}
    for path in _weights(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                tensors[name] = np.asarray(file.get_tensor(name), np.float32)
    return shape, from_tensors(shape, tensors, str(folder))


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    """A safetensors file; raises UserError where it is none."""
    try:
        with safe_open(path, framework="flax") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path}: not safetensors ({error})") from None


def _weights(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files that the index lists; without one `model.safetensors`; without it every
    safetensors file. The folder may hold the same weights in other formats."""
    index = folder / _INDEX
    if index.is_file():
        try:
            listed = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values()
            paths = sorted(folder / name for name in set(listed))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"{index}: expected a weight_map of tensors and files") from None
    elif (folder / _WEIGHTS).is_file():
        paths = [folder / _WEIGHTS]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise UserError(f"{folder}: no *.safetensors there")
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(f"{missing[0]}: no such file, though {_INDEX} lists it")
    return paths


def init_digest(network: Network, folder: pathlib.Path) -> str:
    """Returns a hash of the weights in a folder from which this network is to be trained; without
    weights, of nothing (`check_init` refuses such a folder).

    Raises:
      UserError: `model.init_from` holds no network, or one that differs in fields.
    """
    layouts_of(network)
    digest = hashlib.sha256()
    try:
        theirs = read_shape(folder)
        for path in _weights(folder) if has_weights(folder) else []:
            state = path.stat()
            digest.update(_file_digest(path, state.st_size, state.st_mtime_ns))
    except UserError as error:
        raise UserError(f"model.init_from: {error}") from None
    check_fields(vars(network), theirs, folder)
    return digest.hexdigest()


@functools.lru_cache  # rows of a sweep start from the same files
def _file_digest(path: pathlib.Path, size: int, changed_ns: int) -> bytes:
    """SHA-256 of a file of this size, changed at this time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def has_weights(folder: pathlib.Path) -> bool:
    """Whether a folder has weights, or an index of them."""
    return (folder / _INDEX).is_file() or any(folder.glob("*.safetensors"))


def check_init(folder: pathlib.Path, ids: np.ndarray) -> None:
    """Checks that `load_init` can read a folder, from the headers of its files.

    Raises:
      UserError: the folder lacks weights, or they do not fit its `config.json`, or its vocabulary
        ends before these ids.
    """
    shape = read_shape(folder)
    tensors = {}
    for path in _weights(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                tensors[name] = np.broadcast_to(np.float32(0), file.get_slice(name).get_shape())
    from_tensors(shape, tensors, str(folder))
    _check_ids(folder, shape, ids)


def load_init(folder: pathlib.Path, shape: Shape, ids: np.ndarray) -> Params:
    """Returns parameters of `shape` from a folder, in the memory of the host; token k is its token
    `ids[k]`.

    The rows beyond `ids` occur in no text. Where `ids` are all tokens, they are the folder's own
    rows; else, and beyond those, they are the mean of the table, so that the head finds them as
    likely as an average token.

    Raises:
      UserError: the folder's vocabulary ends before these ids.
    """
    theirs, params = _read(folder)
    _check_ids(folder, theirs, ids)
    if np.array_equal(ids, np.arange(len(ids))):
        ids = np.arange(max(len(ids), min(theirs.vocabulary, shape.vocabulary)))
    for name in {"embedding", "unembedding"}.intersection(params):
        table = params[name]
        mean = np.asarray(jnp.asarray(table).mean(0, keepdims=True))
        filling = np.tile(mean, (shape.vocabulary - len(ids), 1))
        params[name] = np.concatenate([table[ids], filling])
    return params


def _check_ids(folder: pathlib.Path, theirs: Shape, ids: np.ndarray) -> None:
    if ids.max() >= theirs.vocabulary:
        raise UserError(
            f"model.init_from: {folder} has {theirs.vocabulary} tokens, and the texts use token "
            f"{ids.max()}; it needs the tokenizer it was trained with (data.tokenizer), and, if "
            "exported from a compact vocabulary, texts of no other tokens"
        )


def write(
    folder: pathlib.Path, shape: Shape, params: Params, settings: dict, files: dict[str, str]
) -> None:
    """Writes a network as a folder that `from_pretrained` of transformers reads.

    The folder appears when it is whole. Parameters with an `unembedding` are written with
    `"tie_word_embeddings": false`, also where `lora.merge` made it of a tied embedding.

    Args:
      settings: more of `config.json`, such as the id of the end of text.
      files: name or path in the folder -> text of other files, such as `tokenizer.json`.

    Raises:
      UserError: Hugging Face has no such network, or `folder` exists and is not empty.
    """
    shape = dataclasses.replace(shape, tie_embeddings="unembedding" not in params)
    config = {**to_config(shape), **settings}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; give another --out")
    whole = folder.with_name(folder.name + ".writing")
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    for name, text in {"config.json": json.dumps(config, indent=1) + "\n", **files}.items():
        (whole / name).parent.mkdir(exist_ok=True)
        (whole / name).write_text(text, encoding="utf-8")
    save_file(to_tensors(shape, params), whole / _WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(whole / "config.json", whole / _WEIGHTS)  # safetensors sets 0600
    os.replace(whole, folder)
