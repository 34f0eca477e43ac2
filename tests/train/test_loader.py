"""The loader gives the steps asked for, in order, from wherever it starts."""

import json
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kstore_jax.train.loader import batches


def made(step: int, rows: range) -> dict[str, np.ndarray]:
    return {"tokens": 10 * step + np.array(rows, np.int32)}


def loaded(first: int, last: int, stride: int, make=made):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return list(batches(make, first, last, stride, sharding, 3))


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
    assert np.array_equal(
        joined, [made(first + i, range(3))["tokens"] for i in range(steps)] or joined
    )
    assert sum(count for count, _ in chunks) == steps


def test_an_error_in_the_making_of_a_batch_is_not_lost():
    def broken(step, rows):
        if step == 4:
            raise RuntimeError("disk full")
        return made(step, rows)

    with pytest.raises(RuntimeError, match="disk full"):
        loaded(0, 8, 2, broken)


PROCESS = """
import json, sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from kstore_jax.train.loader import batches
from kstore_jax.corpus.sampler import RepeatedTexts, Windows
from kstore_jax.corpus.encode import without_spans

port, (process, processes, data, batch) = sys.argv[1], map(int, sys.argv[2:])
if processes > 1:
    jax.distributed.initialize(f"localhost:{port}", processes, process)
assert jax.process_count() == processes == jax.device_count()
axes = ("data", "tensor")
mesh = jax.make_mesh((data, processes // data), axes, axis_types=(AxisType.Auto,) * 2)
lengths = np.arange(1, 40)
tokens = np.arange(lengths.sum(), dtype=np.uint16)
windows = Windows(RepeatedTexts(without_spans(tokens, lengths)), 16, 3)
read = set()

def make(step, rows):
    read.add((rows.start, rows.stop))
    first = step * batch + rows.start
    return {"tokens": windows.read(first, len(rows)).astype(np.int32)}

sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
found = []
for _, made in batches(make, 5, 11, 2, sharding, batch):
    assert made["tokens"].shape == (2, batch, 17)
    (shard,) = made["tokens"].addressable_shards
    of_rows = range(batch)[shard.index[1]]
    assert read == {(of_rows.start, of_rows.stop)}
    found.append([of_rows.start, np.asarray(shard.data).tolist()])
total = jax.jit(lambda x: (x * np.arange(1, batch + 1)[None, :, None]).sum())(made["tokens"])
print(json.dumps([found, int(total)]))
"""


def read_by(processes: int, data: int, batch: int) -> list:
    """What each of some real processes found, of one device each, `data` of them with rows of their
    own: the rows on its device of every chunk, and a sum over all rows."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", PROCESS, port]
    sizes = [str(processes), str(data), str(batch)]
    running = [
        subprocess.Popen([*command, str(process), *sizes], stdout=subprocess.PIPE, text=True)
        for process in range(processes)
    ]
    try:
        return [json.loads(one.communicate(timeout=300)[0].splitlines()[-1]) for one in running]
    finally:
        for one in running:
            one.kill()


@pytest.mark.parametrize(("processes", "data", "batch"), [(2, 2, 4), (4, 2, 6)])
def test_on_each_device_lie_its_rows_of_the_batch_that_one_process_reads(processes, data, batch):
    """Also where several processes share rows, and are more than the batch can be divided by."""
    ((whole, total),) = read_by(1, 1, batch)
    parts = read_by(processes, data, batch)
    assert [found[0][0] for found, _ in parts] == sorted(
        batch // data * (process % data) for process in range(processes)
    )
    for found, sum_of_all in parts:
        assert sum_of_all == total
        for (start, rows), (_, expected) in zip(found, whole, strict=True):
            assert rows == [of_step[start : start + batch // data] for of_step in expected]
