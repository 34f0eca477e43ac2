"""Training windows as pure functions of the seed and their index; no state."""

import bisect
import dataclasses
import fractions
import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts, ragged_indices
from kstore_jax.errors import UserError
from kstore_jax.world import random


class Epochs(Protocol):
    """An endless sequence of epochs, each a set of texts."""

    def read(self, epoch: int) -> TokenizedTexts:
        """Returns the texts of an epoch in any order; each ends with the end of text."""
        ...

    def tokens_before(self, epoch: int) -> int:
        """Returns the number of tokens in all epochs before this one."""
        ...

    def epoch_of(self, token: int) -> int:
        """Returns the epoch of a token, which is counted from the start of epoch 0."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class RepeatedTexts:
    """The same texts in every epoch."""

    texts: TokenizedTexts

    def read(self, epoch: int) -> TokenizedTexts:
        return self.texts

    def tokens_before(self, epoch: int) -> int:
        return epoch * int(self.texts.offsets[-1])

    def epoch_of(self, token: int) -> int:
        return token // int(self.texts.offsets[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class FreshTexts:
    """New texts in every epoch (Part 3.3).

    The start of an epoch depends on the lengths of all epochs before it, which are written once to
    count their tokens.

    Attributes:
      write: returns the texts of an epoch; a pure function.
    """

    write: Callable[[int], TokenizedTexts]
    _starts: list[int] = dataclasses.field(default_factory=lambda: [0], init=False)

    @functools.cached_property
    def _cached_write(self) -> Callable[[int], TokenizedTexts]:
        return functools.lru_cache(maxsize=2)(self.write)  # a window may span two epochs

    def read(self, epoch: int) -> TokenizedTexts:
        return self._cached_write(epoch)

    def tokens_before(self, epoch: int) -> int:
        while len(self._starts) <= epoch:
            last = self.read(len(self._starts) - 1)
            self._starts.append(self._starts[-1] + int(last.offsets[-1]))
        return self._starts[epoch]

    def epoch_of(self, token: int) -> int:
        while self._starts[-1] <= token:
            self.tokens_before(len(self._starts))
        return bisect.bisect_right(self._starts, token) - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Texts packed into windows (Part 3.1, section 3).

    Every epoch shuffles all its texts, keyed by `(seed, epoch)`, and concatenates them; the epochs
    form one endless stream. Window k is tokens `[k * seq_len, (k + 1) * seq_len]`, both ends
    included: neighbours share one token, so that every token is predicted exactly once per epoch.

    Attributes:
      epochs: the texts.
      seq_len: predicted tokens per window.
      purpose: key of the draws that keeps the orders of several sources independent.
    """

    epochs: Epochs
    seq_len: int
    seed: int
    purpose: str = "pass"

    @functools.cached_property
    def _order(self) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        """epoch -> the order of its texts (E,) and the end of each in that order (E,)."""

        def order_of(epoch: int) -> tuple[np.ndarray, np.ndarray]:
            texts = self.epochs.read(epoch)
            order = random.permutation(len(texts), self.seed, self.purpose, epoch)
            return order, np.cumsum(texts.lengths[order])

        return functools.lru_cache(maxsize=2)(order_of)  # a window seldom spans more epochs

    def stream(self, start: int, stop: int) -> np.ndarray:
        """Returns tokens [start, stop) of the stream."""
        parts = []
        while start < stop:
            epoch = self.epochs.epoch_of(start)
            before = self.epochs.tokens_before(epoch)
            begin, end = start - before, min(stop, self.epochs.tokens_before(epoch + 1)) - before
            texts, (order, ends) = self.epochs.read(epoch), self._order(epoch)
            first, last = np.searchsorted(ends, [begin, end - 1], side="right")
            rows = order[first : last + 1]
            lengths = texts.offsets[rows + 1] - texts.offsets[rows]
            tokens = texts.tokens.take(ragged_indices(texts.offsets[rows], lengths))
            skip = begin - (int(ends[first]) - int(lengths[0]))
            parts.append(tokens[skip : skip + end - begin])
            start = before + end
        return np.concatenate(parts)

    def read(self, first: int, count: int) -> np.ndarray:
        """Returns windows first .. first + count - 1, (count, seq_len + 1)."""
        start = first * self.seq_len
        stream = self.stream(start, start + count * self.seq_len + 1)
        return np.lib.stride_tricks.sliding_window_view(stream, self.seq_len + 1)[:: self.seq_len]


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Windows of several sources, in exact shares.

    Windows come in groups of `sum(weights)`. A group holds the next `weights[s]` windows of each
    source s, in an order drawn for the group. So window k of the mixture depends on k alone.

    Attributes:
      sources: windows of one `seq_len`.
      weights: windows of each source per group, from `integer_weights`.
    """

    sources: tuple[Windows, ...]
    weights: tuple[int, ...]
    seed: int

    def source_of(self, first: int, count: int) -> np.ndarray:
        """Returns the source of each of the windows first .. first + count - 1, (count,)."""
        return self._sources(first, count)[0]

    def _sources(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The source of each window (count,), and the number of windows of each source before the
        first one (sources,)."""
        windows_per_group = sum(self.weights)
        unshuffled = np.repeat(np.arange(len(self.weights)), self.weights)
        group, skip = divmod(first, windows_per_group)
        groups = range(group, -(-(first + count) // windows_per_group))
        order = np.concatenate(
            [
                unshuffled[random.permutation(windows_per_group, self.seed, "mixture", g)]
                for g in groups
            ]
        )
        before = np.bincount(order[:skip], minlength=len(self.weights))
        return order[skip : skip + count], group * np.array(self.weights) + before

    def read(self, first: int, count: int) -> np.ndarray:
        """Returns windows first .. first + count - 1, (count, seq_len + 1)."""
        source, before = self._sources(first, count)
        parts = {
            s: windows.read(int(before[s]), int((source == s).sum()))
            for s, windows in enumerate(self.sources)
            if (source == s).any()
        }
        arrays = list(parts.values())
        out = np.empty((count, arrays[0].shape[1]), np.result_type(*arrays))
        for s, part in parts.items():
            out[source == s] = part
        return out


def integer_weights(shares: Sequence[float]) -> tuple[int, ...]:
    """Returns the smallest integers in the proportion of these shares, with a sum of at most 1000.

    Where there are none, the shares are rounded to thousandths.

    Raises:
      UserError: a share is less than half a thousandth.
    """
    ratios = [fractions.Fraction(share).limit_denominator(1000) for share in shares]
    common = math.lcm(*(ratio.denominator for ratio in ratios))
    common = common if common <= 1000 else 1000
    exact = [share * common / sum(shares) for share in shares]
    weights = [math.floor(weight + 1e-6) for weight in exact]
    largest_remainder_first = sorted(range(len(shares)), key=lambda s: weights[s] - exact[s])
    for s in largest_remainder_first[: common - sum(weights)]:
        weights[s] += 1
    if not all(weights):
        raise UserError(
            f"data: expected at least a thousandth of the windows, got a share of {min(shares):g}"
        )
    return tuple(weight // math.gcd(*weights) for weight in weights)


@dataclasses.dataclass(frozen=True, eq=False)
class ShuffledIndices:
    """An endless sequence of the indices of `count` items: each once per epoch, in a new order."""

    count: int
    seed: int

    @functools.cached_property
    def _order(self) -> Callable[[int], np.ndarray]:
        """epoch -> the order of the items (count,)."""
        permutation = functools.partial(random.permutation, self.count, self.seed, "rows")
        return functools.lru_cache(maxsize=2)(permutation)

    def read(self, first: int, count: int) -> np.ndarray:
        """Returns items first .. first + count - 1 of the sequence, (count,) int64."""
        epochs, positions = np.divmod(np.arange(first, first + count), self.count)
        out = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            out[epochs == epoch] = self._order(int(epoch))[positions[epochs == epoch]]
        return out
