"""`config.json` of Hugging Face: which network a folder describes.

| ours | theirs | |
|---|---|---|
| GPT-2 with rotary positions (the paper's) | `gpt_neox` | sequential residual, `gelu_new`, tied |
| GPT-NeoX (Pythia) | `gpt_neox` | parallel residual |
| plain GPT-2 | `gpt2` | |
| Llama, SmolLM | `llama` | also with Llama 3's rotary frequencies |
| Llama with grouped queries (Mistral) | `mistral` | texts no longer than its sliding window |
| Llama with biases of queries, keys and values | `qwen2` | without a sliding window |
| Llama with norms of queries and keys | `qwen3` | without a sliding window |
| any of them, bidirectional | the same, with `"is_causal": false` | |

`is_causal` is a setting of recent transformers (compared with 5.24); older versions ignore it and
compute causal attention.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from kstore_jax.errors import UserError
from kstore_jax.model.base import ARCHITECTURES
from kstore_jax.model.config import IN_FOLDER, Network
from kstore_jax.model.hf_layouts import HFLayout
from kstore_jax.model.transformer import Shape

_LLAMA3 = {  # of `rope_type` llama3: theirs -> ours
    "factor": "rotary_factor",
    "low_freq_factor": "rotary_low_freq",
    "high_freq_factor": "rotary_high_freq",
    "original_max_position_embeddings": "rotary_original_positions",
}
_OF_ROTARY = {"rotary_pct", "rotary_base", *_LLAMA3.values()}


def layouts_of(network: Network) -> Mapping[str, HFLayout]:
    """Returns the layouts of a network's architecture.

    Raises:
      UserError: it has none.
    """
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
    layouts, grouped = layouts_of(shape), shape.kv_heads < shape.heads
    if shape.resolved_head_width * shape.heads == shape.width:
        shape = dataclasses.replace(shape, head_width=0)

    def fits(layout: HFLayout) -> bool:
        same_style = all(getattr(shape, field) == value for field, value in layout.style.items())
        activations = layout.activations.values()
        return (
            same_style
            and shape.activation in activations
            and (layout.grouped_queries or not grouped)
        )

    matching = [n for n, layout in layouts.items() if fits(layout) and shape.mlp_width >= 0]
    if "mistral" in matching and (grouped or len(matching) == 1):
        return "mistral"
    if not matching:
        fields = (
            *("positions", "rotary_pct", "norm", "activation", "bias", "num_kv_heads"),
            *("head_width", "rotary_factor", "sliding_window", "parallel_residual"),
            *("qk_norm", "qkv_bias", "mlp_width"),
        )
        values = ", ".join(f"{field} = {getattr(shape, field)!r}" for field in fields)
        raise UserError(f"model: none of {', '.join(layouts)} of Hugging Face has {values}")
    return matching[0]


def layout_of(shape: Shape) -> HFLayout:
    """Returns the layout of a network; raises UserError where Hugging Face has none."""
    return layouts_of(shape)[model_type_of(shape)]


def to_config(shape: Shape) -> dict:
    """Returns the settings of `config.json` for a network."""
    name, layout = model_type_of(shape), layout_of(shape)
    resolved = dataclasses.replace(shape, mlp_width=shape.resolved_mlp_width)
    activation = next(a for a, ours in layout.activations.items() if ours == shape.activation)
    config = {
        "architectures": [layout.architecture],
        "model_type": name,
        "vocab_size": shape.vocabulary,
        **{theirs: getattr(resolved, ours) for theirs, ours in layout.settings.items()},
        **{theirs: getattr(shape, ours) for theirs, ours in layout.flags.items()},
        **{theirs: getattr(shape, ours) for theirs, ours in layout.dropouts.items()},
        **layout.always,
        layout.activation: activation,
        "initializer_range": shape.init_std,
        "tie_word_embeddings": shape.tie_embeddings,
        "torch_dtype": "float32",
    }
    if shape.positions == "rotary":
        config |= _rotary_settings(shape, layout)
    if "sliding_window" not in layout.style:
        config["sliding_window"] = shape.sliding_window or None
    if shape.direction == "bidirectional":
        config["is_causal"] = False
    return config


def _rotary_settings(shape: Shape, layout: HFLayout) -> dict:
    """The settings of heads and their rotary positions; `rope_parameters` is read by transformers 5
    and later, the others by earlier versions."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.rotary_base}
    if "rotary_pct" not in layout.style:
        rope["partial_rotary_factor"] = shape.rotary_pct
        old = {"rotary_pct": shape.rotary_pct, "rotary_emb_base": shape.rotary_base}
        return {**old, "rope_parameters": rope}
    config: dict[str, Any] = {
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.resolved_head_width,
        "rope_theta": shape.rotary_base,
    }
    if shape.rotary_factor > 1:
        rope |= {theirs: getattr(shape, ours) for theirs, ours in _LLAMA3.items()}
        config["rope_scaling"] = rope = {**rope, "rope_type": "llama3"}
    return {**config, "rope_parameters": rope}


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

    def expect(setting: str, value: Any, *supported: Any) -> None:
        if value not in supported:
            one_of = "one of " if len(supported) > 1 else ""
            expected = one_of + ", ".join(map(repr, supported))
            raise UserError(f"{where}: {setting}: expected {expected}, got {value!r}")

    def positive(setting: str, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            raise UserError(f"{where}: {setting}: expected a number over 0, got {value!r}")
        return value

    expect("quantization_config", settings.get("quantization_config"), None)
    for setting, supported in layout.always.items():
        expect(setting, settings[setting], supported)
    for setting in ("vocab_size", *layout.settings):
        if setting not in settings:
            raise UserError(f"{where}: {setting}: missing")
        if settings[setting] is not None or layout.defaults.get(setting, "") is not None:
            positive(setting, settings[setting])
    expect(layout.activation, settings[layout.activation], *layout.activations)
    fields = {
        **layout.style,
        **{ours: settings[theirs] for theirs, ours in layout.settings.items()},
        "activation": layout.activations[settings[layout.activation]],
    }
    for theirs, ours in layout.flags.items():
        supported = (fields[ours],) if ours in fields else (False, True)
        expect(theirs, settings[theirs], *supported)
        fields[ours] = bool(settings[theirs])
    fields["mlp_width"] = fields["mlp_width"] or 4 * fields["width"]
    if fields["positions"] == "rotary":
        fields |= _rotary_fields(settings, fields, expect, positive)
    if "sliding_window" not in layout.style:
        window = settings["sliding_window"]
        fields["sliding_window"] = 0 if window is None else positive("sliding_window", window)
    else:
        for kind in settings.get("layer_types") or ():
            expect("layer_types", kind, "full_attention")
    return Shape(
        architecture=owners[name].Config(),
        vocabulary=settings["vocab_size"],
        tie_embeddings=settings["tie_word_embeddings"],
        direction="causal" if settings.get("is_causal", True) else "bidirectional",
        **fields,
    )


def _rotary_fields(
    settings: dict, fields: dict, expect: Callable[..., None], positive: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """The fields of heads and their rotary positions."""
    rope = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    stretches = "rotary_factor" not in fields
    expect("rope_type", kind, "default", *(["llama3"] if stretches else []))
    turning = {}
    if kind == "llama3":
        turning = {ours: positive(theirs, rope.get(theirs)) for theirs, ours in _LLAMA3.items()}
        turning |= {name: float(turning[name]) for name in [*turning][:3]}
    base = settings.get("rope_theta", settings.get("rotary_emb_base", Network.rotary_base))
    turning["rotary_base"] = float(positive("rope_theta", rope.get("rope_theta", base)))
    whole = settings.get("partial_rotary_factor", settings.get("rotary_pct", 1.0))
    rotary_pct = float(rope.get("partial_rotary_factor", whole))
    expect("partial_rotary_factor", rotary_pct, fields.get("rotary_pct", rotary_pct))
    heads, width = fields["heads"], fields["width"]
    kv_heads = settings.get("num_key_value_heads") or heads
    head_width = settings.get("head_dim") or width // heads
    plain = head_width * heads == width
    if "head_width" in fields and not plain:
        expect("head_dim", head_width, width // heads)
    return {
        **turning,
        "rotary_pct": rotary_pct,
        "num_kv_heads": kv_heads if kv_heads != heads else 0,
        "head_width": 0 if plain else head_width,
    }


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


def check_fields(fields: Mapping[str, Any], theirs: Shape, folder: pathlib.Path) -> None:
    """Checks fields of a network against the folder it starts from.

    Args:
      fields: some of `IN_FOLDER`, and others, which are ignored.
      theirs: the network in `folder`.

    Raises:
      UserError: some differ; one line names all of them.
    """
    path = folder / "config.json"
    differing = [
        name for name in IN_FOLDER if name in fields and not _agrees(name, fields[name], theirs)
    ]
    lines = [
        f"model.{name}: expected {getattr(theirs, name)!r}"
        f"{'' if i else f', as in {path}'}, got {fields[name]!r}"
        for i, name in enumerate(differing)
    ]
    if lines:
        raise UserError("; ".join(lines))


_RESOLVED = {  # fields where 0 stands for a number that follows from others
    "mlp_width": "resolved_mlp_width",
    "num_kv_heads": "kv_heads",
    "head_width": "resolved_head_width",
}


def _agrees(name: str, value: Any, theirs: Shape) -> bool:
    """Whether a network with this field may start from `theirs`. A field that such a network does
    not read may have any value."""
    unread = _OF_ROTARY if theirs.positions == "learned" else {"max_positions"}
    if theirs.rotary_factor == 1:
        unread = unread | {"rotary_low_freq", "rotary_high_freq", "rotary_original_positions"}
    if name in unread:
        return True
    if name not in _RESOLVED:
        return value == getattr(theirs, name)
    try:
        resolved = value or getattr(dataclasses.replace(theirs, **{name: 0}), _RESOLVED[name])
    except UserError:  # it has to be set in this network
        return False
    return resolved == getattr(theirs, _RESOLVED[name])
