"""(seed, step) -> what is trained on at that step; no state, no history."""

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
    """An endless sequence of passes over a corpus, each a set of closed texts."""

    def read(self, number: int) -> TokenizedTexts:
        """The texts of a pass, each closed by the end of text, in any order."""

    def tokens_before(self, number: int) -> int:
        """How many tokens all passes before this one hold."""

    def epoch_of(self, token: int) -> int:
        """The pass that holds that token of the stream."""


@dataclasses.dataclass(frozen=True, eq=False)
class RepeatedTexts:
    """The same texts in every pass."""

    texts: TokenizedTexts

    def read(self, number: int) -> TokenizedTexts:
        return self.texts

    def tokens_before(self, number: int) -> int:
        return number * int(self.texts.offsets[-1])

    def epoch_of(self, token: int) -> int:
        return token // int(self.texts.offsets[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class FreshTexts:
    """Other texts in every pass (Part 3.3): `write` makes those of a pass, a pure function.

    To find where a pass starts the passes before it are written once, to count their tokens.
    """

    write: Callable[[int], TokenizedTexts]
    _starts: list[int] = dataclasses.field(default_factory=lambda: [0], init=False)

    @functools.cached_property
    def read(self) -> Callable[[int], TokenizedTexts]:
        return functools.lru_cache(maxsize=2)(self.write)  # where one pass ends the next begins

    def tokens_before(self, number: int) -> int:
        while len(self._starts) <= number:
            self._starts.append(
                self._starts[-1] + int(self.read(len(self._starts) - 1).offsets[-1])
            )
        return self._starts[number]

    def epoch_of(self, token: int) -> int:
        while self._starts[-1] <= token:
            self.tokens_before(len(self._starts))
        return bisect.bisect_right(self._starts, token) - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Texts packed into windows (Part 3.1, section 3).

    Every pass shuffles all its texts, `(seed, pass)` being the key, and joins them; the passes
    make one endless stream. Window k is tokens `[k * length, (k + 1) * length]`, both ends
    included: neighbours share one token, so that every token is predicted exactly once a pass.

    Attributes:
      passes: where the texts come from.
      length: predicted tokens a window.
      purpose: keeps the orders of several sources independent.
    """

    epochs: Epochs
    seq_len: int
    seed: int
    purpose: str = "pass"

    @functools.cached_property
    def _order(self) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        """The order of the texts in a pass (E,) and where each ends in it (E,)."""

        def drawn(number: int) -> tuple[np.ndarray, np.ndarray]:
            rows = self.epochs.read(number)
            order = random.permutation(len(rows), self.seed, self.purpose, number)
            return order, np.cumsum(rows.lengths[order])

        return functools.lru_cache(maxsize=2)(drawn)  # a window seldom spans more passes

    def stream(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the stream."""
        pieces = []
        while start < stop:
            number = self.epochs.epoch_of(start)
            before = self.epochs.tokens_before(number)
            begin, end = start - before, min(stop, self.epochs.tokens_before(number + 1)) - before
            rows, (order, ends) = self.epochs.read(number), self._order(number)
            first, last = np.searchsorted(ends, [begin, end - 1], side="right")
            which = order[first : last + 1]
            lengths = rows.offsets[which + 1] - rows.offsets[which]
            tokens = rows.tokens.take(ragged_indices(rows.offsets[which], lengths))
            skip = begin - (int(ends[first]) - int(lengths[0]))
            pieces.append(tokens[skip : skip + end - begin])
            start = before + end
        return np.concatenate(pieces)

    def read(self, first: int, count: int) -> np.ndarray:
        """Windows first .. first + count - 1, (count, length + 1)."""
        start = first * self.seq_len
        stream = self.stream(start, start + count * self.seq_len + 1)
        return np.lib.stride_tricks.sliding_window_view(stream, self.seq_len + 1)[:: self.seq_len]


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Windows of several sources, in exact shares.

    Of every `sum(weights)` windows, `weights[s]` are the next ones of source s, in an order drawn
    for each such group: window k of the mixture is found from k alone.

    Attributes:
      sources: windows of one length.
      weights: as many integers, as `integer_weights` returns them.
    """

    sources: tuple[Windows, ...]
    weights: tuple[int, ...]
    seed: int

    def source_of(self, first: int, count: int) -> np.ndarray:
        """Where each of the windows first .. first + count - 1 comes from, (count,)."""
        return self._groups(first, count)[0]

    def _groups(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The source of each window, and how many windows of each came before the first one."""
        group = sum(self.weights)
        cards = np.repeat(np.arange(len(self.weights)), self.weights)
        number, skip = divmod(first, group)
        groups = range(number, -(-(first + count) // group))
        order = np.concatenate(
            [cards[random.permutation(group, self.seed, "mixture", n)] for n in groups]
        )
        before = np.bincount(order[:skip], minlength=len(self.weights))
        return order[skip : skip + count], number * np.array(self.weights) + before

    def read(self, first: int, count: int) -> np.ndarray:
        """Windows first .. first + count - 1, (count, length + 1)."""
        source, before = self._groups(first, count)
        parts = [
            windows.read(int(before[s]), int((source == s).sum()))
            for s, windows in enumerate(self.sources)
            if (source == s).any()
        ]
        out = np.empty((count, parts[0].shape[1]), np.result_type(*parts))
        for s, part in zip(np.unique(source), parts, strict=True):
            out[source == s] = part
        return out


def integer_weights(shares: Sequence[float]) -> tuple[int, ...]:
    """The smallest integers in the proportion of these shares, which sum to at most 1000: where no
    such integers are, the nearest thousandths.

    Raises:
      UserError: a share is less than half a thousandth.
    """
    parts = [fractions.Fraction(share).limit_denominator(1000) for share in shares]
    common = math.lcm(*(part.denominator for part in parts))
    common = common if common <= 1000 else 1000
    exact = [share * common / sum(shares) for share in shares]
    weights = [math.floor(weight + 1e-6) for weight in exact]
    largest_rest_first = sorted(range(len(shares)), key=lambda s: weights[s] - exact[s])
    for s in largest_rest_first[: common - sum(weights)]:
        weights[s] += 1
    if not all(weights):
        raise UserError(f"data: {min(shares):g} of the windows is less than a thousandth")
    return tuple(weight // math.gcd(*weights) for weight in weights)


@dataclasses.dataclass(frozen=True, eq=False)
class ShuffledIndices:
    """Indices of `count` items, each exactly once a pass, shuffled anew for every pass."""

    count: int
    seed: int

    @functools.cached_property
    def _pass(self) -> Callable[[int], np.ndarray]:
        drawn = functools.partial(random.permutation, self.count, self.seed, "rows")
        return functools.lru_cache(maxsize=2)(drawn)

    def read(self, first: int, count: int) -> np.ndarray:
        """Items first .. first + count - 1 of the endless sequence, (count,) int64."""
        number, place = np.divmod(np.arange(first, first + count), self.count)
        out = np.empty(count, np.int64)
        for n in np.unique(number):
            out[number == n] = self._pass(int(n))[place[number == n]]
        return out
