"""The loader gives the steps asked for, in order, from wherever it starts."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kstore_jax.corpus.loader import batches, local_rows


def made(step: int, rows: range) -> dict[str, np.ndarray]:
    return {"tokens": 10 * step + np.array(rows, np.int32)}


def loaded(first: int, last: int, stride: int, make=made, rows=range(3)):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return list(batches(make, first, last, stride, sharding, rows))


def test_the_last_chunk_is_short():
    counts, chunks = zip(*loaded(3, 13, 4), strict=True)
    assert counts == (4, 4, 2)
    assert [chunk["tokens"][:, 0].tolist() for chunk in chunks] == [
        [30, 40, 50, 60],
        [70, 80, 90, 100],
        [110, 120],
    ]
    assert chunks[0]["tokens"][1].tolist() == [40, 41, 42]
    assert all(isinstance(chunk["tokens"], jax.Array) for chunk in chunks)


@settings(max_examples=20)
@given(first=st.integers(0, 20), steps=st.integers(0, 20), stride=st.integers(1, 6))
def test_any_start_and_stride_gives_the_same_steps(first, steps, stride):
    chunks = loaded(first, first + steps, stride)
    joined = np.concatenate([np.zeros((0, 3), np.int32), *(c["tokens"] for _, c in chunks)])
    assert np.array_equal(joined, [made(first + i, range(3))["tokens"] for i in range(steps)] or joined)
    assert sum(count for count, _ in chunks) == steps


def test_an_error_in_the_making_of_a_batch_is_not_lost():
    def broken(step, rows):
        if step == 4:
            raise RuntimeError("disk full")
        return made(step, rows)

    with pytest.raises(RuntimeError, match="disk full"):
        loaded(0, 8, 2, broken)


@given(
    share=st.integers(1, 8),
    processes=st.sampled_from([1, 2, 4]),
    first=st.integers(0, 20),
    stride=st.integers(1, 3),
)
@settings(max_examples=20)
def test_what_the_processes_read_is_together_the_batch(share, processes, first, stride):
    batch = share * processes
    whole = loaded(first, first + 4, stride, rows=range(batch))
    parts = [
        loaded(first, first + 4, stride, rows=local_rows(batch, processes, process))
        for process in range(processes)
    ]
    for chunk, (_, expected) in enumerate(whole):
        together = np.concatenate([part[chunk][1]["tokens"] for part in parts], axis=1)
        assert np.array_equal(together, expected["tokens"])
