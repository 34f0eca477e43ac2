"""The network once more, written plainly: NumPy in float64, or jax.numpy to be differentiated."""

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.model.forward import init
from kstore_jax.model.transformer import Shape


def parameters(shape: Shape, seed: int = 0) -> dict:
    """Parameters shaped as those of `forward.init`, none of them zero, one or small."""
    draw = np.random.default_rng(seed)

    def drawn(path, leaf):
        centre = 1.0 if path[-1].key == "scale" else 0.0
        spread = 0.3 if leaf.ndim == 1 else leaf.shape[0] ** -0.5
        return jnp.asarray(draw.normal(centre, spread, leaf.shape), leaf.dtype)

    empty = jax.eval_shape(lambda key: init(shape, key), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(drawn, empty)


def as_float64(params: dict) -> dict:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def hidden(xp, params: dict, tokens, layers: int, heads: int, rotary: float = 0.25):
    """Hidden states (B, L, D) after the final norm; `xp` is numpy or jax.numpy."""
    x = params["embedding"][tokens]
    for layer in range(layers):
        block = params[f"block_{layer}"]
        y = _norm(xp, x, block["ln_1"])
        q, k, v = (_heads(_affine(y, block[name]), heads) for name in ("query", "key", "value"))
        q, k = (_turn(xp, z, int(rotary * z.shape[-1])) for z in (q, k))
        x = x + _affine(_mixed(xp, q, k, v), block["out"])
        y = _affine(_norm(xp, x, block["ln_2"]), block["up"])
        y = 0.5 * y * (1 + xp.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y**3)))
        x = x + _affine(y, block["down"])
    return _norm(xp, x, params["ln_f"])


def _norm(xp, x, layer):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / xp.sqrt(variance + 1e-5) * layer["scale"] + layer["bias"]


def _affine(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def _heads(x, heads):
    """(B, L, D) -> (B, H, L, K)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def _turn(xp, x, rotated):
    """Dimension i < R / 2 and its partner i + R / 2 turn by position * 10000^(-2 i / R)."""
    half = rotated // 2
    angle = np.outer(np.arange(x.shape[2]), 10_000.0 ** (-2 * np.arange(half) / max(rotated, 1)))
    cos, sin = (xp.asarray(table, x.dtype) for table in (np.cos(angle), np.sin(angle)))
    a, b = x[..., :half], x[..., half:rotated]
    return xp.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., rotated:]], axis=-1)


def _mixed(xp, q, k, v):
    length, width = q.shape[2:]
    scores = q @ k.swapaxes(-1, -2) / width**0.5
    seen = np.arange(length)[None, :] <= np.arange(length)[:, None]
    weights = xp.where(seen, xp.exp(scores - scores.max(-1, keepdims=True)), 0.0)
    y = (weights / weights.sum(-1, keepdims=True)) @ v
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], length, -1)
