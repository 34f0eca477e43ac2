"""Causal attention over a packed window; documents in it see each other, as in the paper.

Shapes in names: N = batch x heads, L length, M length of keys, K head width.
"""

import functools

import jax
import jax.numpy as jnp

from kstore_jax.model.matmul import dot, transposed


def attend(q_NxLxK: jax.Array, k_NxLxK: jax.Array, v_NxLxK: jax.Array, dtype: str) -> jax.Array:
    """Softmax attention, causal: (N, L, K) float32. `dtype`: of the inputs of the products."""
    return _attend(q_NxLxK * q_NxLxK.shape[-1] ** -0.5, k_NxLxK, v_NxLxK, jnp.dtype(dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(q, k, v, dtype):
    return _attend_forward(q, k, v, dtype)[0]


def _attend_forward(q, k, v, dtype):
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    length = q.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    scores_NxLxM = jnp.where(causal[None], dot(q, k, -1, dtype), jnp.finfo(jnp.float32).min)
    weights_NxLxM = jax.nn.softmax(scores_NxLxM, axis=-1).astype(dtype)
    out = dot(weights_NxLxM, v, -2, dtype)
    return out, (q, k, v, weights_NxLxM, out.astype(dtype))


def _attend_backward(dtype, saved, dout):
    q, k, v, weights, out = saved
    dout = dout.astype(dtype)
    dv = transposed(dot(transposed(dout), weights, -2, dtype))
    dweights = dot(dout, v, -1, dtype)
    row = (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    dscores = (weights.astype(jnp.float32) * (dweights - row)).astype(dtype)
    dq = dot(dscores, k, -2, dtype)
    dk = transposed(dot(transposed(q), dscores, -2, dtype))
    return dq, dk, dv


_attend.defvjp(_attend_forward, _attend_backward)
