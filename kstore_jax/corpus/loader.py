"""Batches on their way to the devices: grain over the steps, read ahead, placed on the mesh."""

from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np

Batch = dict[str, np.ndarray]
MakeBatch = Callable[[int, range], Batch]


def local_rows(batch: int, processes: int, process: int) -> range:
    """The rows of a batch that belong to one of several processes, in the order of the mesh."""
    share = batch // processes
    return range(process * share, (process + 1) * share)


def batches(
    make: MakeBatch,
    first: int,
    last: int,
    stride: int,
    sharding: jax.sharding.Sharding,
    rows: range,
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    """Yields `(steps, batch)` for the steps first .. last - 1, `stride` of them together.

    Args:
      make: `(step, rows) -> batch`, those rows of the batch of a step, a pure function; it is
        called in a thread of its own, ahead of need.
      sharding: how the arrays of a batch, with a leading axis of steps, lie on the mesh.
      rows: those that this process reads.
    """
    starts = range(first, last, stride)

    def several(i: int) -> Batch:
        steps = range(starts[i], min(last, starts[i] + stride))
        made = [make(step, rows) for step in steps]
        return {name: np.stack([batch[name] for batch in made]) for name in made[0]}

    dataset = grain.MapDataset.range(len(starts)).map(several)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    for start, batch in zip(starts, dataset.to_iter_dataset(options), strict=True):
        placed = {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in batch.items()
        }
        yield min(stride, last - start), placed
