"""To and from the model folders of Hugging Face: `config.json` and safetensors.

| ours | theirs | |
|---|---|---|
| GPT-2 with rotary positions (the paper's) | `gpt_neox` | sequential residual, `gelu_new`, tied |
| plain GPT-2 | `gpt2` | |
| Llama | `llama` | |
| Llama with grouped queries (Mistral) | `mistral` | without a sliding window |
| any of them, bidirectional | the same, with `"is_causal": false` | |

`is_causal` is a setting of recent transformers (compared with 5.23): an older version does not know
it and would look back only.
"""

import dataclasses
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
from safetensors import SafetensorError
from safetensors.flax import load_file
from safetensors.numpy import save_file

from kstore_jax.errors import UserError
from kstore_jax.model.config import Network
from kstore_jax.model.forward import Params, init
from kstore_jax.model.hf_layouts import HEAD_NAMES, HF_LAYOUTS
from kstore_jax.model.transformer import Shape

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_OURS_ALONE = ("dropout", "attention", "init_std", "dtype")  # they change no pretrained weight
_BUFFERS = (".attn.bias", ".masked_bias", ".attention.bias", ".rotary_emb.inv_freq")  # of old files


def model_type_of(shape: Shape) -> str:
    """The `model_type` that computes what a network of this shape does.

    Raises:
      UserError: there is none.
    """

    def fits(name: str) -> bool:
        kind, grouped = HF_LAYOUTS[name], shape.kv_heads < shape.heads
        styled = all(getattr(shape, field) == value for field, value in kind.style.items())
        return styled and (kind.grouped_queries or not grouped)

    found = [name for name in HF_LAYOUTS if fits(name)]
    if "mistral" in found and shape.kv_heads < shape.heads:
        return "mistral"
    if not found:
        fields = ("positions", "rotary_pct", "norm", "activation", "bias", "num_kv_heads")
        described = ", ".join(f"{field} = {getattr(shape, field)!r}" for field in fields)
        raise UserError(f"model: none of {', '.join(HF_LAYOUTS)} of Hugging Face has {described}")
    return found[0]


