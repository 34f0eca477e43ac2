"""Parameters of a network, FLOP of training, and peak FLOP/s of devices: the two sides of MFU."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp

from kstore_jax.model import forward
from kstore_jax.model.base import ARCHITECTURES
from kstore_jax.model.matmul import dot
from kstore_jax.model.transformer import Shape

_SIDE = 2048  # of the matrix product that measures a device without a data sheet
_PRODUCTS = 10

# Dense bfloat16 FLOP/s of one device of JAX: NVIDIA's data sheets list twice as much, with
# sparsity; GeForce's the rate with float32 sums; a TPU7x chip (2307e12) is two devices. Looked up:
# TPU v5e, v5p, v6e and 7x (docs.cloud.google.com/tpu/docs), and at second hand B200, GB200, H200;
# the others from memory of the data sheets. The first name that starts the device kind applies.
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


@functools.cache  # rows of a sweep share shapes
def num_parameters(shape: Shape) -> int:
    """The number of parameters of a network."""
    init = functools.partial(forward.init, shape)
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))


def flops_per_token(
    parameters: int, shape: Shape, seq_len: int, trained: int | None = None
) -> tuple[int, int]:
    """FLOP of forward and backward a token: 6 N + 12 layers H K seq_len (PaLM, arXiv 2204.02311,
    appendix B) and what the architecture adds, and the same with attention halved, as a causal mask
    allows.

    N counts parameters of matrix products: a tied embedding counts, as the head; an untied one and
    a table of positions do not.

    Args:
      parameters: of the network.
      shape: the network's `Shape`.
      seq_len: tokens of a text.
      trained: those of N that training changes; None: all. A frozen matrix has no gradient, which
        takes 2 of the 6 FLOP.
    """
    looked_up = 0 if shape.tie_embeddings else shape.vocabulary * shape.width
    looked_up += shape.max_positions * shape.width if shape.positions == "learned" else 0
    parameters -= looked_up
    frozen = 0 if trained is None else parameters - trained
    attention = 12 * shape.layers * shape.heads * shape.resolved_head_width * seq_len
    others = 6 * parameters - 2 * frozen
    others += ARCHITECTURES.of(shape.architecture).extra_flops(shape, seq_len)
    return others + attention, others + attention // 2


def peak_flops(device: Any, dtype: str) -> tuple[float, str]:
    """FLOP/s of one device, and the source: its data sheet or else a measured large product with
    inputs of `dtype`."""
    return data_sheet_peak(device) or (
        measured_peak(device, dtype),
        f"measured: product of {_SIDE} x {_SIDE}, {dtype}",
    )


def data_sheet_peak(device: Any) -> tuple[float, str] | None:
    """FLOP/s of one device by its data sheet, and the source; None without a data sheet."""
    for name, flops in _DATA_SHEETS.items():
        if device.device_kind.startswith(name):
            return flops, f"data sheet of {name}, dense bfloat16"
    return None


def measured_peak(device: Any, dtype: str) -> float:
    """FLOP/s of the fastest of some large products with inputs of `dtype` and float32 sums."""
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
