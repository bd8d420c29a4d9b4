"""Which image comes when: laws of the orders of large and small datasets."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.builders import make_orders, make_split
from trainjobs.data.ordering.class_weights import class_weights, rare_class_weights
from trainjobs.data.ordering.nearby import round_about
from trainjobs.data.ordering.order import WINDOW_SHARDS, Orders, ShuffledEpoch
from trainjobs.data.packed.schema import ImageRecord

quick = settings(deadline=None, max_examples=40)
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=200).filter(any)
SEEDS, EPOCHS = st.integers(0, 2**32 - 1), st.integers(0, 1000)
MANY_SHARDS = np.full(320, 20)
"""Enough for 4 stripes of 10 windows."""
SHUFFLE_SHARDS = 4 * WINDOW_SHARDS
BATCH = 8


def of_many_shards(epoch: int = 0) -> ShuffledEpoch:
    return ShuffledEpoch(
        MANY_SHARDS, seed=7, epoch=epoch, batch_size=BATCH, shuffle_shards=SHUFFLE_SHARDS
    )


def all_images(orders: Orders, epoch: int = 0) -> list[int]:
    return orders.images(epoch, range(orders.num_images))


def shards_of(order: ShuffledEpoch) -> NDArray[np.int64]:
    """(turns, stripes, batch): shard of each image, in the order of the epoch."""
    shards = order.images(np.arange(6400)) // 20
    return shards.reshape(-1, 4, BATCH)


@quick
@given(
    sizes=SIZES,
    seed=SEEDS,
    epoch=EPOCHS,
    batch_size=st.integers(1, 9),
    shuffle_shards=st.integers(1, 220),
)
def test_every_image_comes_once_whatever_the_shards(
    sizes: list[int], seed: int, epoch: int, batch_size: int, shuffle_shards: int
) -> None:
    orders = make_orders(*sizes, seed=seed, batch_size=batch_size, shuffle_shards=shuffle_shards)
    assert sorted(all_images(orders, epoch)) == list(range(sum(sizes)))


@quick
@given(sizes=SIZES, seed=SEEDS, shuffle_shards=st.integers(1, 220), data=st.data())
def test_an_image_does_not_depend_on_what_else_is_asked(
    sizes: list[int], seed: int, shuffle_shards: int, data: st.DataObject
) -> None:
    settings = {"seed": seed, "shuffle_shards": shuffle_shards}
    whole = all_images(make_orders(*sizes, **settings), epoch=3)
    positions = data.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=20))
    assert make_orders(*sizes, **settings).images(3, positions) == [whole[p] for p in positions]


def test_another_seed_or_epoch_gives_another_order() -> None:
    orders = {tuple(all_images(make_orders(50, seed=s), e)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


def test_a_dataset_of_few_shards_is_shuffled_as_a_whole() -> None:
    # A batch of 64 from 32 equal shards has, by chance, images of 32 (1 - (31/32)**64) = 27.8.
    order = ShuffledEpoch(
        np.full(SHUFFLE_SHARDS, 100),
        seed=7,
        epoch=0,
        batch_size=BATCH,
        shuffle_shards=SHUFFLE_SHARDS,
    )
    seen = [len(set(batch)) for batch in (order.images(np.arange(3200)) // 100).reshape(-1, 64)]
    assert np.mean(seen) == pytest.approx(27.8, abs=1.0)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_batch_is_drawn_from_one_stripe_and_no_two_stripes_share_a_shard(epoch: int) -> None:
    shards = shards_of(of_many_shards(epoch))
    met = [set(shards[:, stripe].ravel().tolist()) for stripe in range(4)]
    # The borders of stripes are within a shard at most: here they are the shards' own.
    assert [len(stripe) for stripe in met] == [80] * 4
    assert set.union(*met) == set(range(320))


def test_a_stripe_is_in_few_shards_at_a_time_and_comes_back_to_none() -> None:
    shards = shards_of(of_many_shards())
    for stripe in range(4):
        turns = [set(batch.tolist()) for batch in shards[:, stripe]]
        first = {s: min(t for t, met in enumerate(turns) if s in met) for s in set.union(*turns)}
        last = {s: max(t for t, met in enumerate(turns) if s in met) for s in first}
        open_at = [sum(first[s] <= t <= last[s] for s in first) for t in range(len(turns))]
        # A window may begin and end within a shard; the last may be half as long again.
        assert max(open_at) <= 1.5 * WINDOW_SHARDS + 2
        assert np.median(open_at) >= WINDOW_SHARDS - 2


def test_windows_of_different_stripes_end_at_different_times() -> None:
    shards = shards_of(of_many_shards())
    ends = []
    for stripe in range(4):
        first = shards[0, stripe]
        ends.append(np.median([np.flatnonzero((shards[:, stripe] == s).any(1))[-1] for s in first]))
    # A window is 20 turns; the first of stripe k ends 2.5 k turns earlier.
    assert ends[0] > ends[1] > ends[2] > ends[3] > 20 - 10 - 2


def test_windows_of_different_stripes_are_shuffled_differently() -> None:
    # Second windows of stripes 0 and 1: all of 160 images, the other begins 20 images earlier.
    images = of_many_shards().images(np.arange(6400)).reshape(-1, 4, BATCH)
    one, other = (images[:, stripe].ravel() % 20 for stripe in (0, 1))
    agree = (one[160:320] == other[140:300]).mean()
    assert agree < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 160)


def test_another_epoch_opens_other_shards_together() -> None:
    first, second = (shards_of(of_many_shards(epoch)) for epoch in (0, 1))
    together = [{frozenset(set(s[:15, k].ravel())) for k in range(4)} for s in (first, second)]
    assert not together[0] & together[1]


def test_equal_weights_give_every_image_once() -> None:
    orders = make_orders(50, weights=np.full(50, 0.1))
    assert sorted(all_images(orders)) == list(range(50))
    assert all_images(orders) != all_images(orders, 1)


@quick
@given(
    weights=st.lists(st.floats(0, 100), min_size=1, max_size=60).filter(lambda w: max(w) > 1e-3),
    seed=SEEDS,
)
def test_an_image_is_drawn_as_often_as_its_weight_says(weights: list[float], seed: int) -> None:
    orders = make_orders(len(weights), seed=seed, weights=np.array(weights))
    times = np.bincount(all_images(orders), minlength=len(weights))
    expected = np.array(weights) * len(weights) / sum(weights)
    assert times.sum() == len(weights)
    assert (np.abs(times - expected) < 1 + 1e-9).all()


def test_over_epochs_a_weight_is_met_on_average() -> None:
    orders = make_orders(4, weights=np.array([0.5, 1.0, 1.0, 1.5]))
    times = np.bincount(np.concatenate([all_images(orders, epoch) for epoch in range(400)]))
    # A fraction of one half, drawn 400 times: a standard deviation of 10 draws. Four of them.
    np.testing.assert_allclose(times, [200, 400, 400, 600], atol=40)


def test_each_class_has_the_same_share_of_the_weights() -> None:
    # Boxes 0 0 1 | 0 | (none) | 2: class 0 has three, the others one.
    weights = rare_class_weights(np.array([0, 0, 1, 0, 2]), np.array([3, 1, 0, 1]))
    np.testing.assert_allclose(weights, [2 / 3 + 1, 1 / 3, 1, 1])


def test_weights_of_a_split_come_from_its_labels(tmp_path: Path) -> None:
    box = (0.5, 0.5, 0.5, 0.5)
    records = [
        ImageRecord(
            id=str(n), height=9, width=9, classes=classes, boxes_cxcywh_norm=[box] * len(classes)
        )
        for n, classes in enumerate([[0, 0, 1], [0], [], [2]])
    ]
    split = make_split(tmp_path, records, names="abc")
    np.testing.assert_allclose(class_weights(split), [2 / 3 + 1, 1 / 3, 1, 1])


def test_without_any_box_all_images_weigh_the_same() -> None:
    assert rare_class_weights(np.zeros(0, np.int64), np.zeros(3, np.int64)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("position", "length", "window", "expected"),
    [
        (0, 100, 16, range(16)),
        (8, 100, 16, range(16)),
        (9, 100, 16, range(1, 17)),
        (50, 100, 16, range(42, 58)),
        (97, 100, 16, range(84, 100)),  # as long as the others
        (3, 10, 16, range(10)),
    ],
)
def test_a_window_lies_round_its_position_and_inside_the_order(
    position: int, length: int, window: int, expected: range
) -> None:
    assert round_about(position, length, window) == expected
    assert make_orders(length).near(0, position, window) == expected


def test_without_a_window_every_position_is_near() -> None:
    assert make_orders(60, 40).near(0, 99, 0) == range(100)


def test_in_a_striped_order_what_is_near_a_position_is_of_its_stripe() -> None:
    # 40 shards of 6 images, 16 at a time: two stripes, drawn from in turn, 2 images at a time.
    orders = make_orders(*[6] * 40, shuffle_shards=16)
    stripes = [{at for at in range(240) if at // 2 % 2 == stripe} for stripe in range(2)]
    for position in range(240):
        near = orders.near(0, position, 12)
        assert len(near) == len(set(near)) == 12 and position in near
        assert set(near) <= stripes[position // 2 % 2]
        assert max(near) - min(near) < 2 * 12 + 2


def test_what_does_not_fill_the_stripes_is_a_window_of_its_own() -> None:
    orders = make_orders(*[6] * 40, 3, shuffle_shards=16)  # 243 images, 240 of them in stripes
    assert list(orders.near(0, 241, 12)) == [240, 241, 242]
    assert max(orders.near(0, 239, 12)) == 239