def to_config(shape: Shape) -> dict:
    """What `config.json` says of a network."""
    name = model_type_of(shape)
    kind = HF_LAYOUTS[name]
    written_out = dataclasses.replace(shape, mlp_width=shape.resolved_mlp_width)
    config = {
        "architectures": [kind.architecture],
        "model_type": name,
        "vocab_size": shape.vocabulary,
        **{theirs: getattr(written_out, ours) for theirs, ours in kind.settings.items()},
        **dict.fromkeys(kind.dropouts, shape.dropout),
        **kind.always,
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
        config["rope_parameters"] = rope  # where versions of transformers from 5 on look for it
    if name == "llama":
        config |= {"attention_bias": shape.bias, "mlp_bias": shape.bias}
    if shape.direction == "bidirectional":
        config["is_causal"] = False
    return config


def from_config(config: dict, where: str) -> Shape:
    """The network that a `config.json` describes; `where` names it in errors.

    Raises:
      UserError: a setting is missing, or ours cannot be what it says.
    """
    name = config.get("model_type")
    if name not in HF_LAYOUTS:
        raise UserError(
            f"{where}: model_type: expected one of {', '.join(HF_LAYOUTS)}, got {name!r}"
        )
    kind = HF_LAYOUTS[name]
    given = {**kind.always, **kind.defaults, **config}

    def expect(setting: str, value, right) -> None:
        if value != right:
            raise UserError(f"{where}: {setting}: expected {right!r}, got {value!r}")

    for setting, right in kind.always.items():
        expect(setting, given[setting], right)
    for setting in ("vocab_size", *kind.settings):
        if setting not in given:
            raise UserError(f"{where}: {setting}: missing")
    fields = {**kind.style, **{ours: given[theirs] for theirs, ours in kind.settings.items()}}
    fields["mlp_width"] = fields["mlp_width"] or 4 * fields["width"]
    if fields["positions"] == "rotary":
        rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
        expect("rope_type", rope.get("rope_type", rope.get("type", "default")), "default")
        base = given.get("rope_theta", given.get("rotary_emb_base", Network.rotary_base))
        fields["rotary_base"] = float(rope.get("rope_theta", base))
        part = float(rope.get("partial_rotary_factor", given.get("rotary_pct", 1.0)))
        expect("partial_rotary_factor", part, fields.setdefault("rotary_pct", part))
        of_keys = given.get("num_key_value_heads") or fields["heads"]
        fields["num_kv_heads"] = of_keys if of_keys != fields["heads"] else 0
        head_width = given.get("head_dim") or fields["width"] // fields["heads"]
        expect("head_dim", head_width, fields["width"] // fields["heads"])
    if name == "llama":
        fields["bias"] = given.get("attention_bias", False)
        expect("mlp_bias", given.get("mlp_bias", False), fields["bias"])
    return Shape(
        vocabulary=given["vocab_size"],
        tie_embeddings=given["tie_word_embeddings"],
        direction="causal" if given.get("is_causal", True) else "bidirectional",
        **fields,
    )


def _sites(shape: Shape) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The name of each of their tensors, and the paths of ours that are in it."""
    name = model_type_of(shape)
    kind = HF_LAYOUTS[name]
    ours = _flat_shapes(shape)
    modules = {kind.base + theirs: part for theirs, part in kind.outside.items()}
    for layer in range(shape.layers):
        for theirs, part in kind.modules.items():
            path = kind.base + kind.block.format(layer) + theirs
            modules[path] = tuple(f"block_{layer}/{one}" for one in part)
    for theirs, part in kind.tables.items():
        yield f"{kind.base}{theirs}.weight", (part,)
    for path, part in modules.items():
        for leaf, suffix in (("kernel", "weight"), ("scale", "weight"), ("bias", "bias")):
            if f"{part[0]}/{leaf}" in ours:
                yield f"{path}.{suffix}", tuple(f"{one}/{leaf}" for one in part)
    if not shape.tie_embeddings:
        yield f"{HEAD_NAMES.get(name, 'lm_head')}.weight", ("unembedding",)


def _flat_shapes(shape: Shape) -> dict[str, Any]:
    """The arrays of a network by path, as `jax.ShapeDtypeStruct`."""
    return flatten_dict(jax.eval_shape(lambda key: init(shape, key), jax.random.key(0)), sep="/")


def to_tensors(shape: Shape, params: Params) -> dict[str, np.ndarray]:
    """Their tensors, float32, by name."""
    ours = flatten_dict(params, sep="/")
    return {
        theirs: np.ascontiguousarray(_pack(shape, [np.asarray(ours[path]) for path in paths]))
        if paths[0].endswith(("kernel", "bias"))
        else np.asarray(ours[paths[0]])
        for theirs, paths in _sites(shape)
    }


def _pack(shape: Shape, parts: list[np.ndarray]) -> np.ndarray:
    """Kernels (inputs, outputs) or biases (outputs,) as one of theirs."""
    turned = HF_LAYOUTS[model_type_of(shape)].turned
    if len(parts) > 1 and turned:  # for each head the query's rows, the key's, the value's
        per_head = [x.T.reshape(shape.heads, -1, *x.T.shape[1:]) for x in parts]
        return np.stack(per_head, axis=1).reshape(-1, *parts[0].T.shape[1:])
    joined = np.concatenate(parts, axis=-1)
    return joined.T if turned else joined


def _unpack(shape: Shape, tensor: np.ndarray, parts: int) -> list[np.ndarray]:
    turned = HF_LAYOUTS[model_type_of(shape)].turned
    if parts > 1 and turned:
        per_head = tensor.reshape(shape.heads, parts, -1, *tensor.shape[1:])
        return [per_head[:, i].reshape(-1, *tensor.shape[1:]).T for i in range(parts)]
    return np.split(tensor.T if turned else tensor, parts, axis=-1)


def from_tensors(shape: Shape, tensors: dict[str, np.ndarray], where: str) -> Params:
    """Our parameters from their tensors; `where` names the file in errors.

    Raises:
      UserError: a tensor is missing, has another shape, or belongs to no network of ours.
    """
    kind = HF_LAYOUTS[model_type_of(shape)]
    expected, found = _flat_shapes(shape), {}
    left = dict(tensors)
    if "lm_head.weight" in left and kind is HF_LAYOUTS["gpt_neox"]:
        left["embed_out.weight"] = left.pop("lm_head.weight")
    for theirs, paths in _sites(shape):
        name = theirs if theirs in left else theirs.removeprefix(kind.base)
        if name not in left:
            raise UserError(f"{where}: {theirs}: missing")
        tensor = np.asarray(left.pop(name), np.float32)
        inside = paths[0].endswith(("kernel", "bias"))
        try:
            parts = _unpack(shape, tensor, len(paths)) if inside else [tensor]
        except ValueError:
            parts = [tensor] * len(paths)
        for path, part in zip(paths, parts, strict=True):
            if part.shape != expected[path].shape:
                raise UserError(f"{where}: {theirs}: its shape {tensor.shape} is not config.json's")
            found[path] = jnp.asarray(part)
    heads = ("lm_head.weight", "embed_out.weight") if shape.tie_embeddings else ()
    if extra := [name for name in left if name not in heads and not name.endswith(_BUFFERS)]:
        raise UserError(f"{where}: {extra[0]}: no such tensor in our {model_type_of(shape)}")
    return unflatten_dict(found, sep="/")


def read_shape(folder: pathlib.Path) -> Shape:
    """The shape of the network in a folder.

    Raises:
      UserError: there is no such network there.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected settings")
    return from_config(config, str(path))


def read(folder: pathlib.Path) -> tuple[Shape, Params]:
    """The network in a folder, in float32.

    Raises:
      UserError: there is none of ours, or it is not whole.
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
    """The files that the index lists, or else the one file of all weights, or else every one: the
    same weights may lie beside them in another form."""
    index = folder / _INDEX
    if index.is_file():
        try:
            listed = set(json.loads(index.read_text())["weight_map"].values())
            paths = sorted(folder / name for name in listed)
        except (ValueError, KeyError, TypeError, AttributeError):
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
    """A hash of the weights in a folder, which training of this network may start from.

    Raises:
      UserError: `model.init_from` is not there, or a field differs from what it holds.
    """
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
        *_OURS_ALONE,
        *(("rotary_pct", "rotary_base") if ours.positions == "learned" else ()),
    )
    ignored += ("max_positions",) if ours.positions == "rotary" else ()
    for field in dataclasses.fields(Network):
        mine, there = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name not in ignored and mine != there:
            raise UserError(
                f"model.{field.name}: expected {there!r}, as in {folder / 'config.json'}, "
                f"got {mine!r}"
            )
    return digest.hexdigest()


def load_init(folder: pathlib.Path, shape: Shape, ids: np.ndarray) -> Params:
    """Parameters of `shape` from a folder; its token k is token `ids[k]` there.

    Tokens beyond those, which fill the vocabulary up and are in no text, are the mean token, which
    the head finds as likely as an average one.

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
    """Writes a network as a folder that `from_pretrained` of transformers reads, whole or not.

    Args:
      settings: more of `config.json`, such as the id that ends a text.
      files: what else goes there, by name, such as `tokenizer.json`.

    Raises:
      UserError: Hugging Face has no such network, or `folder` is there and is not empty.
    """
    config = {**to_config(shape), **settings}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; give another --out")
    whole = folder.with_name(folder.name + ".writing")
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    for name, text in {"config.json": json.dumps(config, indent=1) + "\n", **files}.items():
        (whole / name).write_text(text)
    save_file(to_tensors(shape, params), whole / _WEIGHTS, metadata={"format": "pt"})
    os.replace(whole, folder)
