"""Reads and writes model folders of Hugging Face: `config.json` and safetensors.

| ours | theirs | |
|---|---|---|
| GPT-2 with rotary positions (the paper's) | `gpt_neox` | sequential residual, `gelu_new`, tied |
| plain GPT-2 | `gpt2` | |
| Llama | `llama` | |
| Llama with grouped queries (Mistral) | `mistral` | without a sliding window |
| any of them, bidirectional | the same, with `"is_causal": false` | |

`is_causal` is a setting of recent transformers (compared with 5.23); older versions ignore it and
compute causal attention.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.flax import load_file
from safetensors.numpy import save_file

from kstore_jax.errors import UserError
from kstore_jax.model.base import ARCHITECTURES
from kstore_jax.model.config import Network
from kstore_jax.model.forward import Params, init
from kstore_jax.model.hf_layouts import HEAD_NAMES, HFLayout
from kstore_jax.model.transformer import Shape

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_NOT_IN_WEIGHTS = (  # they change no pretrained weight
    "dropout", "attention_dropout", "attention", "init_std", "dtype", "activation_dtype",
)  # fmt: skip
_BUFFERS = (".attn.bias", ".masked_bias", ".attention.bias", ".rotary_emb.inv_freq")  # of old files


def _layouts_of(network: Network) -> Mapping[str, HFLayout]:
    """Returns the layouts of a network's architecture; raises UserError where it has none."""
    architecture = ARCHITECTURES.of(network.architecture)
    if not architecture.hf_layouts or network.architecture != architecture.Config():
        raise UserError(
            "model.architecture: expected transformer for an exchange with Hugging Face, got "
            f"{architecture.name}"
        )
    return architecture.hf_layouts


def model_type_of(shape: Shape) -> str:
    """Returns the `model_type` that computes the same as a network of this shape.

    Raises:
      UserError: there is none.
    """
    layouts = _layouts_of(shape)

    def fits(name: str) -> bool:
        layout, grouped = layouts[name], shape.kv_heads < shape.heads
        same_style = all(getattr(shape, field) == value for field, value in layout.style.items())
        return same_style and (layout.grouped_queries or not grouped)

    matching = [name for name in layouts if fits(name) and shape.mlp_width >= 0]
    if "mistral" in matching and shape.kv_heads < shape.heads:
        return "mistral"
    if not matching:
        fields = ("positions", "rotary_pct", "norm", "activation", "bias", "num_kv_heads")
        fields += ("mlp_width",)
        values = ", ".join(f"{field} = {getattr(shape, field)!r}" for field in fields)
        raise UserError(f"model: none of {', '.join(layouts)} of Hugging Face has {values}")
    return matching[0]


def _layout_of(shape: Shape) -> HFLayout:
    return _layouts_of(shape)[model_type_of(shape)]


def to_config(shape: Shape) -> dict:
    """Returns the settings of `config.json` for a network."""
    name, layout = model_type_of(shape), _layout_of(shape)
    resolved = dataclasses.replace(shape, mlp_width=shape.resolved_mlp_width)
    config = {
        "architectures": [layout.architecture],
        "model_type": name,
        "vocab_size": shape.vocabulary,
        **{theirs: getattr(resolved, ours) for theirs, ours in layout.settings.items()},
        **{theirs: getattr(shape, ours) for theirs, ours in layout.dropouts.items()},
        **layout.always,
        "initializer_range": shape.init_std,
        "tie_word_embeddings": shape.tie_embeddings,
        "torch_dtype": "float32",
    }
    if shape.positions == "rotary":
        rope = {"rope_type": "default", "rope_theta": shape.rotary_base}
        if name == "gpt_neox":
            config |= {"rotary_pct": shape.rotary_pct, "rotary_emb_base": shape.rotary_base}
            rope["partial_rotary_factor"] = shape.rotary_pct
        else:
            config |= {"num_key_value_heads": shape.kv_heads, "rope_theta": shape.rotary_base}
        config["rope_parameters"] = rope  # read by transformers 5 and later
    if name == "llama":
        config |= {"attention_bias": shape.bias, "mlp_bias": shape.bias}
    if shape.direction == "bidirectional":
        config["is_causal"] = False
    return config


