"""The order of images, and who loads which: functions of (seed, epoch) and of the plan."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import make_plan
from trainjobs.data.sampler import RankSampler, SampleRef, epoch_order
from trainjobs.step_plan import StepPlan

quick = settings(deadline=None, max_examples=30)
WORLD_SIZES = (1, 2, 3, 8)


def sampler(plan: StepPlan, rank: int = 0, **start: int) -> RankSampler:
    return RankSampler(plan=plan, rank=rank, seed=7, epochs=3, **start)


def images_by_step(world_size: int) -> list[list[SampleRef]]:
    """Samples of each optimizer step of a run, in the order of the epoch, whoever loads them."""
    plan = make_plan(
        num_images=37,
        images_per_step=12,
        batch_size_per_worker=3,
        warmup_images=30,
        world_size=world_size,
    )
    streams = [iter(sampler(plan, rank)) for rank in range(world_size)]
    steps = []
    for epoch in range(3):
        for step in plan.steps(epoch):
            mine = [next(streams[r]) for r in range(world_size) for _ in plan.mine(step, r)]
            steps.append(sorted(ref for batch in mine for ref in batch))
    assert all(next(stream, None) is None for stream in streams)
    return steps


@quick
@given(count=st.integers(1, 300), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 1000))
def test_the_order_is_a_permutation_and_a_function_of_seed_and_epoch(
    count: int, seed: int, epoch: int
) -> None:
    order = epoch_order(count, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(order), np.arange(count))
    assert np.array_equal(order, epoch_order(count, seed=seed, epoch=epoch))


def test_another_seed_or_epoch_gives_another_order() -> None:
    orders = {tuple(epoch_order(50, seed=s, epoch=e)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_step_holds_the_same_images_on_any_number_of_ranks(world_size: int) -> None:
    assert images_by_step(world_size) == images_by_step(1)


def test_every_image_is_seen_once_per_epoch() -> None:
    refs = [ref for step in images_by_step(3) for ref in step]
    assert sorted((ref.epoch, ref.image) for ref in refs) == [
        (epoch, image) for epoch in range(3) for image in range(37)
    ]


def test_a_sample_is_keyed_by_its_place_in_the_order() -> None:
    order = epoch_order(10, seed=7, epoch=0)
    first = next(iter(sampler(make_plan())))
    assert first == [SampleRef(0, 0, order[0]), SampleRef(0, 1, order[1])]


def test_micro_batches_have_the_planned_sizes() -> None:
    plan = make_plan(num_images=27, images_per_step=16, batch_size_per_worker=5)
    assert [len(batch) for batch in sampler(plan)] == [4, 4, 4, 4, 4, 4, 3] * 3


@quick
@given(epoch=st.integers(0, 2), step=st.integers(0, 3), rank=st.integers(0, 1))
def test_a_stream_from_a_step_on_is_the_tail_of_the_whole(epoch: int, step: int, rank: int) -> None:
    plan = make_plan(num_images=14, world_size=2)
    whole = list(sampler(plan, rank))
    resumed = list(sampler(plan, rank, first_epoch=epoch, first_step=step))
    assert resumed == whole[len(whole) - len(resumed) :]
    steps_before = sum(plan.num_steps(e) for e in range(epoch)) + min(step, plan.num_steps(epoch))
    everything = [s for e in range(3) for s in plan.steps(e)]
    assert len(resumed) == sum(len(plan.mine(s, rank)) for s in everything[steps_before:])
