"""(seed, step) -> what is trained on at that step; no state, no history."""

import dataclasses
import functools

import numpy as np

from kstore_jax.corpus.encode import TokenRows, ragged
from kstore_jax.world import draw


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Entries packed into windows (Part 3.1, section 3).

    Every pass shuffles all entries, `(seed, pass)` being the key, and joins them; the passes make
    one endless stream. Window k is tokens `[k * length, (k + 1) * length]`, both ends included:
    neighbours share one token, so that every token is predicted exactly once a pass.

    Attributes:
      rows: the entries, each closed by the end of text.
      length: predicted tokens a window.
    """

    rows: TokenRows
    length: int
    seed: int

    @functools.lru_cache(maxsize=2)  # noqa: B019  a window spans two passes at most
    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the entries in a pass (E,) and where each ends in it (E,)."""
        order = draw.shuffled(len(self.rows), self.seed, "pass", number)
        return order, np.cumsum(self.rows.lengths[order])

    def stream(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the stream (uint16)."""
        per_pass = int(self.rows.offsets[-1])
        pieces = []
        while start < stop:
            number, begin = divmod(start, per_pass)
            end = min(per_pass, begin + stop - start)
            order, ends = self._pass(number)
            first, last = np.searchsorted(ends, [begin, end - 1], side="right")
            which = order[first : last + 1]
            lengths = self.rows.lengths[which]
            tokens = self.rows.tokens[ragged(self.rows.offsets[which], lengths)]
            skip = begin - (int(ends[first]) - int(lengths[0]))
            pieces.append(tokens[skip : skip + end - begin])
            start += end - begin
        return np.concatenate(pieces)

    def windows(self, first: int, count: int) -> np.ndarray:
        """Windows first .. first + count - 1, (count, length + 1) uint16."""
        start = first * self.length
        stream = self.stream(start, start + count * self.length + 1)
        return np.lib.stride_tricks.sliding_window_view(stream, self.length + 1)[:: self.length]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Indices of `count` items, each exactly once a pass, shuffled anew for every pass."""

    count: int
    seed: int

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def _pass(self, number: int) -> np.ndarray:
        return draw.shuffled(self.count, self.seed, "rows", number)

    def rows(self, first: int, count: int) -> np.ndarray:
        """Items first .. first + count - 1 of the endless sequence, (count,) int64."""
        number, place = np.divmod(np.arange(first, first + count), self.count)
        out = np.empty(count, np.int64)
        for n in np.unique(number):
            out[number == n] = self._pass(int(n))[place[number == n]]
        return out
