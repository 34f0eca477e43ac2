"""Counter-based randomness: every draw is a pure function of a seed and the indices it is for.

Numpy's own generators are sequential; what is needed here is "draw number (person, entry,
attribute)" for arrays of indices at once, in any order and without state. The mixing function is
the finaliser of SplitMix64 (Steele, Lea and Flood 2014), applied once for each index.
"""

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """Mixes x in place and returns it."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _absorb(state: np.ndarray, index: np.ndarray) -> np.ndarray:
    return _mix(state + (index * _GOLDEN + _GOLDEN))


def bits(seed: int, purpose: str, *indices) -> np.ndarray:
    """64 random bits for each element of the broadcast `indices` (uint64).

    Args:
      seed: any Python integer.
      purpose: a name that keeps draws for different things independent.
      *indices: integers or integer arrays that broadcast against each other.
    """
    start = (seed * 0x632BE59BD9B4E019 + zlib.crc32(purpose.encode())) % 2**64
    with np.errstate(over="ignore"):
        state = _mix(np.asarray([start], np.uint64) + _GOLDEN)
        for index in indices:
            state = _absorb(state, np.asarray(index).astype(np.uint64))
    shape = np.broadcast_shapes(*(np.shape(index) for index in indices))
    return np.broadcast_to(state, np.broadcast_shapes(shape, state.shape)).reshape(shape)


def randint(n: int, seed: int, purpose: str, *indices) -> np.ndarray:
    """A uniform integer in [0, n), n < 2**31, for each element of the broadcast `indices`."""
    high = bits(seed, purpose, *indices) >> np.uint64(32)
    return ((high * np.uint64(n)) >> np.uint64(32)).astype(np.int64)


def permute_index(n: int, seed: int, purpose: str, index) -> np.ndarray:
    """A keyed bijection of [0, n): the place of each `index` (int64), in O(1) memory.

    A four-round Feistel network on the smallest even number of bits that holds n, walked until it
    lands inside the domain (Black and Rogaway 2002).
    """
    shape = np.shape(index)
    index = np.atleast_1d(np.asarray(index, np.uint64))
    half = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = bits(seed, purpose, np.arange(4))

    def once(x):
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_absorb(key, right) & mask)
        return (left << half) | right

    place = once(index)
    while (outside := place >= n).any():
        place[outside] = once(place[outside])
    return place.astype(np.int64).reshape(shape)


def permutation(n: int, seed: int, purpose: str, index: int) -> np.ndarray:
    """A uniformly random order of range(n) (int64), a function of `(seed, purpose, index)`."""
    key = bits(seed, purpose, index, np.arange(2))
    return np.random.Generator(np.random.Philox(key=key)).permutation(n)
