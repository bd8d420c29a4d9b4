"""Shapes of micro-batches, and the orders that they come in: laws for any number of ranks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.builders import make_orders, make_plan
from trainjobs.data.ordering.batch_shapes import BatchShapes, kinds_by_shape, scaled_sides
from trainjobs.data.ordering.order import Orders
from trainjobs.data.ordering.sampler import RankSampler, SampleRef
from trainjobs.step_plan import Step, StepPlan

quick = settings(deadline=None, max_examples=40)
EPOCHS = 2
SEEDS = st.integers(0, 2**32 - 1)
PX = st.integers(10, 2000)
MicroBatches = list[list[SampleRef]]


def random_sizes(seed: int, count: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(20, 200, (count, 2)).astype(np.int32)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, object]:
    """Datasets, how their images are ordered, and how an epoch is cut."""
    datasets = draw(
        st.lists(
            st.tuples(
                st.lists(st.integers(1, 9), min_size=1, max_size=9),
                st.sampled_from([0.3, 0.5, 1.0, 1.7, 2.0]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    datasets[0] = (datasets[0][0], 1.0)
    return {
        "datasets": datasets,
        "seed": draw(SEEDS),
        "shuffle_shards": draw(st.sampled_from([1, 16, 256])),
        "is_rect": draw(st.booleans()),
        "is_weighted": draw(st.booleans()),
        "multi_scale": draw(st.sampled_from([0.0, 0.5])),
        "images_per_step": draw(st.integers(1, 24)),
        "batch": draw(st.integers(1, 6)),
        "warmup": draw(st.integers(0, 100)),
    }


def make_run(run: dict, world_size: int) -> tuple[StepPlan, Orders, BatchShapes]:
    sizes = [size for shards, _ in run["datasets"] for size in shards]
    images = random_sizes(run["seed"], sum(sizes))
    weights = np.random.default_rng(run["seed"]).random(sum(sizes)) + 0.1
    orders = make_orders(
        *sizes,
        seed=run["seed"],
        batch_size=run["batch"],
        shuffle_shards=run["shuffle_shards"],
        shares=[(len(shards), weight) for shards, weight in run["datasets"]],
        weights=weights if run["is_weighted"] else None,
        kinds=kinds_by_shape(images, 128, 32) if run["is_rect"] else None,
    )
    plan = make_plan(
        num_images=orders.num_images,
        images_per_step=run["images_per_step"],
        batch_size_per_worker=run["batch"],
        warmup_images=run["warmup"],
        world_size=world_size,
    )
    shapes = BatchShapes(
        image_size=128,
        stride=32,
        seed=run["seed"],
        multi_scale=run["multi_scale"],
        sizes=images if run["is_rect"] else None,
    )
    return plan, orders, shapes


def steps_from(run: dict, world_size: int, epoch: int = 0, step: int = 0) -> list[MicroBatches]:
    """The micro-batches of each optimizer step from one on, whoever loads them."""
    plan, orders, shapes = make_run(run, world_size)
    streams = [
        shapes.shaped(
            RankSampler(
                plan=plan,
                orders=orders,
                rank=rank,
                epochs=EPOCHS,
                first_epoch=epoch,
                first_step=step,
            )
        )
        for rank in range(world_size)
    ]
    todo: list[Step] = [
        s for e in range(epoch, EPOCHS) for s in plan.steps(e, step if e == epoch else 0)
    ]
    found = []
    for each in todo:
        by_number = {
            number: next(stream)
            for rank, stream in enumerate(streams)
            for number in plan.mine(each, rank)
        }
        found.append([by_number[number] for number in sorted(by_number)])
    assert all(next(stream, None) is None for stream in streams)
    return found


@quick
@given(run=runs())
def test_micro_batches_have_the_same_images_and_shapes_on_any_number_of_ranks(run: dict) -> None:
    alone = steps_from(run, 1)
    for world_size in (2, 3, 8):
        assert steps_from(run, world_size) == alone


@quick
@given(run=runs(), data=st.data())
def test_a_run_that_goes_on_has_the_remainder_of_the_uninterrupted_one(
    run: dict, data: st.DataObject
) -> None:
    whole = steps_from(run, 1)
    plan, *_ = make_run(run, 1)
    epoch = data.draw(st.integers(0, EPOCHS - 1))
    step = data.draw(st.integers(0, plan.num_steps(epoch)))
    resumed = steps_from(run, data.draw(st.sampled_from([1, 2, 3, 8])), epoch, step)
    assert resumed == whole[len(whole) - len(resumed) :]
    before = sum(plan.num_steps(e) for e in range(epoch)) + step
    assert len(resumed) == len(whole) - before


@quick
@given(run=runs(), epoch=st.integers(0, 9))
def test_grouping_changes_the_order_of_images_not_how_often_they_come(
    run: dict, epoch: int
) -> None:
    _, grouped, _ = make_run({**run, "is_rect": True}, 1)
    _, plain, _ = make_run({**run, "is_rect": False}, 1)
    assert grouped.num_images == plain.num_images
    positions = range(plain.num_images)
    assert sorted(grouped.images(epoch, positions)) == sorted(plain.images(epoch, positions))


def epoch_groups(epoch: int, *, kinds: NDArray[np.int16], batch: int = 4) -> list[list[int]]:
    orders = make_orders(len(kinds), batch_size=batch, kinds=kinds)
    images = orders.images(epoch, range(len(kinds)))
    return [images[at : at + batch] for at in range(0, len(kinds), batch)]


def test_only_where_two_kinds_meet_are_both_in_a_group() -> None:
    kinds = np.repeat(np.array([-3, 0, 5], np.int16), [9, 13, 20])
    for epoch in range(10):
        mixed = [set(kinds[group]) for group in epoch_groups(epoch, kinds=kinds)]
        assert (
            sum(len(kinds_of_group) > 1 for kinds_of_group in mixed) <= 3
        )  # 2 borders and the rest
        assert {-3, 5} not in mixed


def test_groups_come_in_another_order_and_have_other_members_in_another_epoch() -> None:
    kinds = np.repeat(np.array([0, 1, 2], np.int16), 40)
    epochs = [epoch_groups(epoch, kinds=kinds) for epoch in range(5)]
    sequences = {tuple(int(kinds[group[0]]) for group in groups) for groups in epochs}
    assert len(sequences) == 5
    assert len({frozenset(group) for groups in epochs for group in groups}) > 5 * 30 - 10


def test_borders_of_groups_move_where_images_are_left_over() -> None:
    # All images differ in kind, so that only the place of the left-over ones can move a border.
    epochs = [epoch_groups(epoch, kinds=np.arange(23, dtype=np.int16)) for epoch in range(20)]
    assert len({frozenset(group) for groups in epochs for group in groups}) > 6
    assert all(len(groups[-1]) == 3 for groups in epochs)


@quick
@given(sizes=st.lists(st.tuples(PX, PX), min_size=1, max_size=9), side=st.integers(1, 20))
def test_a_rectangle_is_the_least_in_which_its_images_fit(
    sizes: list[tuple[int, int]], side: int
) -> None:
    image_size = 32 * side
    shapes = BatchShapes(image_size=image_size, stride=32, seed=0, sizes=np.array(sizes, np.int32))
    shape = shapes.shape([SampleRef(0, at, at) for at in range(len(sizes))])
    scaled = np.array([np.array(s) * image_size / max(s) for s in sizes])
    needed = [math.ceil(px / 32 - 1e-5) * 32 for px in scaled.max(axis=0)]
    assert list(shape) == needed
    assert max(shape) == image_size


@quick
@given(size=st.tuples(PX, PX), other=st.tuples(PX, PX))
def test_images_of_one_kind_need_the_same_shape(
    size: tuple[int, int], other: tuple[int, int]
) -> None:
    sizes = np.array([size, other], np.int32)
    one, two = kinds_by_shape(sizes, 640, 32)
    shapes = BatchShapes(image_size=640, stride=32, seed=0, sizes=sizes)
    height, width = shapes.shape([SampleRef(0, 0, 0)])
    alike = (height, width) == shapes.shape([SampleRef(0, 0, 1)])
    assert alike == (one == two)
    assert (one < two) <= (size[0] * other[1] < size[1] * other[0])


def test_sides_of_multi_scale_are_even_over_their_range_and_keyed_by_seed_epoch_and_position() -> (
    None
):
    shapes = BatchShapes(image_size=640, stride=32, seed=3, multi_scale=0.5)
    sides = [shapes.side(epoch, 16 * number) for epoch in range(3) for number in range(700)]
    found, times = np.unique(sides, return_counts=True)
    assert found.tolist() == list(range(320, 961, 32))
    assert times.min() > 100 - 5 * 10  # of 2100 draws 100 each, five standard deviations
    other = BatchShapes(image_size=640, stride=32, seed=4, multi_scale=0.5)
    assert sides[:700] != sides[700:1400] != [other.side(0, 16 * n) for n in range(700)]


@pytest.mark.parametrize(
    ("image_size", "stride", "multi_scale", "expected"),
    [
        (640, 32, 0.0, (640, 640)),
        (640, 32, 0.1, (576, 704)),
        (128, 32, 0.2, (128, 128)),  # the next multiples lie outside
        (64, 64, 0.9, (64, 64)),
    ],
)
def test_sides_are_multiples_of_the_stride_within_the_range(
    image_size: int, stride: int, multi_scale: float, expected: tuple[int, int]
) -> None:
    assert scaled_sides(image_size, stride, multi_scale) == expected
