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
from kstore_jax.train.mesh import shard_tree

Tree = Any
_MODELS = "models"


@dataclasses.dataclass(frozen=True, eq=False)
class ModelAxis:
    """An axis of `count` models over the devices of a mesh: models are spread over its data axis as
    far as their number divides it, and the rows of each over the rest.

    One model has no such axis: its arrays and its program stay as they are.

    Attributes:
      alone: the mesh of one model.
    """

    count: int
    model_mesh: jax.sharding.Mesh

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh of all models together."""
        if self.count == 1:
            return self.model_mesh
        devices = self.model_mesh.devices
        ways = math.gcd(self.count, len(devices))
        axes = (_MODELS, *self.model_mesh.axis_names)
        types = (jax.sharding.AxisType.Auto,) * len(axes)
        split = devices.reshape(ways, -1, *devices.shape[1:])
        return jax.sharding.Mesh(split, axes, axis_types=types)

    def stack(self, trees: Sequence[Tree]) -> Tree:
        """Stacks the trees of the models into one, with the model axis first."""
        if self.count == 1:
            return trees[0]

        def place(x):
            return NamedSharding(self.mesh, PartitionSpec(_MODELS, *x.sharding.spec))

        def stack(*trees):
            return jax.tree.map(lambda *models: jnp.stack(models), *trees)

        return jax.jit(stack, out_shardings=jax.tree.map(place, trees[0]))(*trees)

    def unstack(self, tree: Tree) -> list[Tree]:
        """Splits a stacked tree into the trees of the models: the inverse of `stack`."""
        if self.count == 1:
            return [tree]

        def one(i: int):
            return jax.tree.map(lambda x: x[i], tree)

        return [shard_tree(self.model_mesh, one(i)) for i in range(self.count)]

    def make_batch(self, makes: Sequence[MakeBatch]) -> MakeBatch:
        """Joins the batch functions of the models into one that stacks their batches."""
        if self.count == 1:
            return makes[0]

        def make(step: int, rows: range) -> dict[str, np.ndarray]:
            made = [make(step, rows) for make in makes]
            return {name: np.stack([batch[name] for batch in made]) for name in made[0]}

        return make


def vmap_models(train_steps: Callable) -> Callable:
    """Returns `(state, frozen, hparams, batch) -> (state, losses)` of several models. Their axis is
    the second of the batch, after the steps, and the first of all else."""
    return jax.vmap(train_steps, in_axes=(0, 0, 0, 1))


def group_by_step(saved: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Groups models that can resume from the same step: a step groups the models that have it as
    their newest checkpoint or the one before. Models killed while they were saved together differ
    by one checkpoint.

    Args:
      saved: the steps of each model's checkpoints, ascending.

    Returns: pairs of a step and the numbers of its models.
    """
    newest = [([0, *steps])[-2:] for steps in saved]
    left, groups = list(range(len(saved))), []
    while left:
        first = min(newest[i][-1] for i in left)
        groups.append((first, [i for i in left if first in newest[i]]))
        left = [i for i in left if first not in newest[i]]
    return groups
