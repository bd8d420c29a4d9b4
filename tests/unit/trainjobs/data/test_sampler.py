"""Who loads which images: a function of the plan; the order of images is tested in test_order.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import make_orders, make_plan
from trainjobs.data.ordering.order import Orders
from trainjobs.data.ordering.sampler import RankSampler, SampleRef
from trainjobs.step_plan import StepPlan

quick = settings(deadline=None, max_examples=30)
WORLD_SIZES = (1, 2, 3, 8)
EPOCHS = 3
SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=40)


def sampler(plan: StepPlan, orders: Orders, rank: int = 0, **start: int) -> RankSampler:
    return RankSampler(plan=plan, orders=orders, rank=rank, epochs=EPOCHS, **start)


def samples_by_step(plan: StepPlan, orders: Orders) -> list[list[SampleRef]]:
    """Samples of each optimizer step of a run, in the order of the epoch, whoever loads them."""
    streams = [iter(sampler(plan, orders, rank)) for rank in range(plan.world_size)]
    steps = []
    for epoch in range(EPOCHS):
        for step in plan.steps(epoch):
            mine = [next(s) for rank, s in enumerate(streams) for _ in plan.mine(step, rank)]
            steps.append(sorted(ref for batch in mine for ref in batch))
    assert all(next(stream, None) is None for stream in streams)
    return steps


@quick
@given(
    shards=SHARDS,
    seed=st.integers(0, 2**32 - 1),
    shuffle_shards=st.sampled_from([1, 16, 256]),
    images_per_step=st.integers(1, 24),
    batch=st.integers(1, 6),
    warmup=st.integers(0, 200),
    is_weighted=st.booleans(),
)
def test_a_step_holds_the_same_images_on_any_number_of_ranks(
    *,
    shards: list[int],
    seed: int,
    shuffle_shards: int,
    images_per_step: int,
    batch: int,
    warmup: int,
    is_weighted: bool,
) -> None:
    weights = np.random.default_rng(seed).random(sum(shards)) if is_weighted else None
    steps = []
    for world_size in WORLD_SIZES:
        plan = make_plan(
            num_images=sum(shards),
            images_per_step=images_per_step,
            batch_size_per_worker=batch,
            warmup_images=warmup,
            world_size=world_size,
        )
        orders = make_orders(
            *shards, seed=seed, batch_size=batch, shuffle_shards=shuffle_shards, weights=weights
        )
        steps.append(samples_by_step(plan, orders))
    assert all(found == steps[0] for found in steps)
    seen = sorted((ref.epoch, ref.image) for step in steps[0] for ref in step)
    if not is_weighted:
        assert seen == [(epoch, i) for epoch in range(EPOCHS) for i in range(sum(shards))]


def test_a_sample_is_keyed_by_its_place_in_the_order() -> None:
    orders = make_orders(10)
    one, other = orders.images(0, [0, 1])
    assert next(iter(sampler(make_plan(), orders))) == [
        SampleRef(0, 0, one),
        SampleRef(0, 1, other),
    ]


def test_micro_batches_have_the_planned_sizes() -> None:
    plan = make_plan(num_images=27, images_per_step=16, batch_size_per_worker=5)
    sizes = [len(batch) for batch in sampler(plan, make_orders(27))]
    assert sizes == [4, 4, 4, 4, 4, 4, 3] * 3


@quick
@given(
    shards=SHARDS,
    epoch=st.integers(0, 2),
    step=st.integers(0, 3),
    world_size=st.sampled_from(WORLD_SIZES),
    warmup=st.integers(0, 60),
    data=st.data(),
)
def test_a_stream_from_a_step_on_is_the_tail_of_the_whole(
    *, shards: list[int], epoch: int, step: int, world_size: int, warmup: int, data: st.DataObject
) -> None:
    plan = make_plan(num_images=sum(shards), world_size=world_size, warmup_images=warmup)
    rank = data.draw(st.integers(0, world_size - 1))
    whole = list(sampler(plan, make_orders(*shards, shuffle_shards=16), rank))
    afresh = make_orders(*shards, shuffle_shards=16)
    resumed = list(sampler(plan, afresh, rank, first_epoch=epoch, first_step=step))
    assert resumed == whole[len(whole) - len(resumed) :]
    steps_before = sum(plan.num_steps(e) for e in range(epoch)) + min(step, plan.num_steps(epoch))
    everything = [s for e in range(EPOCHS) for s in plan.steps(e)]
    assert len(resumed) == sum(len(plan.mine(s, rank)) for s in everything[steps_before:])


@pytest.mark.parametrize("world_size", [1, 1024])
def test_the_middle_of_a_huge_epoch_is_reached_at_once(world_size: int) -> None:
    # Counting 10**9 images up step by step would take minutes; the suite's time limit would tell.
    plan = make_plan(
        num_images=10**9,
        images_per_step=16 * 1024,
        batch_size_per_worker=16,
        warmup_images=2 * 10**9,
        world_size=world_size,
    )
    orders = make_orders(*[10**6] * 1000, batch_size=16, shuffle_shards=128)
    rank, middle = world_size // 2, plan.num_steps(1) // 2
    resumed = iter(sampler(plan, orders, rank, first_epoch=1, first_step=middle))
    positions = next(plan.steps(1, middle)).positions(rank)
    assert [ref.position for ref in next(resumed)] == list(positions)
