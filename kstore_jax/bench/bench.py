"""Benchmarks of this machine: data, training, profile, questions. Every number is measured."""

import contextlib
import dataclasses
import os
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from kstore_jax.bench.hlo_profile import milliseconds_by_operation
from kstore_jax.corpus import shards
from kstore_jax.corpus.encode import full_vocabulary
from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.corpus.sampler import RepeatedTexts, Windows
from kstore_jax.model import forward
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline.context import vocabulary_needs_corpora
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import Experiment, Pretrain
from kstore_jax.pipeline.graph import ExperimentGraph, resolve_auto
from kstore_jax.pipeline.pretrain import pretraining_objective
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts.base import Context
from kstore_jax.readouts.spans import span_hits
from kstore_jax.train.batched import ModelAxis
from kstore_jax.train.checkpoint import open_checkpoints
from kstore_jax.train.fit import merge_all
from kstore_jax.train.flops import flops_per_token, peak_flops
from kstore_jax.train.loader import batches
from kstore_jax.train.mesh import batch_sharding, make_mesh
from kstore_jax.train.objectives import Objective, next_token
from kstore_jax.train.step import compiled_steps, job_hparams, start
from kstore_jax.train.telemetry import peak_memory
from kstore_jax.world.biographies import write_biographies
from kstore_jax.world.language import pieces_to_text
from kstore_jax.world.people import draw_people

_SECONDS = 4.0  # of measuring a rate
_WRITTEN = 500_000  # entries of the data set that is written and read, the paper's size
_CALLS = 50  # of the training step, each with the batches of `steps_per_call` steps
_ROUND_SECONDS = 1.0  # of training between two looks at the clock
_ROUNDS = 5
_QUESTIONS = 2048
_PROFILED = 2  # calls of the training step


