"""Predicts the time of training steps on an accelerator that is not here, from FLOP and bytes.

A step takes the FLOP at the efficiency that products usually reach, and after them the bytes that
elementwise work moves at the full bandwidth; or the launches of its kernels, where these take
longer. Two measurements on one H200 (docs/benchmarks.md) give the bytes of a hidden number and of a
logit: float32 activations. Activations in bfloat16 move fewer; their time is not measured yet.
"""

import dataclasses

from kstore_jax.errors import UserError, nearest
from kstore_jax.model.transformer import Shape
from kstore_jax.train.flops import flops_per_token

_EFFICIENCY = 0.7  # of the peak, in large products of bfloat16 matrices
_HIDDEN = 450  # bytes moved a token, layer and unit of width, forward and backward
_LOGIT = 14  # bytes moved a token and row of the output head
_WEIGHT = 28  # bytes moved a parameter: AdamW reads four float32 numbers and writes three
_KERNELS = 60  # of a layer, forward, backward and update


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """An accelerator by its data sheet, and assumptions.

    Attributes:
      flops: dense bfloat16 FLOP/s.
      bandwidth: bytes/s.
      memory: bytes.
      launch_s: seconds between kernels that are shorter (assumed).
      start_s: seconds until a process computes (assumed).
      compile_s: seconds of compiling a program (measured: 9.6 and 15.8).
    """

    flops: float
    bandwidth: float
    memory: float
    launch_s: float = 4e-6
    start_s: float = 20.0
    compile_s: float = 16.0


ACCELERATORS = {
    "H200": Accelerator(989e12, 4.8e12, 141e9),
    "H100": Accelerator(989e12, 3.35e12, 80e9),
}


def accelerator(name: str) -> Accelerator:
    """The accelerator of a name.

    Raises:
      UserError: there is none.
    """
    if name not in ACCELERATORS:
        raise UserError(f"--on: no accelerator {name!r}{nearest(name, ACCELERATORS)}")
    return ACCELERATORS[name]


def token_seconds(
    of: Accelerator, shape: Shape, parameters: int, seq_len: int, trained: int | None = None
) -> float:
    """Seconds of a trained token in a large batch, apart from the optimizer; `trained` as
    `flops_per_token` takes it. With `remat` the blocks are computed once more."""
    flops, _ = flops_per_token(parameters, shape, seq_len, trained)
    if shape.remat:
        flops += flops_per_token(parameters, shape, seq_len)[0] / 3
    moved = _HIDDEN * shape.layers * shape.width + _LOGIT * shape.vocabulary
    return flops / (_EFFICIENCY * of.flops) + moved / of.bandwidth


def update_seconds(of: Accelerator, parameters: int) -> float:
    """Seconds that the optimizer takes for a step of so many trained parameters."""
    return _WEIGHT * parameters / of.bandwidth


def launch_seconds(of: Accelerator, shape: Shape) -> float:
    """The least seconds of a step, which the launches of its kernels take."""
    return _KERNELS * shape.layers * of.launch_s


def step_seconds(
    of: Accelerator, shape: Shape, parameters: int, batch_size: int, seq_len: int
) -> float:
    """Seconds of a training step."""
    tokens = batch_size * seq_len * token_seconds(of, shape, parameters, seq_len)
    return max(tokens + update_seconds(of, parameters), launch_seconds(of, shape))
