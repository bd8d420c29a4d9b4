"""Which steps were taken is known on the device at once, and counted one step later."""

import pytest
import torch

from cluster.errors import TrainingError
from tests.builders import CPU
from trainjobs.checkpoint import TrainState
from trainjobs.step_plan import Step
from trainjobs.taken_steps import MAX_SKIPPED_IN_A_ROW, TakenSteps


def step(index: int) -> Step:
    return Step(epoch=0, index=index, first_position=0, sizes=(1,), warmup_progress=1.0)


def run(taken_steps: TakenSteps, taken: list[bool], stop_before: int | None = None) -> list[bool]:
    """Takes the steps, or not; what `after_step` said of each."""
    said = []
    for index, flag in enumerate(taken):
        taken_steps.before_step(stop=index == stop_before)
        said.append(taken_steps.after_step(step(index), torch.tensor(flag)))
    return said


def test_the_last_step_stays_open_until_it_is_settled() -> None:
    state = TrainState()
    taken_steps = TakenSteps(state, CPU)
    run(taken_steps, [True, True, True])
    assert state.updates == 2
    for _ in range(2):  # again: nothing is open
        taken_steps.settle()
        assert state.updates == 3


def test_steps_that_were_skipped_count_until_one_is_taken() -> None:
    state = TrainState()
    taken_steps = TakenSteps(state, CPU)
    run(taken_steps, [True, False, False])
    taken_steps.settle()
    assert (state.updates, state.skipped_in_a_row) == (1, 2)
    run(taken_steps, [True])
    taken_steps.settle()
    assert (state.updates, state.skipped_in_a_row) == (2, 0)


def test_a_skipped_step_is_named_by_its_own_number(caplog: pytest.LogCaptureFixture) -> None:
    run(TakenSteps(TrainState(), CPU), [True, False, True])
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 1, step 2: gradients are not finite; the step is skipped (1 in a row)"
    ]


def test_too_many_skipped_in_a_row_end_the_run_as_soon_as_they_are_known() -> None:
    taken_steps = TakenSteps(TrainState(), CPU)
    run(taken_steps, [False] * MAX_SKIPPED_IN_A_ROW)
    with pytest.raises(TrainingError, match="20 steps in a row"):
        taken_steps.settle()


def test_a_wish_to_stop_is_known_after_the_step_it_came_before() -> None:
    assert run(TakenSteps(TrainState(), CPU), [True] * 3, stop_before=1) == [False, True, False]
