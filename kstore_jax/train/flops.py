"""How many operations training needs, and how many a device could do: the two sides of MFU."""

import time

import jax
import jax.numpy as jnp

from kstore_jax.model.matmul import dot
from kstore_jax.model.transformer import Shape

_SIDE = 2048  # of the product a device without a data sheet is measured with
_PRODUCTS = 10

# Dense bfloat16 FLOP/s of one device of JAX: NVIDIA's data sheets tell twice as much, with
# sparsity; GeForce's the rate with float32 sums; a TPU7x chip (2307e12) is two devices. Looked up:
# TPU v5e, v5p, v6e and 7x (docs.cloud.google.com/tpu/docs), and at second hand B200, GB200, H200;
# the others from memory of the data sheets. The first name that begins the device's kind counts.
_DATA_SHEETS = {
    "NVIDIA B200": 2250e12,
    "NVIDIA GB200": 2500e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA A10": 125e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
}


def flops_per_token(parameters: int, shape: Shape, window: int) -> tuple[int, int]:
    """FLOP of forward and backward a token: 6 N + 12 layers width window (PaLM, arXiv 2204.02311,
    appendix B), and the same with the attention part halved, as a causal mask allows.

    N counts every parameter that is multiplied with: a tied embedding is, as head; an untied one
    and a table of positions are looked up.
    """
    looked_up = 0 if shape.tie_embeddings else shape.vocabulary * shape.width
    looked_up += shape.max_positions * shape.width if shape.positions == "learned" else 0
    parameters -= looked_up
    attention = 12 * shape.layers * shape.width * window
    return 6 * parameters + attention, 6 * parameters + attention // 2


def peak(device: jax.Device, dtype: str) -> tuple[float, str]:
    """FLOP/s of one device, and where the figure is from.

    A device of a kind that is not in the table is measured: a large product with inputs of `dtype`.
    """
    known = data_sheet(device)
    return known or (
        measured_peak(device, dtype),
        f"measured: product of {_SIDE} x {_SIDE}, {dtype}",
    )


def data_sheet(device: jax.Device) -> tuple[float, str] | None:
    """FLOP/s of one device by its data sheet, and its name; None for a device not in the table."""
    for name, flops in _DATA_SHEETS.items():
        if device.device_kind.startswith(name):
            return flops, f"data sheet of {name}, dense bfloat16"
    return None


def measured_peak(device: jax.Device, dtype: str) -> float:
    """FLOP/s of the best of some large products, inputs of `dtype` and sums float32."""
    kind = jnp.dtype(dtype)
    side = jax.device_put(jnp.ones((_SIDE, _SIDE), kind), device)
    product = jax.jit(lambda a, b: dot(a, b, -2, kind))
    product(side, side).block_until_ready()
    best = float("inf")
    for _ in range(_PRODUCTS):
        started = time.perf_counter()
        product(side, side).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * _SIDE**3 / best
