"""Batches on their way to the devices: grain over the steps, read ahead, placed on the mesh."""

from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np

Batch = dict[str, np.ndarray]
MakeBatch = Callable[[int, range], Batch]


def local_rows(sharding: jax.sharding.Sharding, batch: int) -> range:
    """The rows of a batch, as `batches` places it, from the first to the last that lies on a device
    of this process."""
    if sharding.is_fully_addressable:
        return range(batch)
    places = sharding.addressable_devices_indices_map((1, batch)).values()
    rows = [range(batch)[of_rows] for _, of_rows in places]
    return range(min(part.start for part in rows), max(part.stop for part in rows))


def batches(
    make: MakeBatch,
    first: int,
    last: int,
    stride: int,
    sharding: jax.sharding.Sharding,
    batch: int,
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    """Yields `(steps, batch)` for the steps first .. last - 1, `stride` of them together.

    Args:
      make: `(step, rows) -> batch`, those rows of the batch of a step, a pure function; it is
        called in a thread of its own, ahead of need, for the rows that lie on devices of this
        process.
      sharding: how the arrays of a batch, with a leading axis of steps, lie on the mesh.
      batch: how many rows it has.
    """
    starts, rows = range(first, last, stride), local_rows(sharding, batch)

    def placed(array: np.ndarray) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)

        def part(index: tuple[slice, ...]) -> np.ndarray:
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
        yield min(stride, last - start), jax.tree.map(placed, made)
