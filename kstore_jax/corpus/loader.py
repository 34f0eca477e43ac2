"""Batches on their way to the devices: grain over the steps, read ahead, placed on the mesh."""

from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np

Batch = dict[str, np.ndarray]


def batches(
    make: Callable[[int, int], Batch],
    first: int,
    last: int,
    stride: int,
    sharding: jax.sharding.Sharding,
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    """Yields `(steps, batch)` for the steps first .. last - 1, `stride` of them together.

    Args:
      make: `(step, count) -> batch` with a leading axis of `count` steps, a pure function; it is
        called in a thread of its own, ahead of need.
      sharding: how the arrays of a batch lie on the mesh.
    """
    starts = range(first, last, stride)
    dataset = grain.MapDataset.range(len(starts)).map(
        lambda i: make(starts[i], min(stride, last - starts[i]))
    )
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    for start, batch in zip(starts, dataset.to_iter_dataset(options), strict=True):
        yield min(stride, last - start), jax.device_put(batch, sharding)
