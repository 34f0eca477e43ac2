"""The products a transformer spends its time in, in the form every backend runs fast.

Two rules, each worth a factor on CPU and nothing lost elsewhere: activations are flattened to two
dimensions before a product, and bfloat16 enters a product but never leaves it (inputs bfloat16,
sums and result float32), in the backward products too.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    """`x @ kernel + bias` for x (..., I) and kernel (I, O): (..., O) float32."""
    y = _product(x.reshape(-1, x.shape[-1]), kernel, dtype)
    y = y if bias is None else y + bias[None]
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, w, dtype):
    return _dot(x, w, dtype, ((1,), (0,)))


def _dot(a, b, dtype, contract):
    return jax.lax.dot_general(
        a.astype(dtype), b.astype(dtype), (contract, ((), ())), preferred_element_type=jnp.float32
    )


def _product_forward(x, w, dtype):
    return _product(x, w, dtype), (x.astype(dtype), w.astype(dtype))


def _product_backward(dtype, saved, dy):
    x, w = saved
    return _dot(dy, w, dtype, ((1,), (1,))), _dot(x, dy, dtype, ((0,), (0,)))


_product.defvjp(_product_forward, _product_backward)


def fastest_dtype() -> str:
    """The dtype for the inputs of products on this machine: bfloat16 where hardware multiplies it,
    accelerators and CPUs with AMX; float32 elsewhere."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    cpu = pathlib.Path("/proc/cpuinfo")
    return "bfloat16" if cpu.exists() and "amx_bf16" in cpu.read_text() else "float32"
