"""Datasets trained on together: each image as often as its dataset's weight says."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import make_orders
from trainjobs.data.ordering.order import WINDOW_SHARDS, Orders

quick = settings(deadline=None, max_examples=60)
SEEDS = st.integers(0, 2**32 - 1)
DATASETS = st.lists(
    st.tuples(
        st.lists(st.integers(1, 9), min_size=1, max_size=12),
        st.one_of(st.integers(1, 40).map(lambda tenths: tenths / 10), st.floats(0.05, 3)),
    ),
    min_size=1,
    max_size=4,
).filter(lambda datasets: sum(sum(sizes) * weight for sizes, weight in datasets) >= 1)


def mixed(datasets: list[tuple[list[int], float]], **changes: object) -> Orders:
    sizes = [size for shards, _ in datasets for size in shards]
    shares = [(len(shards), weight) for shards, weight in datasets]
    return make_orders(*sizes, shares=shares, **changes)


def counts(orders: Orders, epoch: int, num_images: int) -> np.ndarray:
    images = orders.images(epoch, range(orders.num_images))
    return np.bincount(images, minlength=num_images)


@quick
@given(datasets=DATASETS, seed=SEEDS, shuffle_shards=st.sampled_from([1, 16, 256]))
def test_over_epochs_an_image_comes_as_often_as_its_datasets_weight_says(
    datasets: list[tuple[list[int], float]], seed: int, shuffle_shards: int
) -> None:
    orders = mixed(datasets, seed=seed, shuffle_shards=shuffle_shards)
    totals = [sum(sizes) for sizes, _ in datasets]
    wanted = [sum(sizes) * weight for sizes, weight in datasets]
    assert abs(orders.num_images - sum(wanted)) <= 0.5 + 1e-9
    weights = np.repeat([weight for _, weight in datasets], totals)
    slack = np.repeat([1 / total for total in totals], totals)  # an epoch's images are rounded
    sums = np.zeros(sum(totals), np.int64)
    for epoch in range(12):
        times = counts(orders, epoch, sum(totals))
        assert times.sum() == orders.num_images
        assert (times >= np.floor(weights)).all() and (times <= np.floor(weights) + 1).all()
        sums += times
        assert (np.abs(sums - (epoch + 1) * weights) < 1 + (epoch + 1) * slack).all()


def test_a_dataset_of_weight_two_comes_twice_and_one_of_a_half_every_other_epoch() -> None:
    orders = mixed([([3, 5], 1.0), ([4], 2.0), ([6, 1, 1], 0.5)])
    assert orders.num_images == 8 + 8 + 4
    epochs = np.stack([counts(orders, epoch, 20) for epoch in range(6)])
    assert (epochs[:, :8] == 1).all()
    assert (epochs[:, 8:12] == 2).all()
    for one, other in pairwise(epochs[:, 12:]):
        assert (one + other == 1).all()


def test_the_images_of_a_part_are_not_neighbors_of_their_shard() -> None:
    epochs = [mixed([([1000], 0.5)], seed=seed) for seed in range(2)]
    one, other = (set(orders.images(0, range(500))) for orders in epochs)
    # Half of all pairs of neighbors have one member in the part; 250 of 999 have two, give or take.
    assert 150 < sum(image + 1 in one for image in one) < 350
    assert one != other


def test_a_single_dataset_of_weight_one_has_the_order_that_it_has_alone() -> None:
    sizes = [5, 9, 2, 7]
    alone, one = make_orders(*sizes), mixed([(sizes, 1.0)])
    assert one.images(3, range(23)) == alone.images(3, range(23))


def test_few_shards_are_in_use_at_a_time() -> None:
    # Two stripes over shards of 40 images: 300 whole, 200 twice, 100 in part.
    datasets = [([40] * 300, 1.0), ([40] * 100, 2.0), ([40] * 100, 0.25)]
    orders = mixed(datasets, batch_size=8, shuffle_shards=2 * WINDOW_SHARDS)
    images = np.array(orders.images(1, range(orders.num_images)))
    turns = images[: len(images) // 16 * 16].reshape(-1, 2, 8) // 40
    for stripe in range(2):
        met = [set(batch.tolist()) for batch in turns[:, stripe]]
        open_at = [len(set.union(*met[at : at + 20])) for at in range(0, len(met), 20)]
        # 20 turns are 160 images, half a window of 8 shards; of the smallest, 32 fill as much.
        assert max(open_at) <= 3 * WINDOW_SHARDS
        assert np.median(open_at) <= 1.5 * WINDOW_SHARDS + 2


def test_weights_of_images_decide_where_they_are_given_and_shares_how_many() -> None:
    weights = np.array([1.0, 1, 1, 1, 2, 2])
    orders = mixed([([4], 1.0), ([2], 2.0)], weights=weights)
    assert orders.num_images == 8
    assert counts(orders, 0, 6).tolist() == [1, 1, 1, 1, 2, 2]


def test_a_billion_images_are_mixed_without_a_list_of_them() -> None:
    orders = mixed([([10**6] * 500, 1.0), ([10**6] * 500, 1.5)], batch_size=16)
    assert orders.num_images == 1_250_000_000
    positions = [0, 10**9, 1_249_999_999]
    assert all(0 <= image < 10**9 for image in orders.images(2, positions))
