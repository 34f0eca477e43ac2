"""Counter-based randomness: every draw is a pure function of a seed and its indices.

NumPy's generators are sequential. Here, draw number (person, entry, attribute) is computed for
arrays of indices at once, in any order and without state. The mixing function is the finaliser of
SplitMix64 (Steele, Lea and Flood 2014), applied once for each index.
"""

import zlib

import numpy as np
from numpy.typing import ArrayLike

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """Mixes x (uint64) in place and returns it."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _absorb(state: np.ndarray, index: np.ndarray) -> np.ndarray:
    return _mix(state + (index * _GOLDEN + _GOLDEN))


def bits(seed: int, purpose: str, *indices: ArrayLike) -> np.ndarray:
    """Returns 64 random bits for each element of the broadcast `indices` (uint64).

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


def randint(n: ArrayLike, seed: int, purpose: str, *indices: ArrayLike) -> np.ndarray:
    """Returns a uniform integer in [0, n), n < 2**31, for each element of the broadcast `indices`
    (int64); `n` may be an array that broadcasts against them."""
    high = bits(seed, purpose, *indices) >> np.uint64(32)
    return ((high * np.asarray(n, np.uint64)) >> np.uint64(32)).astype(np.int64)


def permute_index(n: int, seed: int, purpose: str, index: ArrayLike) -> np.ndarray:
    """Returns the image of each `index` (int64) under a keyed bijection of [0, n), in O(1) memory.

    The bijection is a four-round Feistel network on the smallest even number of bits that holds n,
    iterated until it lands inside the domain (cycle walking, Black and Rogaway 2002).
    """
    shape = np.shape(index)
    index = np.atleast_1d(np.asarray(index, np.uint64))
    half = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = bits(seed, purpose, np.arange(4))

    def feistel(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_absorb(key, right) & mask)
        return (left << half) | right

    image = feistel(index)
    while (outside := image >= n).any():
        image[outside] = feistel(image[outside])
    return image.astype(np.int64).reshape(shape)


def permutation(n: int, seed: int, purpose: str, index: int) -> np.ndarray:
    """Returns a uniformly random order of range(n) (int64), a function of its arguments."""
    key = bits(seed, purpose, index, np.arange(2))
    return np.random.Generator(np.random.Philox(key=key)).permutation(n)


def shuffled_members(mask: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Returns the indices where `mask` (N,) bool is true in a uniformly random order, a function of
    the arguments."""
    members = np.flatnonzero(mask)
    return members[permutation(len(members), seed, purpose, 0)]
