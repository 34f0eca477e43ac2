"""The memory of pretraining that a dry run prints is that of the arrays of a training."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from kstore_jax.model.forward import init
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline import adapters, train_memory
from kstore_jax.pipeline.pretrain_config import Pretrain
from kstore_jax.train.config import Mesh
from kstore_jax.train.optimizer import optimizer

SHAPE = Shape(
    vocabulary=40, layers=3, heads=2, width=16, dtype="bfloat16", activation_dtype="bfloat16"
)
TRAINING = Pretrain(steps=2, warmup_steps=0, batch_size=6, grad_accum_steps=2, seq_len=24)
LORA = dataclasses.replace(TRAINING, method="lora", rank=2, embedding_rank=3)


def nbytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("training", [TRAINING, LORA], ids=["full", "lora"])
def test_the_bytes_are_those_of_the_arrays(training):
    found = train_memory.train_memory(SHAPE, training, Mesh(), flash=False)
    params = init(SHAPE, jax.random.key(0))
    none = np.zeros(SHAPE.vocabulary, bool)
    key = jax.random.key(1)
    frozen, trainable = adapters.split(SHAPE, params, training, key, lambda: none)
    assert found.parameters == nbytes(frozen) + nbytes(trainable)
    assert found.gradients == nbytes(trainable)
    assert found.optimizer == nbytes(optimizer(training).init(trainable))
    assert (nbytes(trainable) < nbytes(params) / 4) == (training is LORA)
    assert found.total == sum(found[:4])
    assert found.devices == 1


@pytest.mark.parametrize(
    ("training", "dtype", "remat"),
    [(TRAINING, "float32", False), (TRAINING, "bfloat16", True), (LORA, "bfloat16", False)],
)
def test_residuals_of_many_layers_and_rows_follow_from_few(training, dtype, remat):
    shape = dataclasses.replace(SHAPE, remat=remat, dtype=dtype, activation_dtype=dtype)
    found = train_memory.train_memory(shape, training, Mesh(), flash=False)
    assert found.residuals == train_memory._kept(shape, training, 3, TRAINING.seq_len)


def test_gradient_checkpointing_keeps_a_fraction():
    shape = dataclasses.replace(SHAPE, layers=12)
    of_rows = [
        train_memory._residuals(dataclasses.replace(shape, remat=remat), TRAINING, False)[1]
        for remat in (False, True)
    ]
    of_inputs = 12 * TRAINING.seq_len * SHAPE.width * 2  # bytes of bfloat16
    assert of_inputs < of_rows[1] < of_rows[0] / 4


def test_flash_attention_keeps_no_matrix_of_weights():
    """The residuals of a row are then proportional to its length, and those of attention without
    its matrices."""
    of_rows = [
        train_memory._residuals(SHAPE, dataclasses.replace(TRAINING, seq_len=length), True)[1]
        for length in (256, 512)
    ]
    assert of_rows[1] == 2 * of_rows[0]
    shape = dataclasses.replace(SHAPE, attention="xla")
    with_weights = [
        train_memory._residuals(shape, dataclasses.replace(TRAINING, seq_len=length), False)[1]
        for length in (256, 512)
    ]
    matrices = [whole - linear for whole, linear in zip(with_weights, of_rows, strict=True)]
    assert matrices[1] == pytest.approx(4 * matrices[0], rel=1e-3)


PROGRAM = """
import json
import jax
from kstore_jax.model.forward import init
from kstore_jax.train.config import Mesh
from kstore_jax.train.mesh import make_mesh
from kstore_jax.train.step import init_state
from tests.pipeline.test_train_memory import SHAPE, TRAINING

state = init_state(init(SHAPE, jax.random.key(0)), TRAINING, make_mesh(Mesh(2, 2, 2)))
print(json.dumps([
    sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state[name]))
    for name in ("trainable", "optimizer")
]))
"""


def test_the_bytes_of_a_device_are_those_of_its_shards():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-3000:]
    found = train_memory.train_memory(SHAPE, TRAINING, Mesh(2, 2, 2), flash=False)
    assert [found.parameters, found.optimizer] == json.loads(run.stdout.splitlines()[-1])
    assert found.devices == 8
    whole = train_memory.train_memory(SHAPE, TRAINING, Mesh(), flash=False)
    assert found.parameters < 0.35 * whole.parameters
    constant, of_row = train_memory._residuals(SHAPE, TRAINING, False)
    assert found.residuals == constant // 4 + of_row  # three rows on four devices
    assert whole.residuals == constant + 3 * of_row
