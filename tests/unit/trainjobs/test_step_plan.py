"""Laws of the cut of an epoch into steps and micro-batches (recipe, section 4)."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ConfigError
from tests.builders import make_plan
from trainjobs.step_plan import StepPlan, resolve_images_per_step

WORLD_SIZES = (1, 2, 3, 8)


def plans(*, batch: st.SearchStrategy[int], warmup: st.SearchStrategy[int]) -> st.SearchStrategy:
    return st.builds(
        make_plan,
        num_images=st.integers(1, 150),
        images_per_step=st.integers(1, 70),
        batch_size_per_worker=batch,
        warmup_images=warmup,
        warmup_micro_batches=st.integers(1, 9),
        world_size=st.integers(1, 8),
    )


ANY_PLAN = plans(batch=st.integers(1, 20), warmup=st.integers(0, 300))
PLAN_WITHOUT_WARMUP = plans(batch=st.integers(1, 20), warmup=st.just(0))
EPOCHS = st.integers(0, 3)
quick = settings(deadline=None, max_examples=60)


def sizes(plan: StepPlan, epoch: int = 0) -> list[tuple[int, ...]]:
    return [step.sizes for step in plan.steps(epoch)]


@quick
@given(plan=ANY_PLAN, epoch=EPOCHS)
def test_every_image_is_in_exactly_one_step_of_an_epoch_and_in_order(
    plan: StepPlan, epoch: int
) -> None:
    positions = [
        position
        for step in plan.steps(epoch)
        for number in range(len(step.sizes))
        for position in step.positions(number)
    ]
    assert positions == list(range(plan.num_images))


@quick
@given(plan=ANY_PLAN, epoch=EPOCHS)
def test_micro_batches_of_a_step_differ_by_at_most_one_and_fit_a_worker(
    plan: StepPlan, epoch: int
) -> None:
    for step in plan.steps(epoch):
        assert max(step.sizes) - min(step.sizes) <= 1
        assert min(step.sizes) >= 1 and max(step.sizes) <= plan.batch_size_per_worker


@quick
@given(plan=PLAN_WITHOUT_WARMUP)
def test_every_step_but_the_last_is_full_and_the_last_takes_the_rest(plan: StepPlan) -> None:
    *full, last = plan.steps(0)
    assert all(step.num_images == plan.images_per_step for step in full)
    assert all(len(step.sizes) == plan.micro_batches_per_step for step in full)
    assert last.num_images <= plan.images_per_step + 1
    assert len(last.sizes) == -(-last.num_images // plan.batch_size_per_worker)


@quick
@given(plan=plans(batch=st.integers(2, 20), warmup=st.integers(0, 300)), epoch=EPOCHS)
def test_no_step_holds_a_single_image_unless_asked_for(plan: StepPlan, epoch: int) -> None:
    if plan.num_images >= 2 and plan.images_per_step >= 2:
        assert min(step.num_images for step in plan.steps(epoch)) >= 2


def test_a_single_left_over_image_joins_the_step_before() -> None:
    assert sizes(make_plan(num_images=9)) == [(2, 2), (2, 2, 1)]
    assert sizes(make_plan(num_images=65, images_per_step=64, batch_size_per_worker=16)) == [
        (13, 13, 13, 13, 13)
    ]


def test_two_left_over_images_are_a_step_of_their_own() -> None:
    assert sizes(make_plan(num_images=10)) == [(2, 2), (2, 2), (2,)]


def test_images_left_at_the_end_are_cut_evenly() -> None:
    plan = make_plan(num_images=27, images_per_step=16, batch_size_per_worker=5)
    assert sizes(plan) == [(4, 4, 4, 4), (4, 4, 3)]


def test_a_dataset_smaller_than_a_step_is_one_step() -> None:
    assert sizes(make_plan(num_images=3, images_per_step=64, batch_size_per_worker=16)) == [(3,)]


def steps_one_by_one(plan: StepPlan, epoch: int) -> list[tuple[int, tuple[int, ...]]]:
    """First position and sizes of each step, by the rule in the recipe: slow, and easy to check."""
    full = -(-plan.images_per_step // plan.batch_size_per_worker)
    first = min(plan.warmup_micro_batches, full)
    found, position = [], 0
    while position < plan.num_images:
        seen = epoch * plan.num_images + position
        progress = min(seen / plan.warmup_images, 1.0) if plan.warmup_images else 1.0
        count = max(1, round(first + (full - first) * progress))
        wanted = min(count * plan.batch_size_per_worker, plan.images_per_step)
        if plan.num_images - position - wanted <= 1:
            wanted = plan.num_images - position
        parts = -(-wanted // plan.batch_size_per_worker)
        small, larger = divmod(wanted, parts)
        found.append((position, (small + 1,) * larger + (small,) * (parts - larger)))
        position += wanted
    return found


@settings(deadline=None, max_examples=200)
@given(plan=ANY_PLAN, epoch=EPOCHS)
def test_steps_that_are_found_at_once_are_those_counted_one_by_one(
    plan: StepPlan, epoch: int
) -> None:
    steps = [(step.first_position, step.sizes) for step in plan.steps(epoch)]
    assert steps == steps_one_by_one(plan, epoch)
    assert plan.num_steps(epoch) == len(steps)


@quick
@given(plan=ANY_PLAN, epoch=EPOCHS, start=st.integers(0, 200))
def test_steps_from_a_start_are_the_tail_of_all_steps(
    plan: StepPlan, epoch: int, start: int
) -> None:
    assert list(plan.steps(epoch, start)) == list(plan.steps(epoch))[start:]


@quick
@given(plan=ANY_PLAN, epoch=EPOCHS)
def test_steps_are_the_same_for_any_world_size(plan: StepPlan, epoch: int) -> None:
    numbers = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    cuts = [
        list(make_plan(**{**numbers, "world_size": world_size}).steps(epoch))
        for world_size in WORLD_SIZES
    ]
    assert all(cut == cuts[0] for cut in cuts)


@quick
@given(plan=ANY_PLAN)
def test_ranks_take_micro_batches_in_turn_and_each_has_one_owner(plan: StepPlan) -> None:
    for step in plan.steps(0):
        owners = {
            number: rank for rank in range(plan.world_size) for number in plan.mine(step, rank)
        }
        assert owners == {j: j % plan.world_size for j in range(len(step.sizes))}
        assert sum(len(plan.mine(step, r)) for r in range(plan.world_size)) == len(step.sizes)


@quick
@given(plan=ANY_PLAN)
def test_warmup_counts_images_over_epochs_and_is_taken_when_a_step_ends(plan: StepPlan) -> None:
    for epoch in (0, 1):
        for step in plan.steps(epoch):
            seen = epoch * plan.num_images + step.first_position + step.num_images
            expected = min(seen / plan.warmup_images, 1) if plan.warmup_images else 1
            assert step.warmup_progress == expected


@quick
@given(plan=ANY_PLAN)
def test_a_step_has_as_many_micro_batches_as_its_start_has_warmup(plan: StepPlan) -> None:
    full = plan.micro_batches_per_step
    first = min(plan.warmup_micro_batches, full)
    progress = 0.0 if plan.warmup_images else 1.0
    steps = list(plan.steps(0))
    for step, following in pairwise(steps):
        wanted = max(1, round(first + (full - first) * progress))
        if following is not steps[-1]:
            images = min(wanted * plan.batch_size_per_worker, plan.images_per_step)
            assert (len(step.sizes), step.num_images) == (wanted, images)
        progress = step.warmup_progress


def test_warmup_ramps_the_number_of_micro_batches_from_first_to_full() -> None:
    plan = make_plan(num_images=100, images_per_step=16, batch_size_per_worker=4, warmup_images=40)
    # Progress at each step's start: 0, .1, .2, .4, .6, .9, 1; 1 + 3p = 1, 1.3, 1.6, 2.2, 2.8, 3.7, 4.
    assert [len(step) for step in sizes(plan)[:7]] == [1, 1, 2, 2, 3, 4, 4]


def test_warmup_never_takes_more_micro_batches_than_a_full_step_has() -> None:
    plan = make_plan(num_images=40, warmup_micro_batches=8, warmup_images=20)
    assert set(sizes(plan)) == {(2, 2)}


def test_number_of_steps_counts_the_steps_of_that_epoch() -> None:
    plan = make_plan(num_images=16, warmup_images=16)
    assert plan.num_steps(0) == len(sizes(plan, 0)) > plan.num_steps(1) == 4


@pytest.mark.parametrize(
    ("batch", "world_size", "expected"),
    [(16, 1, 64), (16, 2, 64), (64, 2, 128), (40, 1, 80), (20, 1, 60), (1, 1, 64), (16, 3, 48)],
)
def test_auto_accumulates_to_the_nearest_multiple_of_the_total_batch(
    batch: int, world_size: int, expected: int
) -> None:
    found = resolve_images_per_step(
        "auto", batch_size_per_worker=batch, world_size=world_size, nominal_batch_size=64
    )
    assert found == expected


@quick
@given(a=st.integers(1, 9), batch=st.integers(1, 64), world_size=st.integers(1, 9))
def test_accumulate_counts_micro_batches_of_every_rank(a: int, batch: int, world_size: int) -> None:
    found = resolve_images_per_step(
        a, batch_size_per_worker=batch, world_size=world_size, nominal_batch_size=64
    )
    assert found == a * batch * world_size


@pytest.mark.parametrize("wrong", [0, -1, "twice"])
def test_accumulate_that_is_neither_auto_nor_positive_is_an_error(wrong: int | str) -> None:
    with pytest.raises(ConfigError, match=r"optim\.accumulate"):
        resolve_images_per_step(wrong, batch_size_per_worker=1, world_size=1, nominal_batch_size=64)
