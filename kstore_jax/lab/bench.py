"""How fast this machine is at what the project does; every figure is measured on the spot."""

import os
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from kstore_jax.config import Experiment
from kstore_jax.corpus import shards
from kstore_jax.corpus.loader import batches
from kstore_jax.corpus.sampler import Repeated, Windows
from kstore_jax.lab.materials import Materials
from kstore_jax.world.biographies import write
from kstore_jax.world.language import text
from kstore_jax.world.people import people

_SECONDS = 4.0  # of measuring a rate
_WRITTEN = 500_000  # entries of the data set that is written and read, the paper's size
_STEPS = 50


def data(experiment: Experiment) -> dict[str, float | int]:
    """Making, writing and loading biographies, on one core.

    Returns: `encode_*`: people, text and spans as token ids in memory. `plain_entries_per_s`: the
    same text rendered as strings and tokenised by the `tokenizers` library, one core, to compare
    with. `write_entries_per_s`: into shards, hashes included. `load_tokens_per_s`: batches of the
    configuration's windows through grain onto the device. `peak_memory_bytes`: of the process.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    materials = Materials(experiment)
    entries, tokens = _encoding(materials)
    plain = _plain(materials)
    with tempfile.TemporaryDirectory() as folder:
        written, loaded = _disk(materials, experiment, pathlib.Path(folder) / "dataset")
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


def _encoding(materials: Materials) -> np.ndarray:
    """Entries and tokens a second."""
    variant, table = materials.variant, materials.table

    def block(i: int) -> np.ndarray:
        numbers = np.arange(i * shards.BLOCK, (i + 1) * shards.BLOCK)
        rows = shards.biographies(table, materials.world.seed, variant, 0, numbers).rows
        return np.array([len(rows), len(rows.tokens)])

    return _rates(block)


def _plain(materials: Materials) -> float:
    language, variant = materials.language, materials.variant
    backend = materials.table.tokenizer.backend

    def some(i: int) -> np.ndarray:
        person, entry = np.divmod(np.arange(i * 1000, (i + 1) * 1000), variant.entries)
        who = people(language.pools, materials.world.seed, person)
        entries = write(language, materials.world.seed, variant, who, entry)
        texts = [text(language, pieces) for pieces in entries.texts.pieces]
        return np.array([len([backend.encode(one).ids for one in texts])])

    return float(_rates(some)[0])


def _disk(
    materials: Materials, experiment: Experiment, folder: pathlib.Path
) -> tuple[float, float]:
    """Entries written, and tokens loaded, a second."""
    size = -(-_WRITTEN // materials.variant.entries)
    table, seed = materials.table, materials.world.seed
    parts = shards.biography_parts(table, seed, materials.variant, 0, size)
    started = time.perf_counter()
    shards.write_dataset(shards.Dataset({}, table.tokenizer, lambda: parts), folder)
    written = size * materials.variant.entries / (time.perf_counter() - started)
    closed = materials.closed(shards.read_dataset(folder).rows)
    training, vocabulary = experiment.pretrain, materials.vocabulary
    windows = Windows(Repeated(closed), training.window, seed)

    def make(step: int, rows: range) -> dict[str, np.ndarray]:
        first = step * training.batch + rows.start
        return {"tokens": vocabulary.encode(windows.windows(first, len(rows)))}

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    feed = batches(make, 0, 2 * _STEPS, 1, place, range(training.batch))
    for _ in range(_STEPS):
        next(feed)
    started, count = time.perf_counter(), 0
    for _, batch in feed:
        count += jax.block_until_ready(batch["tokens"]).size
    return written, count / (time.perf_counter() - started)
