"""Windows are functions of their index, and an epoch holds every text exactly once."""

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


def tokenized(texts: list[list[int]]) -> TokenizedTexts:
    """Texts of these tokens, each with the end of text."""
    tokens = np.array([t for text in texts for t in (*text, END_OF_TEXT)], np.uint16)
    return without_spans(tokens, np.array([len(text) + 1 for text in texts]))


def fresh_texts(epoch: int) -> TokenizedTexts:
    """Texts whose number and lengths differ between epochs."""
    sizes = np.random.default_rng(epoch).integers(0, 7, 1 + epoch % 5)
    return tokenized([[1000 + epoch] * size for size in sizes])


TEXTS = st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=12)
# Windows are often longer than one epoch or several.
REPEATED = TEXTS.map(tokenized).map(RepeatedTexts)
FRESH = st.builds(FreshTexts, write=st.just(fresh_texts))
LENGTHS = st.integers(1, 60)
WINDOWS = st.builds(Windows, epochs=REPEATED | FRESH, seq_len=LENGTHS, seed=SEEDS)


def uncached(windows: Windows) -> Windows:
    """The same windows with empty caches."""
    epochs = windows.epochs
    if isinstance(epochs, FreshTexts):
        epochs = FreshTexts(epochs.write)
    return Windows(epochs, windows.seq_len, windows.seed, windows.purpose)


@given(windows=WINDOWS, first=st.integers(0, 30), count=st.integers(1, 8))
def test_a_window_does_not_depend_on_the_windows_read_with_it(windows, first, count):
    together = windows.read(first, count)
    assert together.shape == (count, windows.seq_len + 1)
    for i in np.random.default_rng(0).permutation(count):
        assert np.array_equal(uncached(windows).read(first + i, 1)[0], together[i])


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
def test_a_part_of_the_stream_does_not_depend_on_what_is_read_before(windows, start, length):
    from_zero = windows.stream(0, start + length)
    assert len(from_zero) == start + length
    assert np.array_equal(windows.stream(start, start + length), from_zero[start:])


@given(texts=TEXTS, seed=SEEDS, epoch=st.integers(0, 10**9))
def test_an_epoch_holds_every_text_once_with_its_end_of_text(texts, seed, epoch):
    size = len(tokenized(texts).tokens)
    windows = Windows(RepeatedTexts(tokenized(texts)), 8, seed)
    stream = windows.stream(epoch * size, (epoch + 1) * size).tolist()
    read = collections.Counter()
    while stream:
        end = stream.index(END_OF_TEXT)
        read[tuple(stream[:end])] += 1
        stream = stream[end + 1 :]
    assert read == collections.Counter(map(tuple, texts))


@given(seed=SEEDS, epoch=st.integers(0, 20))
def test_an_epoch_of_fresh_text_holds_its_own_texts_once(seed, epoch):
    epochs = FreshTexts(fresh_texts)
    start, stop = epochs.tokens_before(epoch), epochs.tokens_before(epoch + 1)
    stream = Windows(epochs, 8, seed).stream(start, stop)
    assert sorted(stream) == sorted(fresh_texts(epoch).tokens)
    assert epochs.epoch_of(start) == epochs.epoch_of(stop - 1) == epoch


def test_the_order_of_an_epoch_is_uniform():
    people = people_read(6, 1, 6000)
    for person in range(6):
        assert_uniform((people == person).sum(axis=0))


MIXTURES = st.lists(
    st.tuples(
        st.builds(Windows, epochs=REPEATED | FRESH, seq_len=st.just(7), seed=SEEDS),
        st.integers(1, 5),
    ),
    min_size=1,
    max_size=3,
).flatmap(lambda parts: st.builds(Mixture, *map(st.just, zip(*parts, strict=True)), seed=SEEDS))


@given(mixture=MIXTURES, first=st.integers(0, 60), count=st.integers(1, 20))
def test_a_window_of_a_mixture_does_not_depend_on_the_windows_read_with_it(mixture, first, count):
    together = mixture.read(first, count)
    for i in range(count):
        assert np.array_equal(mixture.read(first + i, 1)[0], together[i])


@given(mixture=MIXTURES, groups=st.integers(1, 6))
def test_a_mixture_reads_each_source_in_order_and_in_its_exact_share(mixture, groups):
    count = groups * sum(mixture.weights)
    source = mixture.source_of(0, count)
    assert np.bincount(source, minlength=len(mixture.weights)).tolist() == [
        groups * weight for weight in mixture.weights
    ]
    windows = mixture.read(0, count)
    for s, part in enumerate(mixture.sources):
        expected = uncached(part).read(0, groups * mixture.weights[s])
        assert np.array_equal(windows[source == s], expected)


