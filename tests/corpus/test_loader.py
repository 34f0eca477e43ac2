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


PROCESS = """
import json, sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from kstore_jax.corpus.loader import batches, local_rows
from kstore_jax.corpus.sampler import Repeated, Windows
from kstore_jax.corpus.encode import plain_rows

port, processes, process = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if processes > 1:
    jax.distributed.initialize(f"localhost:{port}", processes, process)
assert jax.process_count() == processes == jax.device_count()
mesh = jax.make_mesh((processes,), ("data",), axis_types=(AxisType.Auto,))
lengths = np.arange(1, 40)
windows = Windows(Repeated(plain_rows(np.arange(lengths.sum(), dtype=np.uint16), lengths)), 16, 3)
batch = 4

def make(step, rows):
    first = step * batch + rows.start
    return {"tokens": windows.windows(first, len(rows)).astype(np.int32)}

sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
rows = local_rows(batch, processes, process)
found = []
for _, made in batches(make, 5, 11, 2, sharding, rows):
    assert made["tokens"].shape == (2, batch, 17)
    (shard,) = made["tokens"].addressable_shards
    found.append([shard.index[1].start or 0, np.asarray(shard.data).tolist()])
total = jax.jit(lambda x: (x * np.arange(1, batch + 1)[None, :, None]).sum())(made["tokens"])
print(json.dumps([found, int(total)]))
"""


def read_by(processes: int) -> list:
    """What each of some real processes found: its rows of every chunk, and a sum over all rows."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", PROCESS, port, str(processes)]
    running = [
        subprocess.Popen([*command, str(process)], stdout=subprocess.PIPE, text=True)
        for process in range(processes)
    ]
    try:
        return [json.loads(one.communicate(timeout=120)[0].splitlines()[-1]) for one in running]
    finally:
        for one in running:
            one.kill()


def test_two_processes_read_the_rows_of_the_batch_that_one_reads():
    ((whole, total),) = read_by(1)
    parts = sorted(read_by(2))
    assert [part[0][0][0] for part in parts] == [0, 2]
    assert [part[1] for part in parts] == [total, total]
    for chunk, (_, expected) in enumerate(whole):
        together = np.concatenate([part[0][chunk][1] for part in parts], axis=1)
        assert together.tolist() == expected
