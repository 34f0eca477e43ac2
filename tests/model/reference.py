"""The network once more, written plainly: NumPy in float64, or jax.numpy to be differentiated."""

import math

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


def hidden(xp, params: dict, tokens, layers: int, heads: int):
    """`outputs` of a network of another size than the default, else alike."""
    vocabulary, width = params["embedding"].shape
    sizes = {"layers": layers, "heads": heads, "width": width}
    return outputs(xp, params, tokens, Shape(vocabulary=vocabulary, **sizes))


def outputs(xp, params: dict, tokens, shape: Shape):
    """Hidden states (B, L, D) after the final norm; `xp` is numpy or jax.numpy."""
    return _norm(xp, inside(xp, params, tokens, shape)[0][-1], params["ln_f"], shape)


def inside(xp, params: dict, tokens, shape: Shape, replaced: dict | None = None):
    """The residual stream (B, L, D) after the embedding and after each block, and the attention
    weights (B, H, L, L) of each block.

    Args:
      replaced: point of the residual stream -> a function that is applied to it there.
    """
    change = dict.fromkeys(range(shape.layers + 1), lambda x: x) | (replaced or {})
    x = params["embedding"][tokens]
    head_width = shape.head_width or shape.width // shape.heads
    rotated = int(shape.rotary_pct * head_width)
    if shape.positions == "learned":
        x, rotated = x + params["positions"][: x.shape[1]], 0
    residual, patterns = [change[0](x)], []
    for layer in range(shape.layers):
        x = residual[-1]
        block = params[f"block_{layer}"]
        y = _norm(xp, x, block["ln_1"], shape)
        q, k, v = (
            _heads(_affine(y, block[name]), head_width) for name in ("query", "key", "value")
        )
        if shape.qk_norm:
            q, k = (_norm(xp, z, block[f"{n}_norm"], shape) for z, n in ((q, "query"), (k, "key")))
        q, k = (_turn(xp, z, rotated, shape) for z in (q, k))
        patterns.append(_weights(xp, q, k, shape.direction == "causal"))
        read, x = x, x + _affine(_mixed(patterns[-1], v), block["out"])
        if shape.mlp_width < 0:
            residual.append(change[layer + 1](x))
            continue
        y = _norm(xp, read if shape.parallel_residual else x, block["ln_2"], shape)
        x = x + _affine(_inner(xp, y, block, shape), block["down"])
        residual.append(change[layer + 1](x))
    return residual, patterns


def _inner(xp, y, block, shape):
    up = _affine(y, block["up"])
    if shape.activation == "gelu":
        return 0.5 * up * (1 + xp.tanh((2 / np.pi) ** 0.5 * (up + 0.044715 * up**3)))
    if shape.activation == "gelu_exact":
        return 0.5 * up * (1 + _erf(xp)(up / 2**0.5))
    gate = _affine(y, block["gate"])
    return gate / (1 + xp.exp(-gate)) * up


def _erf(xp):
    return np.vectorize(math.erf) if xp is np else jax.scipy.special.erf


def _norm(xp, x, layer, shape):
    centred = x - x.mean(-1, keepdims=True) if shape.norm == "layer" else x
    variance = (centred**2).mean(-1, keepdims=True)
    return _affine(centred / xp.sqrt(variance + shape.norm_epsilon), layer)


def _affine(x, layer):
    """A product with `kernel`, or elementwise with `scale`, and the bias where there is one."""
    y = x @ layer["kernel"] if "kernel" in layer else x * layer["scale"]
    return y + layer["bias"] if "bias" in layer else y


def _heads(x, width):
    """(B, L, H K) -> (B, H, L, K)."""
    return x.reshape(*x.shape[:2], -1, width).transpose(0, 2, 1, 3)


def _turn(xp, x, rotated, shape):
    """Dimension i < R / 2 and its partner i + R / 2 turn by position * base^(-2 i / R), in Llama 3
    more slowly where a turn is long."""
    half = rotated // 2
    speed = [shape.rotary_base ** (-2 * i / max(rotated, 1)) for i in range(half)]
    angle = np.outer(np.arange(x.shape[2]), [_slowed(s, shape) for s in speed])
    cos, sin = (xp.asarray(table, x.dtype) for table in (np.cos(angle), np.sin(angle)))
    a, b = x[..., :half], x[..., half:rotated]
    return xp.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., rotated:]], axis=-1)


def _slowed(speed, shape):
    """A speed whose turn is over P / low positions is divided by the factor; one whose turn is
    under P / high positions stays; between them the share changes with 1 / turn."""
    turn, positions = 2 * math.pi / speed, shape.rotary_original_positions
    low, high = shape.rotary_low_freq, shape.rotary_high_freq
    if turn < positions / high:
        return speed
    if turn > positions / low:
        return speed / shape.rotary_factor
    share = (positions / turn - low) / (high - low)
    return (1 - share) * speed / shape.rotary_factor + share * speed


def _weights(xp, q, k, causal):
    """Head h of q reads head h // group of k."""
    length, width = q.shape[2:]
    shared = np.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    scores = q @ k[:, shared].swapaxes(-1, -2) / width**0.5
    weights = xp.exp(scores - scores.max(-1, keepdims=True))
    if causal:
        seen = np.arange(length)[None, :] <= np.arange(length)[:, None]
        weights = xp.where(seen, weights, 0.0)
    return weights / weights.sum(-1, keepdims=True)


def _mixed(weights, v):
    """Head h reads head h // group of v."""
    heads, length = weights.shape[1:3]
    y = weights @ v[:, np.arange(heads) // (heads // v.shape[1])]
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], length, -1)
