"""Random streams of an experiment have names; the first ones keep their numbers."""

import jax
import numpy as np
import pytest

from kstore_jax.readouts.base import stream_key


def bits(key: jax.Array) -> list[int]:
    return np.asarray(jax.random.key_data(key)).tolist()


@pytest.mark.parametrize(
    ("stream", "number"), [("init", 0), ("lora", 1), ("p_probe", 2), ("q_probe", 2)]
)
@pytest.mark.parametrize("seed", [0, 7])
def test_old_streams_keep_their_numbers(seed, stream, number):
    expected = jax.random.fold_in(jax.random.key(seed), number)
    assert bits(stream_key(seed, stream)) == bits(expected)


def test_new_streams_differ_by_seed_and_name_and_stay_the_same():
    keys = [stream_key(0, name) for name in ("init", "lora", "p_probe", "v_probe", "v_probe2")]
    keys.append(stream_key(1, "v_probe"))
    assert len({tuple(bits(key)) for key in keys}) == len(keys)
    crc_32 = 0x414FA339  # of "The quick brown fox jumps over the lazy dog"
    sentence = "The quick brown fox jumps over the lazy dog"
    expected = jax.random.fold_in(jax.random.key(0), crc_32 & 0x7FFFFFFF)
    assert bits(stream_key(0, sentence)) == bits(expected)
