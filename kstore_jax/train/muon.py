"""Muon (Jordan et al., 2024) for the kernels of matrix products, AdamW for all else."""

import dataclasses
import math
from typing import Any

import jax
import optax
import optax.contrib

from kstore_jax.config.fields import number
from kstore_jax.train.adamw import AdamW, AdamWConfig
from kstore_jax.train.base import OPTIMIZERS, Optimizer


@dataclasses.dataclass(frozen=True)
class MuonConfig(AdamWConfig):
    """Muon for the matrices of the blocks (of a probe, its head) and AdamW for the rest."""

    b1: float = number(0.9, 0.0, 1.0)
    """AdamW's decay of the mean of gradients."""
    b2: float = number(0.95, 0.0, 1.0)
    """AdamW's decay of the mean of squared gradients."""
    eps: float = number(1e-6, 0.0)
    """Added to AdamW's denominator, and to the norm that divides a momentum."""
    momentum: float = number(0.95, 0.0, 1.0)
    """Muon's Nesterov momentum."""


@OPTIMIZERS.register
class Muon(Optimizer):
    """Muon for the kernels of matrix products, AdamW for embedding and vectors.

    Updates have the root mean square of AdamW's (Liu et al. 2025, 0.2), so that one learning rate
    serves both. A momentum is divided by its norm before its five Newton-Schulz steps.
    """

    name, Config, needs_matrices = "muon", MuonConfig, True

    def transformation(
        self, config: MuonConfig, rate: optax.Schedule, weight_decay: jax.Array
    ) -> optax.GradientTransformation:
        muon = optax.chain(
            optax.contrib.scale_by_muon(
                beta=config.momentum, eps=config.eps, weight_dimension_numbers=_last_two
            ),
            optax.stateless_with_tree_map(_scaled_like_adamw),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(rate),
        )
        adamw = AdamW().transformation(config, rate, weight_decay)
        rules: Any = {"muon": muon, "adamw": adamw}
        return optax.partition(rules, _rule_of_each)


def _last_two(params):
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), params)


def _scaled_like_adamw(x: Any, _: Any) -> jax.Array:
    return 0.2 * math.sqrt(max(x.shape[-2:])) * x


def _rule_of_each(params):
    """`muon` for the kernels of matrix products, `adamw` for all else."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "muon" if path[-1].key == "kernel" else "adamw", params
    )
