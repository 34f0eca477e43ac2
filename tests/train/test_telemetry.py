"""What metrics hold, and that no tracker costs any of them."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kstore_jax.train import trackers
from kstore_jax.train.config import TelemetryConfig
from kstore_jax.train.fit import fit
from kstore_jax.train.objectives import total_loss
from kstore_jax.train.optimizer import traced_hparams
from kstore_jax.train.telemetry import METRICS, read_metrics
from tests.train.training import TRAINING, losses, task


class Broken:
    """A tracker that fails after some lines."""

    def __init__(self, lines: int):
        self.left, self.closed = lines, False

    def write(self, line: dict) -> None:
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("the server went away\ntry later")

    def close(self) -> None:
        self.closed = True


def test_a_tracker_that_fails_or_is_not_installed_costs_no_metrics(tmp_path, monkeypatch, capsys):
    fit(task(), TRAINING, tmp_path / "plain")
    expected = losses(tmp_path / "plain")
    telemetry = TelemetryConfig(tensorboard=True, wandb="project")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    fit(task(), TRAINING, tmp_path / "missing", telemetry=telemetry)
    assert losses(tmp_path / "missing") == expected
    first, second = notes(capsys.readouterr().err)
    assert first.startswith("note: telemetry.tensorboard: ")
    assert "pip install 'kstore_jax[tensorboard]' brings it; metrics.jsonl has" in first
    assert "pip install 'kstore_jax[wandb]' brings it; metrics.jsonl has the metrics" in second
    for lines in (0, 2):
        broken = Broken(lines)
        monkeypatch.setattr(trackers, "TensorBoard", lambda *_, broken=broken: broken)
        folder = tmp_path / str(lines)
        fit(task(), TRAINING, folder, telemetry=TelemetryConfig(tensorboard=True))
        assert losses(folder) == expected
        (note,) = notes(capsys.readouterr().err)
        assert note == (
            "note: telemetry.tensorboard: ConnectionError: the server went away; "
            "metrics.jsonl has the metrics"
        )
        assert (broken.left, broken.closed) == (-1, False)


def notes(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("note: telemetry")]


def test_metrics_have_the_learning_rate_and_the_norm_of_the_gradient(tmp_path):
    training = dataclasses.replace(TRAINING, clip_global_norm=1e-3)
    fit(task(), training, tmp_path)
    lines = read_metrics(tmp_path / METRICS)
    rates = np.asarray(traced_hparams(training)["rates"])
    assert [line["learning_rate"] for line in lines] == [
        pytest.approx(rates[line["step"] - 1]) for line in lines
    ]
    assert len({line["learning_rate"] for line in lines}) == len(lines)
    one = dataclasses.replace(training, steps_per_call=1, checkpoint_every=1)
    fit(task(), dataclasses.replace(one, steps=1, warmup_steps=0), tmp_path / "first")
    first, plain = read_metrics(tmp_path / "first" / METRICS)[0], task()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.fold_in(jax.random.key(plain.seed), 0), jnp.arange(training.batch_size)
    )
    batch = {**plain.make_batch(0, range(training.batch_size)), "keys": keys}

    def loss(trainable):
        return total_loss(*plain.objective(plain.merge(plain.frozen, trainable), batch))

    gradient = jax.grad(loss)(plain.trainable)
    squares = sum(float((np.asarray(x, np.float64) ** 2).sum()) for x in jax.tree.leaves(gradient))
    assert first["grad_norm"] == pytest.approx(squares**0.5, rel=1e-4)
    assert first["grad_norm"] > 1e-2  # before clipping
