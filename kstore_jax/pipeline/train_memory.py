"""The memory that pretraining takes on each device, before anything is allocated."""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline import adapters
from kstore_jax.pipeline.pretrain_config import Pretrain
from kstore_jax.train.config import Mesh
from kstore_jax.train.mesh import AXES, device_bytes
from kstore_jax.train.objectives import next_token, total_loss
from kstore_jax.train.optimizer import optimizer

_LENGTHS = 64, 128  # of texts whose residuals are counted
_SETTINGS = "seq_len", "method", "sites", "rank", "embedding_rank", "embedding_side"
"""Fields of pretraining that its residuals depend on."""


class TrainMemory(NamedTuple):
    """Bytes on each device.

    Attributes:
      parameters: all weights, and the factors of low-rank updates.
      gradients: of what is trained.
      optimizer: its state.
      residuals: what the forward pass of a micro-batch keeps for its gradient, weights rounded to
        the dtype of products included.
      devices: how many there are.
    """

    parameters: int
    gradients: int
    optimizer: int
    residuals: int
    devices: int

    @property
    def total(self) -> int:
        """Bytes on each device; what single operations take for a moment is not counted."""
        return self.parameters + self.gradients + self.optimizer + self.residuals

    def lines(self, available: str = "") -> list[str]:
        """Two lines of text: the whole with what a device has, and its parts."""
        unit, size = ("GB", 1e9) if self.total >= 1e9 else ("MB", 1e6)
        devices = "on one device" if self.devices == 1 else f"on each of {self.devices} devices"
        parts = "parameters", "gradients", "optimizer", "residuals"
        sizes = ", ".join(f"{name} {getattr(self, name) / size:.2f}" for name in parts)
        return [f"{self.total / size:.2f} {unit} {devices}{available}", f"  {sizes} {unit}"]


def train_memory(shape: Shape, training: Pretrain, mesh: Mesh, flash: bool) -> TrainMemory:
    """Returns the memory of pretraining.

    Args:
      shape: the network, with the dtypes it is trained in.
      training: pretraining.
      mesh: the axes of devices; `data` of 0 counts as 1.
      flash: whether attention keeps no matrix of weights.
    """
    sizes = max(1, mesh.data), mesh.fsdp, mesh.tensor
    abstract = jax.sharding.AbstractMesh(sizes, AXES)
    frozen, trainable = adapters.abstract_parts(shape, training)
    trained = device_bytes(abstract, trainable)
    state = jax.eval_shape(optimizer(training).init, trainable)
    settings = {name: getattr(training, name) for name in _SETTINGS}
    constant, of_row = _residuals(shape, Pretrain(**settings), flash)
    rows = -(-training.batch_size // (training.grad_accum_steps * sizes[0] * sizes[1]))
    return TrainMemory(
        parameters=device_bytes(abstract, frozen) + trained,
        gradients=trained,
        optimizer=device_bytes(abstract, state),
        residuals=constant // (sizes[1] * sizes[2]) + rows * of_row,
        devices=abstract.size,
    )


@functools.lru_cache
def _residuals(shape: Shape, training: Pretrain, flash: bool) -> tuple[int, int]:
    """Bytes of the residuals of any batch, and those of each of its rows.

    They are linear in layers and rows, so that two of each are enough to count. Attention that
    keeps no matrix of weights is counted by the residuals that are linear in the length: the
    matrix alone grows with its square.
    """
    if flash:
        shape = dataclasses.replace(shape, attention="xla")
    lengths = _LENGTHS if flash else (training.seq_len,)
    layers = (1, 2) if shape.layers > 1 else (1,)
    with jax.numpy_dtype_promotion("standard"):  # for the attention of JAX
        bytes_of = {
            (n, rows, length): _kept(dataclasses.replace(shape, layers=n), training, rows, length)
            for n, rows, length in itertools.product(layers, (1, 2), lengths)
        }

    def of_all_layers(rows: int, length: int) -> int:
        first, *second = (bytes_of[n, rows, length] for n in layers)
        return first + sum(more - first for more in second) * (shape.layers - 1)

    of_rows = [of_all_layers(2, length) - of_all_layers(1, length) for length in lengths]
    constant = of_all_layers(1, lengths[-1]) - of_rows[-1]
    if not flash:
        return constant, of_rows[0]
    linear = (4 * of_rows[0] - of_rows[1]) // (2 * _LENGTHS[0])
    return constant, linear * training.seq_len


def _kept(shape: Shape, training: Pretrain, rows: int, length: int) -> int:
    """Bytes that the gradient of some rows reads, besides the parameters themselves."""
    frozen, trainable = adapters.abstract_parts(shape, training)
    merge, objective = adapters.merge_of(training), next_token(shape)
    batch = {"tokens": jnp.zeros((rows, length + 1), jnp.int32)}

    def residuals(trainable, frozen):
        keys = jax.random.split(jax.random.key(0), rows)

        def loss(trainable):
            return total_loss(*objective(merge(frozen, trainable), {**batch, "keys": keys}))

        return jax.tree.leaves(jax.vjp(loss, trainable)[1])

    jaxpr = jax.make_jaxpr(residuals)(trainable, frozen).jaxpr
    arrays = {id(out): out.aval for out in jaxpr.outvars if out not in jaxpr.invars}
    return sum(aval.size * aval.dtype.itemsize for aval in arrays.values())
