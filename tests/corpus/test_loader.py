"""The loader gives the steps asked for, in order, from wherever it starts."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kstore_jax.corpus.loader import batches


def made(step: int, count: int) -> dict[str, np.ndarray]:
    steps = np.arange(step, step + count, dtype=np.int32)
    return {"tokens": np.repeat(steps[:, None], 3, axis=1)}


def loaded(first: int, last: int, stride: int, make=made):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return list(batches(make, first, last, stride, sharding))


def test_the_last_chunk_is_short():
    counts, chunks = zip(*loaded(3, 13, 4), strict=True)
    assert counts == (4, 4, 2)
    assert [chunk["tokens"][:, 0].tolist() for chunk in chunks] == [
        [3, 4, 5, 6],
        [7, 8, 9, 10],
        [11, 12],
    ]
    assert all(isinstance(chunk["tokens"], jax.Array) for chunk in chunks)


@settings(max_examples=20)
@given(first=st.integers(0, 20), steps=st.integers(0, 20), stride=st.integers(1, 6))
def test_any_start_and_stride_gives_the_same_steps(first, steps, stride):
    chunks = loaded(first, first + steps, stride)
    joined = np.concatenate([np.zeros((0, 3), np.int32), *(c["tokens"] for _, c in chunks)])
    assert np.array_equal(joined, made(first, steps)["tokens"])
    assert sum(count for count, _ in chunks) == steps


def test_an_error_in_the_making_of_a_batch_is_not_lost():
    def broken(step, count):
        if step == 4:
            raise RuntimeError("disk full")
        return made(step, count)

    with pytest.raises(RuntimeError, match="disk full"):
        loaded(0, 8, 2, broken)
