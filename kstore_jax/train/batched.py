"""Models of equal shape in one program: a model axis in front of every array (`jax.vmap`)."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from kstore_jax.train.loader import MakeBatch
from kstore_jax.train.mesh import placed

Tree = Any
_MODELS = "models"


@dataclasses.dataclass(frozen=True, eq=False)
class ModelAxis:
    """So many models on the devices of a mesh: spread over its data axis as far as their number
    goes, and there the rows of each over the rest of it.

    One model has no axis: its arrays and its program are what they are without this.
    """

    count: int
    alone: jax.sharding.Mesh

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """That of all models together."""
        if self.count == 1:
            return self.alone
        devices = self.alone.devices
        ways = math.gcd(self.count, len(devices))
        axes = (_MODELS, *self.alone.axis_names)
        types = (jax.sharding.AxisType.Auto,) * len(axes)
        split = devices.reshape(ways, -1, *devices.shape[1:])
        return jax.sharding.Mesh(split, axes, axis_types=types)

    def stacked(self, trees: Sequence[Tree]) -> Tree:
        """The arrays of all models, of those of each."""
        if self.count == 1:
            return trees[0]

        def place(x):
            return NamedSharding(self.mesh, PartitionSpec(_MODELS, *x.sharding.spec))

        def stack(*trees):
            return jax.tree.map(lambda *models: jnp.stack(models), *trees)

        return jax.jit(stack, out_shardings=jax.tree.map(place, trees[0]))(*trees)

    def each(self, tree: Tree) -> list[Tree]:
        """The arrays of each model, of those of all: the inverse of `stacked`."""
        if self.count == 1:
            return [tree]

        def one(i: int):
            return jax.tree.map(lambda x: x[i], tree)

        return [placed(self.alone, one(i)) for i in range(self.count)]

    def make_batch(self, makes: Sequence[MakeBatch]) -> MakeBatch:
        """The rows of the batch of a step, of all models."""
        if self.count == 1:
            return makes[0]

        def make(step: int, rows: range) -> dict[str, np.ndarray]:
            made = [make(step, rows) for make in makes]
            return {name: np.stack([batch[name] for batch in made]) for name in made[0]}

        return make


def every_model(train_steps: Callable) -> Callable:
    """`(state, frozen, dials, batch) -> (state, losses)` of several models; their axis is the
    second of the batch, after that of steps, and the first of all else."""
    return jax.vmap(train_steps, in_axes=(0, 0, 0, 1))


def abreast(saved: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Which models go on together, and from which step: those that have a checkpoint of it, as
    their newest or the one before.

    Trained together and killed while they were saved, some are ahead of the others by one.

    Args:
      saved: the steps of the checkpoints of each, ascending.
    """
    newest = [([0, *steps])[-2:] for steps in saved]
    left, found = list(range(len(saved))), []
    while left:
        first = min(newest[i][-1] for i in left)
        found.append((first, [i for i in left if first in newest[i]]))
        left = [i for i in left if first not in newest[i]]
    return found
