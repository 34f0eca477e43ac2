"""Benchmark of the training step: rate, utilisation, memory, and time by operation."""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np

from kstore_jax.bench import roofline
from kstore_jax.bench.hlo_profile import milliseconds_by_operation
from kstore_jax.model import forward
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline.context import vocabulary_needs_corpora
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.graph import ExperimentGraph, resolve_auto, with_steps
from kstore_jax.pipeline.pretrain import pretraining_objective
from kstore_jax.pipeline.pretrain_config import Pretrain
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts.base import Context
from kstore_jax.train.batched import ModelAxis
from kstore_jax.train.checkpoint import open_checkpoints
from kstore_jax.train.fit import merge_all
from kstore_jax.train.flops import flops_per_token, num_parameters, peak_flops
from kstore_jax.train.mesh import batch_sharding, make_mesh
from kstore_jax.train.objectives import Objective, next_token
from kstore_jax.train.step import compiled_steps, init_state, job_hparams
from kstore_jax.train.telemetry import peak_memory

_ROUND_SECONDS = 1.0  # of training between two looks at the clock
_ROUNDS = 5
_PROFILED_CALLS = 2  # of the training step


@contextlib.contextmanager
def temporary_context(experiment: Experiment) -> Iterator[Context]:
    """The context of an experiment over a temporary cache, with only the datasets written that its
    vocabulary depends on."""
    with tempfile.TemporaryDirectory() as folder:
        graph = ExperimentGraph(resolve_auto(experiment), Cache(pathlib.Path(folder)))
        runner = Runner(graph)
        if vocabulary_needs_corpora(graph):
            for stage in graph.datasets.values():
                runner.ensure(stage)
        yield runner.context


class TrainingSteps:
    """Training steps as `fit` compiles them, on random tokens that are on the devices already.

    Attributes:
      compiled: `(state, frozen, hparams, batch) -> (state, losses)`, as XLA made it.
      compile_s: seconds that XLA took (less where its compilation cache helped).
      state: of weights and optimizer, after the steps run so far.
      parameters: number of trained parameters of a model.
      steps_a_call: `training.steps_per_call`.
    """

    def __init__(
        self,
        shape: Shape,
        training: Pretrain,
        objective: Objective | None = None,
        together: int = 1,
    ):
        """Compiles the steps of `together` models; `objective` is `next_token` where None."""
        axis = ModelAxis(together, make_mesh())
        program = compiled_steps(axis, objective or next_token(shape), merge_all, training)
        params = forward.init(shape, jax.random.key(0))
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        self.steps_a_call = training.steps_per_call
        self.state = axis.stack([init_state(params, training, axis.model_mesh)] * together)
        self._hparams = axis.stack([job_hparams(training, 0, axis.model_mesh)] * together)
        tokens = _random_tokens(shape, training, together)
        self._batch = jax.device_put(tokens, batch_sharding(axis.mesh, training.batch_size))
        lowered = program.lower(self.state, {}, self._hparams, self._batch)
        started = time.perf_counter()
        self.compiled = lowered.compile()
        self.compile_s = time.perf_counter() - started

    def run(self, calls: int) -> float:
        """Returns the seconds of `calls` calls, of `steps_a_call` steps each, until the last is
        done."""
        started = time.perf_counter()
        for _ in range(calls):
            self.state, losses = self.compiled(self.state, {}, self._hparams, self._batch)
        jax.block_until_ready(losses)
        return time.perf_counter() - started

    def calls_of_a_round(self) -> int:
        """The calls that take about `_ROUND_SECONDS`; runs two."""
        self.run(1)
        return max(1, round(_ROUND_SECONDS / self.run(1)))


def _random_tokens(shape: Shape, training: Pretrain, together: int) -> dict[str, np.ndarray]:
    models = [together] if together > 1 else []
    size = training.steps_per_call, *models, training.batch_size, training.seq_len + 1
    return {"tokens": np.random.default_rng(0).integers(0, shape.vocabulary, size, np.int32)}


def measure_training(experiment: Experiment, together: int = 1) -> dict[str, float | int | str]:
    """Measures the training step of a configuration: forward, loss, backward and optimizer.

    Returns:

    - `tokens_per_s` and `step_ms`: medians of several rounds in the steady state.
    - `mfu_full`, `mfu_causal`: fractions of the devices' peak, by the two definitions of
      `flops_per_token`; `peak_flops_per_s`: of all devices.
    - `peak_memory_bytes`: of the fullest device, or of the process where devices do not report it,
      as on CPUs.
    - `checkpoint_blocks_s`: how long a training waits for a checkpoint; `checkpoint_s`: until it is
      complete on the disk of temporary files.
    - Of several models `together` also `models_tokens_per_s`: the tokens that all of them read when
      one program trains them; `one_by_one_tokens_per_s`, measured in turn with it; their ratio
      `together_over_one_by_one`.
    - The settings that were measured.
    """
    training = with_steps(experiment).pretrain
    shape, objective = _shape_and_objective(experiment)
    steps = TrainingSteps(shape, training, objective)
    step_s = _median_step_seconds(steps)
    tokens_per_s = training.batch_size * training.seq_len / step_s
    devices = jax.devices()
    flops, source = peak_flops(devices[0], shape.dtype)
    # Simulated devices share the processor that was measured as one.
    flops *= 1 if devices[0].platform == "cpu" else len(devices)
    full, causal = flops_per_token(steps.parameters, shape, training.seq_len)
    memory = peak_memory()
    blocks_s, written_s = _checkpoint_seconds(steps)
    comparison = {}
    if together > 1:
        several = TrainingSteps(shape, training, objective, together)
        step_tokens = training.batch_size * training.seq_len
        comparison = _compare_together(several, together, steps, step_tokens)
    return {
        "tokens_per_s": round(tokens_per_s, 1),
        "step_ms": round(1000 * step_s, 3),
        "mfu_full": round(tokens_per_s * full / flops, 4),
        "mfu_causal": round(tokens_per_s * causal / flops, 4),
        "peak_flops_per_s": round(flops),
        "peak_from": source,
        "device": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "dtype": shape.dtype,
        "batch": training.batch_size,
        "window": training.seq_len,
        "vocabulary": shape.vocabulary,
        "parameters": steps.parameters,
        "compile_s": round(steps.compile_s, 2),
        "peak_memory_bytes": memory,
        "checkpoint_blocks_s": round(blocks_s, 3),
        "checkpoint_s": round(written_s, 3),
        **comparison,
    }


