"""Window k is a function of k alone, and every pass holds every entry exactly once."""

import collections

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.corpus.encode import TokenRows
from kstore_jax.corpus.sampler import Rows, Windows
from kstore_jax.corpus.tokenizer import END_OF_TEXT

SEEDS = st.integers(0, 2**64)


def closed_rows(texts: list[list[int]]) -> TokenRows:
    """Rows of these tokens, each closed by the end of text."""
    nowhere = np.zeros((len(texts), 6, 2), np.int64)
    return TokenRows(
        tokens=np.array([t for text in texts for t in (*text, END_OF_TEXT)], np.uint16),
        offsets=np.cumsum([0, *(len(text) + 1 for text in texts)]),
        value_spans=nowhere,
        name_spans=nowhere,
    )


TEXTS = st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=12)
# Windows are often longer than a pass, or than several.
WINDOWS = st.builds(Windows, rows=TEXTS.map(closed_rows), length=st.integers(1, 60), seed=SEEDS)


@given(windows=WINDOWS, first=st.integers(0, 30), count=st.integers(1, 8))
def test_windows_are_the_same_whichever_way_they_are_asked_for(windows, first, count):
    together = windows.windows(first, count)
    assert together.shape == (count, windows.length + 1)
    for place in np.random.default_rng(0).permutation(count):
        fresh = Windows(windows.rows, windows.length, windows.seed)
        assert np.array_equal(fresh.windows(first + place, 1)[0], together[place])


@given(windows=WINDOWS, first=st.integers(0, 10**12))
def test_neighbouring_windows_share_one_token(windows, first):
    left, right = windows.windows(first, 2)
    assert left[-1] == right[0]
    start = first * windows.length
    assert np.array_equal(left, windows.stream(start, start + windows.length + 1))


@given(windows=WINDOWS, start=st.integers(0, 200), length=st.integers(1, 200))
def test_a_piece_of_the_stream_is_that_piece_of_the_whole(windows, start, length):
    whole = windows.stream(0, start + length)
    assert len(whole) == start + length
    assert np.array_equal(windows.stream(start, start + length), whole[start:])


@given(texts=TEXTS, seed=SEEDS, number=st.integers(0, 10**9))
def test_a_pass_holds_every_entry_once_each_closed_by_the_end_of_text(texts, seed, number):
    rows = closed_rows(texts)
    size = len(rows.tokens)
    stream = Windows(rows, 8, seed).stream(number * size, (number + 1) * size).tolist()
    entries = collections.Counter()
    while stream:
        end = stream.index(END_OF_TEXT)
        entries[tuple(stream[:end])] += 1
        stream = stream[end + 1 :]
    assert entries == collections.Counter(map(tuple, texts))


def passes_of(people: int, entries: int, passes: int, seed: int = 0) -> np.ndarray:
    """(passes, people * entries): whose entry stands at each place of each pass."""
    rows = closed_rows([[person] for person in range(people) for _ in range(entries)])
    stream = Windows(rows, 8, seed).stream(0, passes * len(rows.tokens))
    return stream.reshape(passes, people * entries, 2)[:, :, 0].astype(int)


def test_passes_and_seeds_differ_in_order():
    orders = np.concatenate([passes_of(100, 1, 5), passes_of(100, 1, 5, seed=1)])
    assert len({tuple(order) for order in orders}) == 10


def test_entries_of_a_person_meet_as_often_as_chance_has_it():
    people, entries, passes = 300, 5, 300
    who = passes_of(people, entries, passes)
    # Each of the n - 1 neighbouring places holds one person with probability (m - 1) / (n - 1).
    expected = passes * (entries - 1)
    met = (who[:, 1:] == who[:, :-1]).sum()
    assert abs(met - expected) < 5 * expected**0.5


@given(count=st.integers(1, 40), seed=SEEDS, first=st.integers(0, 10**12), n=st.integers(1, 90))
def test_rows_are_the_same_whichever_way_they_are_asked_for(count, seed, first, n):
    together = Rows(count, seed).rows(first, n)
    alone = [Rows(count, seed).rows(first + i, 1)[0] for i in range(n)]
    assert together.tolist() == alone


@given(count=st.integers(1, 40), seed=SEEDS, number=st.integers(0, 10**9))
def test_a_pass_of_rows_holds_every_item_once(count, seed, number):
    items = Rows(count, seed).rows(number * count, 3 * count).reshape(3, count)
    assert (np.sort(items, axis=1) == np.arange(count)).all()


def test_passes_of_rows_and_seeds_differ_in_order():
    orders = np.concatenate([Rows(50, seed).rows(0, 250).reshape(5, 50) for seed in (0, 1)])
    assert len({tuple(order) for order in orders}) == 10