@given(mixture=MIXTURES, start=st.integers(0, 500))
def test_shares_are_within_a_group_of_exact_from_any_window(mixture, start):
    count, group = 200, sum(mixture.weights)
    counts = np.bincount(mixture.source_of(start, count), minlength=len(mixture.weights))
    expected = count * np.array(mixture.weights) / group
    assert (abs(counts - expected) <= group).all()


def test_the_position_of_a_source_in_its_group_is_uniform():
    windows = Windows(RepeatedTexts(tokenized([[1]])), 4, 0)
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
def test_weights_are_small_and_near_any_shares(shares):
    shares = [share / sum(shares) for share in shares]
    if min(shares) < 0.001:
        return
    weights = integer_weights(shares)
    assert sum(weights) <= 1000
    errors = [abs(w / sum(weights) - share) for w, share in zip(weights, shares, strict=True)]
    assert max(errors) < 2e-3


def test_a_share_below_half_a_thousandth_is_refused():
    message = r"^data: expected at least a thousandth .*, got a share of 0\.0004$"
    with pytest.raises(UserError, match=message):
        integer_weights([0.9996, 0.0004])


def test_each_of_several_sources_is_shuffled_once_per_epoch(monkeypatch):
    calls = []
    original = random.permutation
    monkeypatch.setattr(random, "permutation", lambda *args: calls.append(args) or original(*args))
    texts = tokenized([[1, 2, 3]] * 200)
    sources = tuple(Windows(RepeatedTexts(texts), 4, 0, purpose) for purpose in "abcd")
    mixture = Mixture(sources, (1, 1, 1, 1), 0)
    for step in range(20):
        mixture.read(4 * step, 4)
    assert len([args for args in calls if args[2] in "abcd"]) == 4


@pytest.mark.parametrize("processes", [1, 2, 4])
@given(mixture=MIXTURES, step=st.integers(0, 20))
def test_several_processes_read_the_batch_of_one(processes, mixture, step):
    batch, share = 8, 8 // processes
    of_one = mixture.read(step * batch, batch)
    parts = [mixture.read(step * batch + start, share) for start in range(0, batch, share)]
    assert np.array_equal(np.concatenate(parts), of_one)


def test_concatenate_keeps_all_rows_in_order():
    first, second = tokenized([[1], [2, 3]]), tokenized([[4, 5, 6]])
    both = concatenate([first, second])
    assert both.lengths.tolist() == [2, 3, 4]
    assert both.tokens.tolist() == [*first.tokens, *second.tokens]


def people_read(people: int, entries: int, epochs: int, seed: int = 0) -> np.ndarray:
    """(epochs, people * entries): the person of each entry in the order in which it is read."""
    texts = tokenized([[person] for person in range(people) for _ in range(entries)])
    stream = Windows(RepeatedTexts(texts), 8, seed).stream(0, epochs * len(texts.tokens))
    return stream.reshape(epochs, people * entries, 2)[:, :, 0].astype(int)


def test_epochs_and_seeds_differ_in_order():
    orders = np.concatenate([people_read(100, 1, 5), people_read(100, 1, 5, seed=1)])
    assert len({tuple(order) for order in orders}) == 10


def test_entries_of_a_person_are_neighbours_as_often_as_by_chance():
    entries, epochs = 5, 300
    people = people_read(300, entries, epochs)
    # Each of the n - 1 pairs of neighbours is of one person with probability (m - 1) / (n - 1).
    expected = epochs * (entries - 1)
    neighbours = (people[:, 1:] == people[:, :-1]).sum()
    assert abs(neighbours - expected) < 5 * expected**0.5


@given(count=st.integers(1, 40), seed=SEEDS, first=st.integers(0, 10**12), n=st.integers(1, 90))
def test_a_shuffled_index_does_not_depend_on_those_read_with_it(count, seed, first, n):
    together = ShuffledIndices(count, seed).read(first, n)
    alone = [ShuffledIndices(count, seed).read(first + i, 1)[0] for i in range(n)]
    assert together.tolist() == alone


@given(count=st.integers(1, 40), seed=SEEDS, epoch=st.integers(0, 10**9))
def test_an_epoch_of_shuffled_indices_holds_every_item_once(count, seed, epoch):
    items = ShuffledIndices(count, seed).read(epoch * count, 3 * count).reshape(3, count)
    assert (np.sort(items, axis=1) == np.arange(count)).all()


def test_epochs_and_seeds_of_shuffled_indices_differ_in_order():
    orders = np.concatenate(
        [ShuffledIndices(50, seed).read(0, 250).reshape(5, 50) for seed in (0, 1)]
    )
    assert len({tuple(order) for order in orders}) == 10