def predict_training(experiment: Experiment, on: str, together: int = 1) -> dict[str, float | str]:
    """Predicts from FLOP and bytes what `measure_training` would measure on an accelerator that is
    not here, and the `seconds` that the benchmark would take, with start and compilation.

    Raises:
      UserError: there is no accelerator `on`.
    """
    device, training = roofline.accelerator(on), experiment.pretrain
    with temporary_context(experiment) as context:
        shape = context.shape
    parameters = num_parameters(shape)
    tokens = training.batch_size * training.seq_len
    step_s = roofline.step_seconds(device, shape, parameters, training.batch_size, training.seq_len)
    full, _ = flops_per_token(parameters, shape, training.seq_len)
    call_s = training.steps_per_call * step_s
    programs = 1 if together == 1 else 2
    rounds = programs * (2 + _ROUNDS) * max(_ROUND_SECONDS, call_s * together)
    return {
        "tokens_per_s": round(tokens / step_s, 1),
        "step_ms": round(1000 * step_s, 3),
        "mfu_full": round(tokens / step_s * full / device.flops, 4),
        "parameters": parameters,
        "seconds": round(device.start_s + programs * device.compile_s + rounds, 1),
        "device": f"{on}, predicted",
    }


def profile_training(experiment: Experiment) -> dict[str, float]:
    """Returns the milliseconds of a training step by operation, as `milliseconds_by_operation`
    names them."""
    shape, objective = _shape_and_objective(experiment)
    steps = TrainingSteps(shape, with_steps(experiment).pretrain, objective)
    steps.run(1)
    spent = milliseconds_by_operation(lambda: steps.run(_PROFILED_CALLS), steps.compiled)
    count = _PROFILED_CALLS * steps.steps_a_call
    return {name: round(milliseconds / count, 3) for name, milliseconds in spent.items()}


def step_seconds(experiment: Experiment) -> float:
    """Estimates the seconds of a step of pretraining from one call, compilation left out.

    On a CPU, where a step of the paper's takes minutes, as many rows of the batch are run as take
    about a second; the others are assumed to take as long.
    """
    shape, objective = _shape_and_objective(experiment)
    whole = with_steps(experiment).pretrain

    def seconds_with(**fields: int) -> float:
        training = dataclasses.replace(whole, steps_per_call=1, **fields)
        steps = TrainingSteps(shape, training, objective)
        steps.run(1)
        return steps.run(1)

    if jax.default_backend() != "cpu":
        return seconds_with()
    batch_size = experiment.pretrain.batch_size
    one = seconds_with(batch_size=1, grad_accum_steps=1)
    rows = min(batch_size, max(1, int(_ROUND_SECONDS / one)))
    seconds = one if rows == 1 else seconds_with(batch_size=rows, grad_accum_steps=1)
    return seconds * batch_size / rows


def _shape_and_objective(experiment: Experiment) -> tuple[Shape, Objective]:
    with temporary_context(experiment) as context:
        return context.shape, pretraining_objective(context)


def _median_step_seconds(steps: TrainingSteps) -> float:
    """Seconds of one step: the median of several rounds."""
    calls = steps.calls_of_a_round()
    seconds = np.median([steps.run(calls) for _ in range(_ROUNDS)])
    return float(seconds) / (calls * steps.steps_a_call)


def _checkpoint_seconds(steps: TrainingSteps) -> tuple[float, float]:
    """Seconds until `save` returns, and until the checkpoint is written; the second checkpoint of
    the process is timed."""
    state = {name: steps.state[name] for name in ("trainable", "optimizer")}
    blocks_s = written_s = 0.0
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            with open_checkpoints(pathlib.Path(folder) / "checkpoints") as checkpoints:
                started = time.perf_counter()
                checkpoints.save(1, **state)
                blocks_s = time.perf_counter() - started
            written_s = time.perf_counter() - started
    return blocks_s, written_s


def _compare_together(
    several: TrainingSteps, together: int, one: TrainingSteps, step_tokens: int
) -> dict[str, float | int]:
    """Medians of rounds in turn, each of as many steps of every model."""
    calls = several.calls_of_a_round()
    seconds = [(several.run(calls), one.run(together * calls)) for _ in range(_ROUNDS)]
    tokens = calls * one.steps_a_call * together * step_tokens
    rates = tokens / np.median(seconds, axis=0)
    ratio = np.median([alone / all_at_once for all_at_once, alone in seconds])
    return {
        "together": together,
        "models_tokens_per_s": round(float(rates[0]), 1),
        "one_by_one_tokens_per_s": round(float(rates[1]), 1),
        "together_over_one_by_one": round(float(ratio), 3),
    }