def from_config(config: dict, where: str) -> Shape:
    """Returns the network that a `config.json` describes; `where` names the file in errors.

    Raises:
      UserError: a setting is missing, or our network does not support its value.
    """
    name = config.get("model_type")
    owners = {kind: a for a in ARCHITECTURES.entries().values() for kind in a.hf_layouts}
    if name not in owners:
        raise UserError(f"{where}: model_type: expected one of {', '.join(owners)}, got {name!r}")
    layout = owners[name].hf_layouts[name]
    settings = {**layout.always, **layout.defaults, **config}

    def expect(setting: str, value, supported) -> None:
        if value != supported:
            raise UserError(f"{where}: {setting}: expected {supported!r}, got {value!r}")

    for setting, supported in layout.always.items():
        expect(setting, settings[setting], supported)
    for setting in ("vocab_size", *layout.settings):
        if setting not in settings:
            raise UserError(f"{where}: {setting}: missing")
        value, may_be_none = settings[setting], layout.defaults.get(setting, "") is None
        if not (may_be_none and value is None) and not _is_positive(value):
            raise UserError(f"{where}: {setting}: expected a number over 0, got {value!r}")
    fields = {
        **layout.style,
        **{ours: settings[theirs] for theirs, ours in layout.settings.items()},
    }
    fields["mlp_width"] = fields["mlp_width"] or 4 * fields["width"]
    if fields["positions"] == "rotary":
        rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
        expect("rope_type", rope.get("rope_type", rope.get("type", "default")), "default")
        base = settings.get("rope_theta", settings.get("rotary_emb_base", Network.rotary_base))
        fields["rotary_base"] = float(rope.get("rope_theta", base))
        rotary_pct = float(rope.get("partial_rotary_factor", settings.get("rotary_pct", 1.0)))
        expect("partial_rotary_factor", rotary_pct, fields.setdefault("rotary_pct", rotary_pct))
        kv_heads = settings.get("num_key_value_heads") or fields["heads"]
        fields["num_kv_heads"] = kv_heads if kv_heads != fields["heads"] else 0
        head_width = settings.get("head_dim") or fields["width"] // fields["heads"]
        expect("head_dim", head_width, fields["width"] // fields["heads"])
    if name == "llama":
        fields["bias"] = settings.get("attention_bias", False)
        expect("mlp_bias", settings.get("mlp_bias", False), fields["bias"])
    return Shape(
        architecture=owners[name].Config(),
        vocabulary=settings["vocab_size"],
        tie_embeddings=settings["tie_word_embeddings"],
        direction="causal" if settings.get("is_causal", True) else "bidirectional",
        **fields,
    )


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _tensor_paths(shape: Shape) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the name of each tensor of theirs, and the paths of our parameters in it."""
    name, layout = model_type_of(shape), _layout_of(shape)
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
    transposed = _layout_of(shape).transposed
    if len(parts) > 1 and transposed:  # GPT-NeoX: rows of query, key and value of each head
        per_head = [x.T.reshape(shape.heads, -1, *x.T.shape[1:]) for x in parts]
        return np.stack(per_head, axis=1).reshape(-1, *parts[0].T.shape[1:])
    joined = np.concatenate(parts, axis=-1)
    return joined.T if transposed else joined


def _unpack(shape: Shape, tensor: np.ndarray, parts: int) -> list[np.ndarray]:
    """The inverse of `_pack` for a tensor of so many parts."""
    transposed = _layout_of(shape).transposed
    if parts > 1 and transposed:
        per_head = tensor.reshape(shape.heads, parts, -1, *tensor.shape[1:])
        return [per_head[:, i].reshape(-1, *tensor.shape[1:]).T for i in range(parts)]
    return np.split(tensor.T if transposed else tensor, parts, axis=-1)


def from_tensors(shape: Shape, tensors: dict[str, np.ndarray], where: str) -> Params:
    """Returns our parameters from their tensors; `where` names the file in errors.

    Raises:
      UserError: a tensor is missing, has the wrong shape, or is not of this architecture.
    """
    layout = _layout_of(shape)
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
            params[path] = jnp.asarray(part)
    heads = ("lm_head.weight", "embed_out.weight") if shape.tie_embeddings else ()
    if extra := [name for name in unread if name not in heads and not name.endswith(_BUFFERS)]:
        raise UserError(f"{where}: {extra[0]}: no such tensor in our {model_type_of(shape)}")
    return unflatten_dict(params, sep="/")


def read_shape(folder: pathlib.Path) -> Shape:
    """Returns the shape of the network in a folder.

    Raises:
      UserError: `config.json` is missing or describes no network of ours.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected settings")
    try:
        return from_config(config, str(path))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: a setting is of another type than expected ({error})") from None


def read(folder: pathlib.Path) -> tuple[Shape, Params]:
    """Returns the shape and the float32 parameters of the network in a folder.

    Raises:
      UserError: a file is missing, damaged or describes no network of ours.
    """
    shape = read_shape(folder)
    tensors: dict[str, Any] = {}
    for path in _weights(folder):
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: not safetensors ({error})") from None
    return shape, from_tensors(shape, tensors, str(folder))


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
    """Returns a hash of the weights in a folder from which this network is to be trained.

    Raises:
      UserError: `model.init_from` holds no network, or one that differs in a field.
    """
    _layouts_of(network)
    try:
        theirs = read_shape(folder)
        digest = hashlib.sha256()
        for path in _weights(folder):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except UserError as error:
        raise UserError(f"model.init_from: {error}") from None
    ours = Shape.of(network, theirs.vocabulary)
    ours = dataclasses.replace(ours, mlp_width=ours.resolved_mlp_width)
    ignored = (
        *_NOT_IN_WEIGHTS,
        *(("rotary_pct", "rotary_base") if ours.positions == "learned" else ()),
    )
    ignored += ("max_positions",) if ours.positions == "rotary" else ()
    for field in dataclasses.fields(Network):
        own, expected = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name not in ignored and own != expected:
            raise UserError(
                f"model.{field.name}: expected {expected!r}, as in {folder / 'config.json'}, "
                f"got {own!r}"
            )
    return digest.hexdigest()


def load_init(folder: pathlib.Path, shape: Shape, ids: np.ndarray) -> Params:
    """Returns parameters of `shape` from a folder; token k is its token `ids[k]`.

    The rows beyond `ids`, which pad the vocabulary and occur in no text, are the mean of the
    table, so that the head finds them as likely as an average token.

    Raises:
      UserError: the folder's vocabulary ends before these ids.
    """
    theirs, params = read(folder)
    if ids.max() >= theirs.vocabulary:
        raise UserError(
            f"model.init_from: {folder} has {theirs.vocabulary} tokens, and the texts use token "
            f"{ids.max()}; it needs the tokenizer it was trained with (data.tokenizer), and, if "
            "exported from a compact vocabulary, texts of no other tokens"
        )
    for name in {"embedding", "unembedding"}.intersection(params):
        table = params[name]
        filling = jnp.tile(table.mean(0, keepdims=True), (shape.vocabulary - len(ids), 1))
        params[name] = jnp.concatenate([table[ids], filling])
    return params


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
