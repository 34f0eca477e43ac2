"""Window k is a function of k alone, and every pass holds every entry exactly once."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.corpus.encode import TokenizedTexts, concatenate, without_spans
from kstore_jax.corpus.sampler import (
    FreshTexts,
    Mixture,
    RepeatedTexts,
    ShuffledIndices,
    Windows,
    integer_weights,
)
from kstore_jax.errors import UserError
from kstore_jax.world import random
from tests.chi_square import assert_uniform

END_OF_TEXT = 50256

SEEDS = st.integers(0, 2**64)


def closed_rows(texts: list[list[int]]) -> TokenizedTexts:
    """Rows of these tokens, each closed by the end of text."""
    tokens = np.array([t for text in texts for t in (*text, END_OF_TEXT)], np.uint16)
    return without_spans(tokens, np.array([len(text) + 1 for text in texts]))


def fresh_rows(number: int) -> TokenizedTexts:
    """Texts of another number and other lengths in every pass."""
    sizes = np.random.default_rng(number).integers(0, 7, 1 + number % 5)
    return closed_rows([[1000 + number] * size for size in sizes])


TEXTS = st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=12)
# Windows are often longer than a pass, or than several.
REPEATED = TEXTS.map(closed_rows).map(RepeatedTexts)
FRESH = st.builds(FreshTexts, write=st.just(fresh_rows))
LENGTHS = st.integers(1, 60)
WINDOWS = st.builds(Windows, epochs=REPEATED | FRESH, seq_len=LENGTHS, seed=SEEDS)


def again(windows: Windows) -> Windows:
    """The same windows, with nothing remembered."""
    passes = windows.epochs
    passes = (
        FreshTexts(passes.write) if isinstance(passes, FreshTexts) else RepeatedTexts(passes.texts)
    )
    return Windows(passes, windows.seq_len, windows.seed, windows.purpose)


@given(windows=WINDOWS, first=st.integers(0, 30), count=st.integers(1, 8))
def test_windows_are_the_same_whichever_way_they_are_asked_for(windows, first, count):
    together = windows.read(first, count)
    assert together.shape == (count, windows.seq_len + 1)
    for place in np.random.default_rng(0).permutation(count):
        assert np.array_equal(again(windows).read(first + place, 1)[0], together[place])


@given(
    windows=st.builds(Windows, epochs=REPEATED, seq_len=LENGTHS, seed=SEEDS),
    first=st.integers(0, 10**12),
)
def test_neighbouring_windows_share_one_token(windows, first):
    left, right = windows.read(first, 2)
    assert left[-1] == right[0]
    start = first * windows.seq_len
    assert np.array_equal(left, windows.stream(start, start + windows.seq_len + 1))


@given(windows=WINDOWS, start=st.integers(0, 200), length=st.integers(1, 200))
def test_a_piece_of_the_stream_is_that_piece_of_the_whole(windows, start, length):
    whole = windows.stream(0, start + length)
    assert len(whole) == start + length
    assert np.array_equal(windows.stream(start, start + length), whole[start:])


@given(texts=TEXTS, seed=SEEDS, number=st.integers(0, 10**9))
def test_a_pass_holds_every_entry_once_each_closed_by_the_end_of_text(texts, seed, number):
    rows = closed_rows(texts)
    size = len(rows.tokens)
    stream = (
        Windows(RepeatedTexts(rows), 8, seed).stream(number * size, (number + 1) * size).tolist()
    )
    entries = collections.Counter()
    while stream:
        end = stream.index(END_OF_TEXT)
        entries[tuple(stream[:end])] += 1
        stream = stream[end + 1 :]
    assert entries == collections.Counter(map(tuple, texts))


@given(seed=SEEDS, number=st.integers(0, 20))
def test_a_pass_of_fresh_text_holds_its_own_texts_once(seed, number):
    passes = FreshTexts(fresh_rows)
    stream = Windows(passes, 8, seed).stream(
        passes.tokens_before(number), passes.tokens_before(number + 1)
    )
    expected = fresh_rows(number)
    assert sorted(stream) == sorted(expected.tokens)
    assert (
        passes.epoch_of(passes.tokens_before(number))
        == passes.epoch_of(passes.tokens_before(number + 1) - 1)
        == number
    )


def test_the_order_of_a_pass_is_uniform():
    places = passes_of(6, 1, 6000)
    for person in range(6):
        assert_uniform((places == person).sum(axis=0))


MIXTURES = st.lists(
    st.tuples(
        st.builds(Windows, epochs=REPEATED | FRESH, seq_len=st.just(7), seed=SEEDS),
        st.integers(1, 5),
    ),
    min_size=1,
    max_size=3,
).flatmap(lambda parts: st.builds(Mixture, *map(st.just, zip(*parts, strict=True)), seed=SEEDS))


@given(mixture=MIXTURES, first=st.integers(0, 60), count=st.integers(1, 20))
def test_windows_of_a_mixture_are_the_same_whichever_way_they_are_asked_for(mixture, first, count):
    together = mixture.read(first, count)
    for place in range(count):
        assert np.array_equal(mixture.read(first + place, 1)[0], together[place])


@given(mixture=MIXTURES, groups=st.integers(1, 6))
def test_a_mixture_gives_each_source_in_order_and_its_exact_share(mixture, groups):
    count = groups * sum(mixture.weights)
    source = mixture.source_of(0, count)
    assert np.bincount(source, minlength=len(mixture.weights)).tolist() == [
        groups * weight for weight in mixture.weights
    ]
    windows = mixture.read(0, count)
    for s, part in enumerate(mixture.sources):
        expected = again(part).read(0, groups * mixture.weights[s])
        assert np.array_equal(windows[source == s], expected)


@given(mixture=MIXTURES, start=st.integers(0, 500))
def test_shares_are_within_a_group_of_exact_from_any_step_on(mixture, start):
    count, group = 200, sum(mixture.weights)
    found = np.bincount(mixture.source_of(start, count), minlength=len(mixture.weights))
    expected = count * np.array(mixture.weights) / group
    assert (abs(found - expected) <= group).all()


def test_the_places_of_a_source_in_a_group_are_uniform():
    windows = Windows(RepeatedTexts(closed_rows([[1]])), 4, 0)
    source = Mixture((windows, windows), (1, 4), seed=3).source_of(0, 5 * 2000).reshape(2000, 5)
    assert_uniform((source == 0).sum(axis=0))


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ([1.0], (1,)),
        ([0.2, 0.8], (1, 4)),
        ([0.5, 0.5], (1, 1)),
        ([0.7, 0.1, 0.2], (7, 1, 2)),
        ([1 - 0.9, 0.9], (1, 9)),
        ([0.5 * (1 - 1 / 6), 0.5 / 6, 0.5], (5, 1, 6)),
        ([1 - 1 / 3, 1 / 3], (2, 1)),
        ([0.3705, 0.1995, 0.15, 0.28], (371, 199, 150, 280)),
        ([0.999, 0.001], (999, 1)),
    ],
)
def test_weights_are_the_smallest_integers_in_proportion(shares, weights):
    assert integer_weights(shares) == weights


@given(st.lists(st.floats(0.002, 1), min_size=1, max_size=4))
def test_weights_are_few_and_near_any_shares(shares):
    shares = [share / sum(shares) for share in shares]
    if min(shares) < 0.001:
        return
    weights = integer_weights(shares)
    assert sum(weights) <= 1000
    assert (
        max(abs(w / sum(weights) - share) for w, share in zip(weights, shares, strict=True)) < 2e-3
    )


def test_a_share_too_small_to_be_read_is_refused():
    with pytest.raises(UserError, match=r"^data: 0\.0004 of the windows is less than a thousandth"):
        integer_weights([0.9996, 0.0004])


def test_the_passes_of_several_sources_are_shuffled_once_each(monkeypatch):
    drawn = []
    shuffled = random.permutation
    monkeypatch.setattr(random, "permutation", lambda *args: drawn.append(args) or shuffled(*args))
    rows = closed_rows([[1, 2, 3]] * 200)
    sources = tuple(Windows(RepeatedTexts(rows), 4, 0, purpose) for purpose in "abcd")
    mixture = Mixture(sources, (1, 1, 1, 1), 0)
    for step in range(20):
        mixture.read(4 * step, 4)
    assert len([args for args in drawn if args[2] in "abcd"]) == 4


@pytest.mark.parametrize("processes", [1, 2, 4])
@given(mixture=MIXTURES, step=st.integers(0, 20))
def test_what_several_processes_read_is_together_the_batch(processes, mixture, step):
    batch, share = 8, 8 // processes
    whole = mixture.read(step * batch, batch)
    parts = [mixture.read(step * batch + start, share) for start in range(0, batch, share)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_joined_rows_are_all_rows_in_order():
    first, second = closed_rows([[1], [2, 3]]), closed_rows([[4, 5, 6]])
    both = concatenate([first, second])
    assert both.lengths.tolist() == [2, 3, 4]
    assert both.tokens.tolist() == [*first.tokens, *second.tokens]


def passes_of(people: int, entries: int, passes: int, seed: int = 0) -> np.ndarray:
    """(passes, people * entries): whose entry stands at each place of each pass."""
    rows = closed_rows([[person] for person in range(people) for _ in range(entries)])
    stream = Windows(RepeatedTexts(rows), 8, seed).stream(0, passes * len(rows.tokens))
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
    together = ShuffledIndices(count, seed).read(first, n)
    alone = [ShuffledIndices(count, seed).read(first + i, 1)[0] for i in range(n)]
    assert together.tolist() == alone


@given(count=st.integers(1, 40), seed=SEEDS, number=st.integers(0, 10**9))
def test_a_pass_of_rows_holds_every_item_once(count, seed, number):
    items = ShuffledIndices(count, seed).read(number * count, 3 * count).reshape(3, count)
    assert (np.sort(items, axis=1) == np.arange(count)).all()


def test_passes_of_rows_and_seeds_differ_in_order():
    orders = np.concatenate(
        [ShuffledIndices(50, seed).read(0, 250).reshape(5, 50) for seed in (0, 1)]
    )
    assert len({tuple(order) for order in orders}) == 10
