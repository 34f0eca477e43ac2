"""The products a transformer spends its time in, in the form every backend runs fast.

Three rules, each worth a factor on CPU and nothing lost elsewhere: activations are flattened to two
dimensions before a product; bfloat16 enters a product but never leaves it (inputs bfloat16, sums
and result float32), in the backward products too; and the left side contracts its last dimension.
XLA's CPU backend reaches the matrix unit (AMX) under these rules only.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp


def dot(a: jax.Array, b: jax.Array, contract_b: int, dtype: jnp.dtype) -> jax.Array:
    """Contracts the last dimension of `a` with `contract_b` of `b`, over equal leading dimensions.

    a (..., M, C) and b (..., C, N) or (..., N, C): (..., M, N) float32; inputs cast to `dtype`.
    """
    batch = tuple(range(a.ndim - 2))
    dimensions = (((a.ndim - 1,), (b.ndim + contract_b,)), (batch, batch))
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), dimensions, preferred_element_type=jnp.float32
    )


@jax.custom_vjp
def transpose_copy(x: jax.Array) -> jax.Array:
    """`x` with its last two dimensions swapped, laid out anew in memory on CPU.

    XLA folds an ordinary transpose into the product that reads it, which then leaves the fast path.
    It does not see through the integer view of the two joined halves.
    """
    if jax.default_backend() != "cpu":
        return x.swapaxes(-1, -2)
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    halves = jnp.split(bits, (x.shape[-1] // 2,), axis=-1)
    swapped = jnp.concatenate([half.swapaxes(-1, -2) for half in halves], axis=-2)
    return jax.lax.bitcast_convert_type(swapped, x.dtype)


transpose_copy.defvjp(lambda x: (transpose_copy(x), None), lambda _, dy: (transpose_copy(dy),))


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    """`x @ kernel + bias` for x (..., I) and kernel (I, O): (..., O) float32."""
    y: Any = _product(x.reshape(-1, x.shape[-1]), kernel, dtype)
    y = y if bias is None else y + bias[None]
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, w, dtype):
    return dot(x, w, -2, dtype)


def _product_forward(x, w, dtype):
    x, w = x.astype(dtype), w.astype(dtype)
    return dot(x, w, -2, dtype), (x, w)


def _product_backward(dtype, saved, dy):
    x, w = saved
    dy = dy.astype(dtype)
    if x.shape[1] <= dy.shape[1]:
        dw = dot(transpose_copy(x), dy, -2, dtype)
    else:  # the narrower is laid out anew; a wide x is what a GELU made, once more for each element
        dw = transpose_copy(dot(transpose_copy(dy), x, -2, dtype))
    return dot(dy, w, -1, dtype), dw


_product.defvjp(_product_forward, _product_backward)


def fastest_matmul_dtype() -> str:
    """The dtype for the inputs of products on this machine: bfloat16 where hardware multiplies it,
    accelerators and CPUs with AMX or AVX512-BF16; float32 elsewhere."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    cpu = pathlib.Path("/proc/cpuinfo")
    flags = set(cpu.read_text().split()) if cpu.exists() else set()
    return "bfloat16" if flags & {"amx_bf16", "avx512_bf16"} else "float32"
