"""Loads batches: grain over the steps, read ahead, sharded over the mesh."""

from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import numpy as np

Batch = dict[str, np.ndarray]
MakeBatch = Callable[[int, range], Batch]


def local_rows(sharding: jax.sharding.Sharding, batch: int) -> range:
    """The rows of a batch on devices of this process, from the first to the last."""
    if sharding.is_fully_addressable:
        return range(batch)
    indices = sharding.addressable_devices_indices_map((1, batch)).values()
    rows = [range(batch)[index[1]] for index in indices if index is not None]
    return range(min(part.start for part in rows), max(part.stop for part in rows))


def batches(
    make: MakeBatch,
    first: int,
    last: int,
    stride: int,
    sharding: jax.sharding.Sharding,
    batch: int,
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    """Yields `(steps, batch)` for the steps first .. last - 1, `stride` of them at a time.

    Args:
      make: `(step, rows) -> batch`: those rows of the batch of a step, a pure function. It runs
        ahead in its own thread, for the rows on devices of this process.
      sharding: of the arrays of a batch, with a leading axis of steps.
      batch: rows of a batch.
    """
    starts, rows = range(first, last, stride), local_rows(sharding, batch)

    def place(array: np.ndarray) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)

        def part(index: Any) -> np.ndarray:
            wanted = range(batch)[index[1]]
            return array[index[0], wanted.start - rows.start : wanted.stop - rows.start]

        whole = (array.shape[0], batch, *array.shape[2:])
        return jax.make_array_from_callback(whole, sharding, part)

    def several(i: int) -> Batch:
        steps = range(starts[i], min(last, starts[i] + stride))
        made = [make(step, rows) for step in steps]
        return {name: np.stack([batch[name] for batch in made]) for name in made[0]}

    dataset = grain.MapDataset.range(len(starts)).map(several)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    for start, made in zip(starts, dataset.to_iter_dataset(options), strict=True):
        yield min(stride, last - start), jax.tree.map(place, made)