def data(experiment: Experiment) -> dict[str, float | int]:
    """Making, writing and loading biographies, on one core.

    Returns: `encode_*`: people, text and spans as token ids in memory. `plain_entries_per_s`: the
    same text rendered as strings and tokenised by the `tokenizers` library, one core, to compare
    with. `write_entries_per_s`: into shards, hashes included. `load_tokens_per_s`: batches of the
    configuration's windows through grain onto the device. `peak_memory_bytes`: of the process.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    data = ExperimentData(experiment.world, experiment.data)
    entries, tokens = _encoding(data)
    plain = _plain(data)
    with tempfile.TemporaryDirectory() as folder:
        written, loaded = _disk(data, experiment, pathlib.Path(folder) / "dataset")
    return {
        "encode_entries_per_s": round(entries),
        "encode_tokens_per_s": round(tokens),
        "plain_entries_per_s": round(plain),
        "encode_over_plain": round(entries / plain, 1),
        "write_entries_per_s": round(written),
        "load_tokens_per_s": round(loaded),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "cores": len(os.sched_getaffinity(0)),
    }


class TrainingSteps:
    """Training steps as `fit` compiles them, on random tokens that are on the devices already.

    Attributes:
      compiled: `(state, frozen, dials, batch) -> (state, losses)`, as XLA made it.
      compile_s: seconds that XLA took (less where its compilation cache helped).
      state: of weights and optimizer, after what was run so far.
      parameters: how many numbers of a model are trained.
      steps_a_call: `training.steps_per_call`.
    """

    def __init__(
        self,
        shape: Shape,
        training: Pretrain,
        objective: Objective | None = None,
        together: int = 1,
    ):
        axis = ModelAxis(together, make_mesh())
        program = compiled_steps(axis, objective or next_token(shape), merge_all, training)
        params = forward.init(shape, jax.random.key(0))
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        self.steps_a_call = training.steps_per_call
        self.state = axis.stack([start(params, training, axis.alone)] * together)
        self._dials = axis.stack([job_hparams(training, 0, axis.alone)] * together)
        tokens = _tokens(shape, training, together)
        self._batch = jax.device_put(tokens, batch_sharding(axis.mesh, training.batch_size))
        lowered = program.lower(self.state, {}, self._dials, self._batch)
        started = time.perf_counter()
        self.compiled = lowered.compile()
        self.compile_s = time.perf_counter() - started

    def run(self, calls: int) -> float:
        """Seconds of `calls` calls, of `steps_a_call` steps each, until the last is done."""
        started = time.perf_counter()
        for _ in range(calls):
            self.state, losses = self.compiled(self.state, {}, self._dials, self._batch)
        jax.block_until_ready(losses)
        return time.perf_counter() - started


def _tokens(shape: Shape, training: Pretrain, together: int) -> dict[str, np.ndarray]:
    models = [together] if together > 1 else []
    size = training.steps_per_call, *models, training.batch_size, training.seq_len + 1
    return {"tokens": np.random.default_rng(0).integers(0, shape.vocabulary, size, np.int32)}


def train(experiment: Experiment, together: int = 1) -> dict[str, float | int | str]:
    """The training step of a configuration: forward, loss, backward and optimizer, nothing else.

    Returns: `tokens_per_s` and `step_ms`, medians of several rounds in the steady state;
    `mfu_full` and `mfu_causal`, the parts of the devices' peak by the two definitions of
    `flops_per_token`; `peak_flops_per_s` of all devices; `peak_memory_bytes`: of the fullest
    device, or of the process where devices do not report it, as on CPUs; `checkpoint_blocks_s`: how
    long a training waits for a checkpoint, and `checkpoint_s`: until it is whole on the disk of
    temporary files; and what was measured. Of several models `together` also `models_tokens_per_s`,
    the tokens that all of them read when one program trains them, `one_by_one_tokens_per_s`,
    measured in turn with it, and their ratio `together_over_one_by_one`.
    """
    with temporary_context(experiment) as context:
        training, shape = experiment.pretrain, context.shape
        objective = pretraining_objective(context)
    steps = TrainingSteps(shape, training, objective)
    step_s = _step_seconds(steps)
    tokens_per_s = training.batch_size * training.seq_len / step_s
    devices = jax.devices()
    flops, source = peak_flops(devices[0], shape.dtype)
    # Simulated devices share the processor that was measured as one.
    flops *= 1 if devices[0].platform == "cpu" else len(devices)
    full, causal = flops_per_token(steps.parameters, shape, training.seq_len)
    memory = peak_memory()
    blocks_s, written_s = _checkpoint_seconds(steps)
    more = {}
    if together > 1:
        several = TrainingSteps(shape, training, objective, together)
        more = _compared(several, together, steps, training.batch_size * training.seq_len)
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
        **more,
    }


def _checkpoint_seconds(steps: TrainingSteps) -> tuple[float, float]:
    """Of the second checkpoint of a process: until `save` returns, and until it is written."""
    state = {name: steps.state[name] for name in ("trainable", "optimizer")}
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            with open_checkpoints(pathlib.Path(folder) / "checkpoints") as checkpoints:
                started = time.perf_counter()
                checkpoints.save(1, **state)
                blocks_s = time.perf_counter() - started
            written_s = time.perf_counter() - started
    return blocks_s, written_s


def profile(experiment: Experiment) -> dict[str, float]:
    """What the time of a training step goes to: milliseconds by operation, as `costs` has them."""
    with temporary_context(experiment) as context:
        shape, objective = context.shape, pretraining_objective(context)
    steps = TrainingSteps(shape, experiment.pretrain, objective)
    steps.run(1)
    found = milliseconds_by_operation(lambda: steps.run(_PROFILED), steps.compiled)
    each = _PROFILED * steps.steps_a_call
    return {name: round(spent / each, 3) for name, spent in found.items()}


def _step_seconds(steps: TrainingSteps) -> float:
    """Of one step: the median of several rounds, after one call that is not counted."""
    steps.run(1)
    calls = max(1, round(_ROUND_SECONDS / steps.run(1)))
    seconds = np.median([steps.run(calls) for _ in range(_ROUNDS)])
    return float(seconds) / (calls * steps.steps_a_call)


def _compared(
    several: TrainingSteps, together: int, one: TrainingSteps, step_tokens: int
) -> dict[str, float | int]:
    """Medians of rounds in turn, each of as many steps of every model."""
    several.run(1)
    calls = max(1, round(_ROUND_SECONDS / several.run(1)))
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


def step_seconds(experiment: Experiment) -> float:
    """Seconds of a step of pretraining, for an estimate: compilation left out, one call measured.

    On a CPU, where a step of the paper's takes minutes, as many rows of the batch are tried as take
    about a second, and the rest is taken to be as slow.
    """
    with temporary_context(experiment) as context:
        shape, objective = context.shape, pretraining_objective(context)

    def tried(**fields: int) -> float:
        training = dataclasses.replace(experiment.pretrain, steps_per_call=1, **fields)
        steps = TrainingSteps(shape, training, objective)
        steps.run(1)
        return steps.run(1)

    if jax.default_backend() != "cpu":
        return tried()
    batch, one = experiment.pretrain.batch_size, tried(batch_size=1, grad_accum_steps=1)
    rows = min(batch, max(1, int(_ROUND_SECONDS / one)))
    return (one if rows == 1 else tried(batch_size=rows, grad_accum_steps=1)) * batch / rows


@contextlib.contextmanager
def temporary_context(experiment: Experiment) -> Iterator[Context]:
    """The context of a configuration over a temporary cache, with only the datasets written that
    its vocabulary depends on."""
    with tempfile.TemporaryDirectory() as folder:
        graph = ExperimentGraph(resolve_auto(experiment), Cache(pathlib.Path(folder)))
        runner = Runner(graph)
        if vocabulary_needs_corpora(graph):
            for stage in graph.datasets.values():
                runner.ensure(stage)
        yield runner.context


def qa(experiment: Experiment) -> dict[str, float | int | str]:
    """Questions answered a second, by an untrained model, which takes as long as a trained one."""
    with temporary_context(experiment) as context:
        shape, columns = context.shape, vars(context.questions())
    params = forward.init(shape, jax.random.key(0))
    asked = SpanExamples(**{name: column[:_QUESTIONS] for name, column in columns.items()})

    def answered(_: int) -> np.ndarray:
        return np.array([len(span_hits(shape, params, asked)[0])])

    return {
        "questions_per_s": round(float(_rates(answered)[0]), 1),
        "questions": len(asked),
        "tokens_each": asked.tokens.shape[1],
        "device": jax.devices()[0].platform,
        "device_kind": jax.devices()[0].device_kind,
        "dtype": shape.dtype,
    }


def _rates(action: Callable[[int], np.ndarray]) -> np.ndarray:
    """The median of what `action(i)` counts, a second, over calls for some seconds."""
    action(0)
    rates, begun, i = [], time.perf_counter(), 1
    while time.perf_counter() - begun < _SECONDS:
        started = time.perf_counter()
        counted = action(i)
        rates.append(counted / (time.perf_counter() - started))
        i += 1
    return np.median(rates, axis=0)


def _encoding(data: ExperimentData) -> np.ndarray:
    """Entries and tokens a second."""
    variant, table = data.variant, data.table

    def block(i: int) -> np.ndarray:
        numbers = np.arange(i * shards.ENTRIES_PER_RECORD, (i + 1) * shards.ENTRIES_PER_RECORD)
        rows = shards.biography_block(table, data.world.seed, variant, 0, numbers).texts
        return np.array([len(rows), len(rows.tokens)])

    return _rates(block)


def _plain(data: ExperimentData) -> float:
    language, variant = data.language, data.variant
    backend = data.table.tokenizer.backend

    def some(i: int) -> np.ndarray:
        person, entry = np.divmod(
            np.arange(i * 1000, (i + 1) * 1000), variant.biographies_per_person
        )
        who = draw_people(language.pools, data.world.seed, person)
        entries = write_biographies(language, data.world.seed, variant, who, entry)
        texts = [pieces_to_text(language, pieces) for pieces in entries.texts.pieces]
        return np.array([len([backend.encode(one).ids for one in texts])])

    return float(_rates(some)[0])


def _disk(
    data: ExperimentData, experiment: Experiment, folder: pathlib.Path
) -> tuple[float, float]:
    """Entries written, and tokens loaded, a second."""
    size = -(-_WRITTEN // data.variant.biographies_per_person)
    table, seed = data.table, data.world.seed
    parts = shards.biography_parts(table, seed, data.variant, 0, size)
    started = time.perf_counter()
    shards.write_dataset(shards.DatasetSpec({}, table.tokenizer, lambda: parts), folder)
    written = size * data.variant.biographies_per_person / (time.perf_counter() - started)
    closed = data.with_end_of_text(shards.read_dataset(folder).texts)
    training, vocabulary = experiment.pretrain, full_vocabulary(table.tokenizer)
    windows = Windows(RepeatedTexts(closed), training.seq_len, seed)

    def make(step: int, rows: range) -> dict[str, np.ndarray]:
        first = step * training.batch_size + rows.start
        return {"tokens": vocabulary.encode(windows.read(first, len(rows)))}

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    steps = 2 * _CALLS * training.steps_per_call
    feed = batches(make, 0, steps, training.steps_per_call, place, training.batch_size)
    for _ in range(_CALLS):
        next(feed)
    started, count = time.perf_counter(), 0
    for _, batch in feed:
        count += jax.block_until_ready(batch["tokens"]).size
    return written, count / (time.perf_counter() - started)
