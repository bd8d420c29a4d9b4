"""A permutation that is computed: a bijection by law, and as random as one that is drawn.

Keys are fixed, so a statistic has one value; its bound is what chance exceeds once in 10,000 times.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainjobs.data.ordering.permutation import derive_key, derive_keys, permute

KEY = derive_key(7, 0, 1)
quick = settings(deadline=None, max_examples=30)
Z_BOUND = 4.0
"""Standard deviations of a statistic that is nearly normal: both tails hold 6e-5."""
EDGES = [1, 2, 3, 5, *(2**k + d for k in (2, 3, 6, 8, 12, 16) for d in (-1, 0, 1))]


def shuffled(size: int, number: int = 0) -> NDArray[np.int64]:
    return permute(np.arange(size), size, derive_keys(KEY, number))


def draws(size: int, count: int) -> NDArray[np.int64]:
    """(count, size): permutations by as many keys."""
    keys = np.repeat(derive_keys(KEY, np.arange(count)), size)
    return permute(np.tile(np.arange(size), count), size, keys).reshape(count, size)


def excess(counts: NDArray[np.int64], degrees: int) -> float:
    """Standard deviations by which chi-square, of counts that should be equal, is above its mean."""
    expected = counts.mean()
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


@pytest.mark.parametrize("size", EDGES)
def test_every_number_is_hit_once(size: int) -> None:
    assert np.array_equal(np.sort(shuffled(size)), np.arange(size))


@quick
@given(size=st.integers(1, 3000), number=st.integers(0, 2**62))
def test_every_number_is_hit_once_whatever_size_and_key(size: int, number: int) -> None:
    assert np.array_equal(np.sort(shuffled(size, number)), np.arange(size))


@pytest.mark.parametrize("size", [10**9, 10**9 + 7, 2**40 - 1, 2**62])
def test_no_two_of_many_numbers_meet_in_a_large_range(size: int) -> None:
    # Of 20,000 random places in 10**9, about 0.2 pairs would meet by chance: so look at neighbors, too.
    numbers = np.unique(np.append(np.arange(10_000), np.linspace(0, size - 1, 10_000, dtype=int)))
    sent = permute(numbers, size, KEY)
    assert len(np.unique(sent)) == len(numbers)
    assert sent.min() >= 0 and sent.max() < size
    assert abs(sent.mean() / size - 0.5) < Z_BOUND / np.sqrt(12 * len(numbers))


def test_a_number_goes_where_it_goes_whoever_is_asked_with_it() -> None:
    sizes, keys = np.array([5, 1000, 10**9, 77]), derive_keys(KEY, np.arange(4))
    numbers = np.array([4, 999, 123_456_789, 0])
    alone = [permute(numbers[i : i + 1], sizes[i], keys[i : i + 1])[0] for i in range(4)]
    assert permute(numbers, sizes, keys).tolist() == alone


def test_seed_epoch_and_stream_give_other_keys() -> None:
    keys = {int(derive_key(s, e, t)[0]) for s in range(4) for e in range(4) for t in range(4)}
    keys |= set(derive_keys(KEY, np.arange(1000)).tolist())
    assert len(keys) == 64 + 1000


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_of_few_numbers_every_permutation_is_as_frequent(size: int) -> None:
    codes = draws(size, 12_000) @ size ** np.arange(size)
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == [0, 1, 2, 6, 24, 120][size]
    assert excess(counts, len(counts) - 1) < Z_BOUND


def test_half_of_the_permutations_are_odd_where_digits_could_have_an_odd_number_of_values() -> None:
    table = draws(9, 2000)
    inversions = sum((table[:, i] > table[:, j]) for i in range(9) for j in range(i + 1, 9))
    assert abs((inversions % 2).mean() - 0.5) < Z_BOUND * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize("size", [16, 37, 100])
def test_every_number_is_as_often_in_every_place(size: int) -> None:
    table = draws(size, 1500)
    counts = np.stack([np.bincount(table[:, i], minlength=size) for i in range(size)])
    assert abs(excess(counts, (size - 1) ** 2)) < Z_BOUND


@pytest.mark.parametrize("size", [16, 37, 100, 1024])
def test_neighbors_are_sent_to_any_distance_alike(size: int) -> None:
    table = draws(size, 50_000 // size)
    apart = np.bincount((np.diff(table) % size).ravel(), minlength=size)[1:]
    assert abs(excess(apart, size - 2)) < Z_BOUND


def test_as_many_numbers_stay_in_place_as_by_chance() -> None:
    # Their number has mean 1 and variance 1, nearly Poisson's: the variance's own is about 3.
    fixed = (draws(64, 2000) == np.arange(64)).sum(axis=1)
    assert abs(fixed.mean() - 1) < Z_BOUND / np.sqrt(2000)
    assert abs(fixed.var() - 1) < Z_BOUND * np.sqrt(3 / 2000)


@pytest.mark.parametrize("lag", [1, 2, 16, 317])
def test_places_are_not_correlated_with_later_ones(lag: int) -> None:
    # 317 * 316 is just above 100,000: the lag at which the network's digits repeat.
    place = shuffled(100_000) / 100_000 - 0.5
    correlation = 12 * (place[:-lag] * place[lag:]).mean()
    assert abs(correlation) < Z_BOUND / np.sqrt(100_000 - lag)


def test_orders_of_two_keys_are_not_correlated() -> None:
    one, other = (shuffled(100_000, number) / 100_000 - 0.5 for number in (0, 1))
    assert abs(12 * (one * other).mean()) < Z_BOUND / np.sqrt(100_000)
