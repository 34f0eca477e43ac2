"""Fresh text: every epoch has a new biography of everyone, in blocks."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from kstore_jax.corpus import fresh
from kstore_jax.corpus.encode import encode_biographies
from kstore_jax.world.biographies import Variant, write_biographies
from kstore_jax.world.people import draw_people

SEED, FIRST, PEOPLE = 3, 1000, 100
FRESH = Variant.parse("fresh")


def block(table, number: int) -> list[bytes]:
    """The tokens of each text of a block."""
    texts = fresh.fresh_block(table, SEED, FRESH, FIRST, PEOPLE, number)
    return [row.tobytes() for row in np.split(texts.tokens, texts.offsets[1:-1])]


def epoch(table, number: int) -> list[bytes]:
    """The tokens of that biography of everyone."""
    people = draw_people(table.language.pools, SEED, FIRST + np.arange(PEOPLE))
    entries = np.full(PEOPLE, number)
    texts = encode_biographies(
        table, write_biographies(table.language, SEED, FRESH, people, entries)
    )
    return [row.tobytes() for row in np.split(texts.tokens, texts.offsets[1:-1])]


def test_a_block_is_an_epoch_where_it_holds_everyone(table):
    assert fresh.num_blocks(PEOPLE) == 1
    assert block(table, 7) == epoch(table, 7)


@pytest.mark.parametrize("size", [30, 50, 99])
def test_the_blocks_of_an_epoch_hold_everyone_once_and_differ_by_epoch(table, monkeypatch, size):
    monkeypatch.setattr(fresh, "PEOPLE_PER_BLOCK", size)
    blocks = fresh.num_blocks(PEOPLE)
    assert (blocks - 1) * size < PEOPLE <= blocks * size
    first_of = []
    for number in (0, 5):
        of_epoch = [block(table, number * blocks + b) for b in range(blocks)]
        assert [len(texts) for texts in of_epoch[:-1]] == [size] * (blocks - 1)
        everyone = epoch(table, number)
        assert sorted(itertools.chain(*of_epoch)) == sorted(everyone)
        first_of.append({everyone.index(text) for text in of_epoch[0]})
    assert first_of[0] != first_of[1]


MANY = """
import re

from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.mixture import pretraining_windows

experiment = parse({"world": {"people": 20_000_000}, "data": {"variant": "fresh"}})
data = ExperimentData(experiment.world, experiment.data)
windows = pretraining_windows(data, lambda kind: {}[kind], experiment.tasks, 512, 0)
assert windows.read(10, 2).shape == (2, 513)
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_fresh_text_about_20_million_people_takes_little_memory():
    kib = int(subprocess.run([sys.executable, "-c", MANY], check=True, capture_output=True).stdout)
    assert kib < 2**20, "an epoch has 1.4 billion tokens of two bytes"
