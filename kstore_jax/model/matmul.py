"""Matrix products, in the form that every backend computes fast.

XLA's CPU backend reaches the matrix unit (AMX) only under three rules, which cost other backends
nothing:

1. Activations are flattened to two dimensions before a product.
2. Inputs of a product may be bfloat16; sums and results are float32, also in the backward pass.
3. The left side contracts its last dimension.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp


def dot(a: jax.Array, b: jax.Array, contract_b: int, dtype: jnp.dtype) -> jax.Array:
    """Contracts the last dimension of `a` with dimension `contract_b` of `b`, for each of their
    equal leading dimensions; returns float32.

    a (..., rows, I) and b (..., I, O), or (..., O, I) with `contract_b` -1: (..., rows, O). Both
    are cast to `dtype` first.
    """
    batch = tuple(range(a.ndim - 2))
    dimensions = (((a.ndim - 1,), (b.ndim + contract_b,)), (batch, batch))
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), dimensions, preferred_element_type=jnp.float32
    )


@jax.custom_vjp
def transpose_copy(x: jax.Array) -> jax.Array:
    """Swaps the last two dimensions of `x`; on a CPU by a copy in memory.

    XLA's CPU backend would fold an ordinary transpose into the product that reads it, which then
    misses the matrix unit. It does not fold this one: two halves, viewed as integers, joined.
    """
    if jax.default_backend() != "cpu":
        return x.swapaxes(-1, -2)
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    halves = jnp.split(bits, (x.shape[-1] // 2,), axis=-1)
    swapped = jnp.concatenate([half.swapaxes(-1, -2) for half in halves], axis=-2)
    return jax.lax.bitcast_convert_type(swapped, x.dtype)


transpose_copy.defvjp(lambda x: (transpose_copy(x), None), lambda _, dy: (transpose_copy(dy),))


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    """Returns `x @ kernel + bias` for x (..., I) and kernel (I, O): (..., O) float32."""
    y: Any = _product(x.reshape(-1, x.shape[-1]), kernel, dtype)
    y = y if bias is None else y + bias[None]
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, w, dtype) -> jax.Array:
    return dot(x, w, -2, dtype)


def _product_forward(x, w, dtype):
    x, w = x.astype(dtype), w.astype(dtype)
    return dot(x, w, -2, dtype), (x, w)


def _product_backward(dtype, saved, dy):
    x, w = saved
    dy = dy.astype(dtype)
    if x.shape[1] <= dy.shape[1]:
        dw = dot(transpose_copy(x), dy, -2, dtype)
    else:  # copies the narrower one: a copy of a wide x would compute its GELU once more
        dw = transpose_copy(dot(transpose_copy(dy), x, -2, dtype))
    return dot(dy, w, -1, dtype), dw


_product.defvjp(_product_forward, _product_backward)


def fastest_matmul_dtype() -> str:
    """Returns the fastest input dtype of matrix products on this machine: bfloat16 on accelerators
    and on CPUs with AMX or AVX512-BF16, else float32."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    cpu = pathlib.Path("/proc/cpuinfo")
    flags = set(cpu.read_text(encoding="utf-8").split()) if cpu.exists() else set()
    return "bfloat16" if flags & {"amx_bf16", "avx512_bf16"} else "float32"
