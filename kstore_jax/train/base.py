"""The contracts of optimizers and of schedules, and their registries."""

from typing import Any, ClassVar

import jax
import optax

from kstore_jax.config.registry import Registry


class Optimizer:
    """Turns gradients into updates.

    Attributes:
      name: its name in `optimizer` of a training.
      Config: the frozen dataclass of its own fields.
      needs_matrices: whether it is refused where a training moves no whole matrix, as with LoRA.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    needs_matrices: ClassVar[bool] = False

    def transformation(
        self, config: Any, rate: optax.Schedule, weight_decay: jax.Array
    ) -> optax.GradientTransformation:
        """Returns the transformation of gradients into updates.

        Args:
          config: the `Config`.
          rate: number of updates so far -> learning rate.
          weight_decay: decoupled; `decay_mask` gives the arrays it acts on.
        """
        raise NotImplementedError


class Schedule:
    """Lowers the learning rate after warm-up.

    Attributes:
      name: its name in `schedule` of a training.
      Config: the frozen dataclass of its own fields.
    """

    name: ClassVar[str]
    Config: ClassVar[type]

    def decay(self, config: Any, peak: float, final_lr_ratio: float, steps: int) -> optax.Schedule:
        """Returns the learning rates from `peak` to `final_lr_ratio * peak` over `steps` updates;
        afterwards the last one.

        Args:
          config: the `Config`.
        """
        raise NotImplementedError


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", "kstore_jax.train")
SCHEDULES: Registry[Schedule] = Registry("schedule", "kstore_jax.train")


def decay_mask(params: Any) -> Any:
    """Returns a tree like `params`: True for matrices, False for biases and the scales of norms,
    which have no weight decay."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("bias", "scale"), params
    )
