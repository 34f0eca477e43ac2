"""An optimizer in a file of its own, the recipe of `docs/extending.md`: Lion. And a schedule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kstore_jax.config.fields import identity
from kstore_jax.config.parse import parse
from kstore_jax.errors import UserError
from kstore_jax.train.base import OPTIMIZERS, SCHEDULES, Schedule
from kstore_jax.train.config import TelemetryConfig, Training
from kstore_jax.train.fit import TrainJob, fit, fit_batched
from kstore_jax.train.optimizer import optimizer, traced_hparams
from tests import recipes
from tests.train.training import TRAINING, Interrupted, interrupted_at, losses, same_bits, task


@pytest.fixture(scope="module")
def lion():
    with recipes.plugin("An optimizer", OPTIMIZERS) as module:
        yield module


@pytest.fixture(scope="module")
def training(lion) -> Training:
    return dataclasses.replace(TRAINING, optimizer=lion.LionConfig(), learning_rate=3e-3)


def test_steps_equal_lion_written_out_by_hand(lion):
    training = Training(
        steps=4,
        warmup_steps=0,
        learning_rate=0.1,
        weight_decay=0.3,
        optimizer=lion.LionConfig(b1=0.6, b2=0.8),
        schedule=SCHEDULES["linear"].Config(),
        final_lr_ratio=0.0,
    )
    params = {"dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0, 0.5])}}
    rule = optimizer(training)
    state, by_hand = rule.init(params), jax.tree.map(np.float64, params)
    momentum = jax.tree.map(np.zeros_like, by_hand)
    for step, rate in enumerate([0.1, 0.075, 0.05]):
        slope = jax.tree.map(lambda x, i=step: jnp.cos(x + i), params)
        updates, state = rule.update(slope, state, params)
        slope = jax.tree.map(np.float64, slope)
        norm = max(1.0, float(optax.tree.norm(slope)))  # longer gradients are clipped
        params = optax.apply_updates(params, updates)
        for leaf, decay in (("kernel", 0.3), ("bias", 0.0)):
            g, m, x = (tree["dense"][leaf] for tree in (slope, momentum, by_hand))
            sign = np.sign(0.6 * m + 0.4 * g / norm)
            by_hand["dense"][leaf] = x - rate * (sign + decay * x)
            momentum["dense"][leaf] = 0.8 * m + 0.2 * g / norm
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, by_hand)


def test_it_trains_and_resumes_bit_for_bit(tmp_path, training):
    undisturbed = fit(task(), training, tmp_path / "undisturbed")
    (_, first), *_, (_, last) = losses(tmp_path / "undisturbed")
    assert last < 0.8 * first
    with pytest.raises(Interrupted):
        fit(interrupted_at(15), training, tmp_path / "resumed")
    assert same_bits(fit(task(), training, tmp_path / "resumed"), undisturbed)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "undisturbed")


def test_several_with_other_rates_and_decay_train_together_as_alone(tmp_path, training):
    other = dataclasses.replace(training, learning_rate=1e-3, weight_decay=0.5)
    jobs = [
        TrainJob(task(), each, tmp_path / str(i), TelemetryConfig())
        for i, each in enumerate((training, other))
    ]
    for job in jobs:
        job.folder.mkdir()
    for i, trained in enumerate(fit_batched(jobs)):
        alone = fit(task(), jobs[i].training, tmp_path / f"alone-{i}")
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), trained, alone)


def test_the_configuration_has_the_fields_of_the_chosen_one_alone(lion):
    chosen = parse(Training, {"optimizer": "lion", "lion": {"b2": 0.5}, "adamw": {"b1": 0.7}})
    assert chosen.optimizer == lion.LionConfig(b2=0.5)
    plain = identity(chosen)
    assert (plain["optimizer"], plain["lion"]) == ("lion", {"b1": 0.9, "b2": 0.5})
    assert not {"adamw", "muon", "b1"} & set(plain)
    with pytest.raises(UserError, match=r"^lion\.b2: expected at most 1\.0, got 2\.0$"):
        parse(Training, {"optimizer": "lion", "lion": {"b2": 2.0}})
    with pytest.raises(UserError, match=r"^optimizer: 'lino' is not a choice; did you mean 'lion'"):
        parse(Training, {"optimizer": "lino"})


@dataclasses.dataclass(frozen=True)
class StepsConfig:
    """Halves the rate."""

    every: int = 5


class Steps(Schedule):
    """Halves the rate."""

    name, Config = "steps_down", StepsConfig

    def decay(self, config, peak, final_lr_ratio, steps):
        return lambda count: peak * 0.5 ** (count // config.every)


def test_a_schedule_of_another_file_gives_the_rates():
    SCHEDULES.register(Steps)
    try:
        training = dataclasses.replace(TRAINING, schedule=StepsConfig(every=6), learning_rate=0.8)
        rates = traced_hparams(training)["rates"]
        expected = [0.4, 0.6, *[0.8] * 6, *[0.4] * 6, *[0.2] * 6]
        np.testing.assert_allclose(rates, expected, rtol=1e-6)
    finally:
        SCHEDULES.unregister("steps_down")
