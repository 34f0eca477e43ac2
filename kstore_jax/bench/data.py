"""Benchmark of the data path on one core: making, writing and loading biographies."""

import os
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from kstore_jax.corpus import shards
from kstore_jax.corpus.encode import full_vocabulary
from kstore_jax.corpus.sampler import RepeatedTexts, Windows
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.train.loader import batches
from kstore_jax.world.biographies import write_biographies
from kstore_jax.world.language import pieces_to_text
from kstore_jax.world.people import draw_people

_SECONDS = 4.0  # of measuring a rate
_ENTRIES = 500_000  # of the dataset that is written and read: the paper's size
_CALLS = 50  # loaded batches of `steps_per_call` steps, after as many that are not timed
_PLAIN_ENTRIES = 1000  # rendered and tokenised between two looks at the clock


def measure_data(experiment: Experiment) -> dict[str, float | int]:
    """Measures making, writing and loading biographies, on one core.

    Returns: `encode_*`: people, text and spans as token ids in memory. `plain_entries_per_s`: the
    same text rendered as strings and tokenised by the `tokenizers` library, one core, to compare
    with. `write_entries_per_s`: into shards, hashes included. `load_tokens_per_s`: batches of the
    configuration's windows through grain onto the device. `peak_memory_bytes`: of the process.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    data = ExperimentData(experiment.world, experiment.data)
    entries, tokens = _encode_rates(data)
    plain = _plain_rate(data)
    with tempfile.TemporaryDirectory() as folder:
        dataset = pathlib.Path(folder) / "dataset"
        written, loaded = _write_rate(data, dataset), _load_rate(data, experiment, dataset)
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


def median_rates(action: Callable[[int], np.ndarray]) -> np.ndarray:
    """Returns medians of counts a second, over calls during some seconds.

    Args:
      action: `i -> counts` of call i; call 0 is not timed.
    """
    action(0)
    rates, begun, i = [], time.perf_counter(), 1
    while time.perf_counter() - begun < _SECONDS:
        started = time.perf_counter()
        counts = action(i)
        rates.append(counts / (time.perf_counter() - started))
        i += 1
    return np.median(rates, axis=0)


def _encode_rates(data: ExperimentData) -> np.ndarray:
    """Entries and tokens a second."""
    variant, table = data.variant, data.table

    def encode_block(i: int) -> np.ndarray:
        numbers = np.arange(i * shards.ENTRIES_PER_RECORD, (i + 1) * shards.ENTRIES_PER_RECORD)
        rows = shards.biography_block(table, data.world.seed, variant, 0, numbers).texts
        return np.array([len(rows), len(rows.tokens)])

    return median_rates(encode_block)


def _plain_rate(data: ExperimentData) -> float:
    """Entries a second by way of strings."""
    language, variant = data.language, data.variant
    backend = data.table.tokenizer.backend

    def tokenize_strings(i: int) -> np.ndarray:
        numbers = np.arange(i * _PLAIN_ENTRIES, (i + 1) * _PLAIN_ENTRIES)
        person, entry = np.divmod(numbers, variant.biographies_per_person)
        people = draw_people(language.pools, data.world.seed, person)
        entries = write_biographies(language, data.world.seed, variant, people, entry)
        texts = [pieces_to_text(language, pieces) for pieces in entries.texts.pieces]
        return np.array([len([backend.encode(text).ids for text in texts])])

    return float(median_rates(tokenize_strings)[0])


def _write_rate(data: ExperimentData, folder: pathlib.Path) -> float:
    """Entries a second; leaves the dataset in `folder`."""
    table, per_person = data.table, data.variant.biographies_per_person
    people = -(-_ENTRIES // per_person)
    parts = shards.biography_parts(table, data.world.seed, data.variant, 0, people)
    started = time.perf_counter()
    shards.write_dataset(shards.DatasetSpec({}, table.tokenizer, lambda: parts), folder)
    return people * per_person / (time.perf_counter() - started)


def _load_rate(data: ExperimentData, experiment: Experiment, folder: pathlib.Path) -> float:
    """Tokens a second, of the dataset in `folder`."""
    texts = data.with_end_of_text(shards.read_dataset(folder).texts)
    training, vocabulary = experiment.pretrain, full_vocabulary(data.table.tokenizer)
    windows = Windows(RepeatedTexts(texts), training.seq_len, data.world.seed)

    def make(step: int, rows: range) -> dict[str, np.ndarray]:
        first = step * training.batch_size + rows.start
        return {"tokens": vocabulary.encode(windows.read(first, len(rows)))}

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    steps = 2 * _CALLS * training.steps_per_call
    loader = batches(make, 0, steps, training.steps_per_call, sharding, training.batch_size)
    for _ in range(_CALLS):
        next(loader)
    started, tokens = time.perf_counter(), 0
    for _, batch in loader:
        tokens += jax.block_until_ready(batch["tokens"]).size
    return tokens / (time.perf_counter() - started)
