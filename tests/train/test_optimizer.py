"""The schedules at their corners, and a step written out by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kstore_jax.errors import UserError
from kstore_jax.pipeline.experiment import Finetune
from kstore_jax.readouts.q_probe import QProbeConfig
from kstore_jax.train.adamw import AdamWConfig
from kstore_jax.train.base import SCHEDULES
from kstore_jax.train.config import Training
from kstore_jax.train.muon import MuonConfig
from kstore_jax.train.optimizer import optimizer, schedule

TRAINING = Training(
    steps=110, learning_rate=0.02, warmup_steps=10, final_lr_ratio=0.1, clip_global_norm=0.0
)


def rates(training: Training, *steps: int) -> list[float]:
    curve = schedule(training)
    with jax.numpy_dtype_promotion("standard"):
        return [float(curve(step)) for step in steps]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_warm_up_peak_and_final(kind):
    training = dataclasses.replace(TRAINING, schedule=SCHEDULES[kind].Config())
    found = rates(training, 0, 4, 9, 10, 110, 1000)
    expected = [0.002, 0.002 + 4 * 0.0018, 0.002 + 9 * 0.0018, 0.02, 0.002, 0.002]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 10])
def test_between_peak_and_final(warmup):
    training = dataclasses.replace(TRAINING, warmup_steps=warmup, steps=100 + warmup)
    quarter = 0.002 + 0.018 * (1 + math.cos(math.pi / 4)) / 2
    found = rates(training, warmup, warmup + 25, warmup + 50)
    np.testing.assert_allclose(found, [0.02, quarter, 0.011], rtol=1e-5)
    linear = dataclasses.replace(training, schedule=SCHEDULES["linear"].Config())
    found = rates(linear, warmup, warmup + 25, warmup + 50)
    np.testing.assert_allclose(found, [0.02, 0.0155, 0.011], rtol=1e-5)


def tree(seed: int, scale: float = 1.0) -> dict:
    draw = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(draw.normal(0, scale, shape), jnp.float32)

    return {
        "embedding": normal(5, 3),
        "ln_f": {"scale": normal(3), "bias": normal(3)},
        "dense": {"kernel": normal(3, 4), "bias": normal(4)},
        "lora": {"a": normal(1, 3, 2), "b": normal(1, 2, 3)},
    }


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e3])
def test_steps_equal_adamw_written_out_by_hand(clip):
    training = dataclasses.replace(
        TRAINING,
        clip_global_norm=clip,
        optimizer=AdamWConfig(b1=0.8, b2=0.9, eps=1e-3),
        weight_decay=0.3,
    )
    optimiser = optimizer(training)
    params = tree(0)
    state = optimiser.init(params)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    by_hand = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    first, second = [[np.zeros_like(leaf) for leaf in by_hand] for _ in range(2)]
    update = jax.jit(optimiser.update)
    for step, rate in enumerate(rates(training, 0, 1, 2)):
        gradient = tree(step + 1, scale=2.0)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        slopes = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradient)]
        norm = math.sqrt(sum((slope**2).sum() for slope in slopes))
        for i, slope in enumerate(slopes):
            if clip:
                slope = slope * min(1.0, clip / norm)
            first[i] = 0.8 * first[i] + 0.2 * slope
            second[i] = 0.9 * second[i] + 0.1 * slope**2
            direction = first[i] / (1 - 0.8 ** (step + 1))
            direction = direction / (np.sqrt(second[i] / (1 - 0.9 ** (step + 1))) + 1e-3)
            if not names[i].endswith(("['bias']", "['scale']")):
                direction = direction + 0.3 * by_hand[i]
            by_hand[i] = by_hand[i] - rate * direction
    for ours, expected in zip(jax.tree.leaves(params), by_hand, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def newton_schulz(matrix: np.ndarray, eps: float) -> np.ndarray:
    """Five steps of Jordan et al. (2024), which bring all singular values near 1."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (np.linalg.norm(wide) + eps)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def test_steps_equal_muon_written_out_by_hand():
    """Momentum 0.95 of Nesterov, with the bias of zero at the start taken out, as the signs in
    Newton-Schulz are blind to; of several matrices at once, each by itself."""
    b1, b2, eps, decay = 0.8, 0.9, 0.5, 0.3
    rule = MuonConfig(b1=b1, b2=b2, eps=eps)
    training = dataclasses.replace(TRAINING, optimizer=rule, weight_decay=decay)
    optimiser = optimizer(training)

    def of_both(seed):
        stacked = jnp.asarray(np.random.default_rng(seed).normal(0, 2, (2, 4, 3)), jnp.float32)
        return {"block": tree(seed, 2.0)["dense"], "head": {"kernel": stacked}}

    params = of_both(0)
    state = optimiser.init(params)
    by_hand = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    momentum, second = [jax.tree.map(np.zeros_like, by_hand) for _ in range(2)]
    update = jax.jit(optimiser.update)
    for step, rate in enumerate(rates(training, 0, 1, 2), start=1):
        gradient = of_both(step)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        for part, leaf in (("block", "kernel"), ("head", "kernel"), ("block", "bias")):
            slope = np.asarray(gradient[part][leaf], np.float64)
            old = by_hand[part][leaf]
            if leaf == "kernel":
                m = momentum[part][leaf] = 0.95 * momentum[part][leaf] + 0.05 * slope
                ahead = 0.95 * m / (1 - 0.95 ** (step + 1)) + 0.05 * slope / (1 - 0.95**step)
                each = ahead.reshape(-1, *ahead.shape[-2:])
                turned = np.stack([newton_schulz(one, eps) for one in each]).reshape(ahead.shape)
                direction = 0.2 * math.sqrt(max(ahead.shape[-2:])) * turned + decay * old
            else:
                m = momentum[part][leaf] = b1 * momentum[part][leaf] + (1 - b1) * slope
                second[part][leaf] = b2 * second[part][leaf] + (1 - b2) * slope**2
                size = np.sqrt(second[part][leaf] / (1 - b2**step))
                direction = m / (1 - b1**step) / (size + eps)
            by_hand[part][leaf] = old - rate * direction
    jax.tree.map(
        lambda ours, expected: np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5),
        params,
        by_hand,
    )


@pytest.mark.parametrize(
    ("kind", "trained"), [(Finetune, {"method": "full"}), (QProbeConfig, {"head": "linear"})]
)
def test_muon_is_refused_where_it_has_no_matrix_to_move(kind, trained):
    kind(optimizer=MuonConfig(), **trained)
    without = {"method": "lora", "head": "unembedding"}
    with pytest.raises(UserError, match=r"^optimizer: expected adamw, .* got 'muon'$"):
        kind(optimizer=MuonConfig(), **{name: without[name] for name in trained})


def test_weight_decay_acts_on_matrices_alone():
    params = tree(0)
    optimiser = optimizer(dataclasses.replace(TRAINING, weight_decay=0.5))
    nothing = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimiser.update(nothing, optimiser.init(params), params)
    still = {"dense": updates["dense"]["bias"], **updates["ln_f"]}
    assert all((leaf == 0).all() for leaf in still.values())
    for moved in (updates["embedding"], updates["dense"]["kernel"], updates["lora"]["b"]):
        assert (moved != 0).all()
