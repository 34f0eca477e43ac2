"""Matrix products, in the form that each backend computes fast.

XLA's CPU backend reaches the matrix unit (AMX) only under three rules:

1. Activations are flattened to two dimensions before a product.
2. Inputs of a product may be bfloat16; sums and results are float32, also in the backward pass.
3. The left side contracts its last dimension.

Accelerators are limited by memory: there activations are bfloat16 (`model.activation_dtype`), and
`dense` returns the dtype it gets. Sums are float32 in the matrix unit, and so are the gradients of
weights.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def dot(
    a: jax.Array, b: jax.Array, contract_b: int, dtype: jnp.dtype, out: Any = jnp.float32
) -> jax.Array:
    """Contracts the last dimension of `a` with dimension `contract_b` of `b`, for each of their
    equal leading dimensions; returns the dtype `out`.

    a (..., rows, I) and b (..., I, O), or (..., O, I) with `contract_b` -1: (..., rows, O). Both
    are cast to `dtype` first.
    """
    batch = tuple(range(a.ndim - 2))
    dimensions = (((a.ndim - 1,), (b.ndim + contract_b,)), (batch, batch))
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), dimensions, preferred_element_type=out
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
    """Returns `x @ kernel + bias` for x (..., I) and kernel (I, O): (..., O) in the dtype of x.

    Args:
      dtype: both are cast to it first; of a bfloat16 x it is bfloat16.
    """
    flat_x: Any = x.reshape(-1, x.shape[-1])
    if x.dtype == jnp.bfloat16:
        y: Any = _bfloat16_dense(flat_x, kernel, bias)
    else:
        y = _product(flat_x, kernel, dtype)
        y = y if bias is None else y + bias[None]
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _bfloat16_dense(x, w, bias) -> jax.Array:
    return _bfloat16_dense_forward(x, w, bias)[0]


def _bfloat16_dense_forward(x, w, bias):
    w = w.astype(x.dtype)
    y = dot(x, w, -2, x.dtype, x.dtype)
    return (y if bias is None else y + bias.astype(x.dtype)[None]), (x, w, bias)


def _bfloat16_dense_backward(saved, dy):
    x, w, bias = saved
    dw = jax.lax.dot_general(x, dy, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    with jax.named_scope("bias_gradient"):
        dbias = None if bias is None else dy.sum(0, jnp.float32)
    return dot(dy, w, -1, x.dtype, x.dtype), dw, dbias


_bfloat16_dense.defvjp(_bfloat16_dense_forward, _bfloat16_dense_backward)


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


def in_float32(f: Callable[..., jax.Array], *xs: jax.Array) -> jax.Array:
    """Returns `f(*xs)`, an elementwise function, computed in float32 and rounded to the dtype of
    `xs`. Of bfloat16 only `xs` are kept for the gradient, which computes `f` again: memory costs an
    accelerator more than arithmetic."""
    if xs[0].dtype == jnp.float32:
        return f(*xs)

    @jax.checkpoint
    def rounded(*xs):
        return f(*(x.astype(jnp.float32) for x in xs)).astype(xs[0].dtype)

    with jax.named_scope("in_float32"):
        return rounded(*xs)


def fastest_matmul_dtype() -> str:
    """Returns the fastest input dtype of matrix products on this machine: bfloat16 on accelerators
    and on CPUs with AMX or AVX512-BF16, else float32."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    cpu = pathlib.Path("/proc/cpuinfo")
    flags = set(cpu.read_text(encoding="utf-8").split()) if cpu.exists() else set()
    return "bfloat16" if flags & {"amx_bf16", "avx512_bf16"} else "float32"


def fastest_activation_dtype(matmul_dtype: str) -> str:
    """Returns the fastest dtype of activations on this machine between products with inputs of
    `matmul_dtype`: that one on accelerators; float32 on CPUs, which lose time with every cast."""
    return "float32" if jax.default_backend() == "cpu" else matmul_dtype
