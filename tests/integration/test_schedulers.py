"""ASHA on our own epochs, also after a restart; population-based training's decisions."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from tuning.config import SearchConfig
from tuning.records import TrialRecord
from tuning.schedulers import PopulationScheduler, build_asha, rungs

CONTINUE, STOP, NOOP = TrialScheduler.CONTINUE, TrialScheduler.STOP, TrialScheduler.NOOP
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own


def make_record(number: int, curve: dict[int, float]) -> TrialRecord:
    return TrialRecord(
        number=number, origin="random", values={}, seed=0, state="stopped", curve=curve
    )


def decide(scheduler: TrialScheduler, number: int, epoch: int, value: float) -> str:
    trial: Any = SimpleNamespace(trial_id=f"trial-{number}")
    controller: Any = None
    if trial.trial_id not in scheduler._trial_info:  # type: ignore[attr-defined]  # Tune's own
        scheduler.on_trial_add(controller, trial)
    return scheduler.on_trial_result(controller, trial, {"epoch": epoch, "map50": value})


def test_the_rungs_grow_by_the_reduction_and_end_before_the_last_epoch() -> None:
    assert rungs(SearchConfig(), 9) == [3]
    assert rungs(SearchConfig(), 30) == [3, 9, 27]
    assert rungs(SearchConfig(grace_epochs=2, reduction=2), 9) == [2, 4, 8]
    assert rungs(SearchConfig(scheduler="none"), 9) == []


def test_asha_stops_whom_a_finished_trial_of_an_earlier_launch_beats() -> None:
    fresh = build_asha(SearchConfig(grace_epochs=1), "map50", "max", 9, [])
    assert decide(fresh, 5, 1, 0.1) == CONTINUE
    earlier = [make_record(n, {1: 0.5 + n / 10}) for n in range(3)]
    resumed = build_asha(SearchConfig(grace_epochs=1), "map50", "max", 9, earlier)
    assert decide(resumed, 5, 1, 0.1) == STOP
    assert decide(resumed, 6, 1, 0.9) == CONTINUE


def test_asha_lets_epochs_between_rungs_pass() -> None:
    scheduler = build_asha(
        SearchConfig(grace_epochs=1), "map50", "max", 9, [make_record(0, {1: 0.5, 3: 0.8})]
    )
    assert decide(scheduler, 5, 1, 0.6) == CONTINUE
    assert decide(scheduler, 5, 2, 0.0) == CONTINUE
    assert decide(scheduler, 5, 3, 0.7) == STOP


class Controller:
    """Notes whom the scheduler pauses."""

    def __init__(self) -> None:
        self.paused: list[int] = []

    def pause_trial(self, trial: Any, should_checkpoint: bool) -> None:
        assert not should_checkpoint  # a run's state is in its own folder
        self.paused.append(trial.config["number"])


class Member:
    """As much of a Tune trial as the scheduler uses."""

    def __init__(self, number: int) -> None:
        self.config: dict[str, Any] = {"number": number}

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


class Population:
    """Members under a scheduler, and what it did to them."""

    def __init__(self, size: int, *, decided: int = 0) -> None:
        self.exploited: list[tuple[int, int, int]] = []
        self.is_stopping = False
        self.controller = Controller()
        self.scheduler = PopulationScheduler(
            metric="map50", mode="max", interval=2, epochs=8, population=size, seed=0,
            exploit=self.exploit, decided=decided,
        )  # fmt: skip
        self.members = [Member(number) for number in range(size)]
        for member in self.members:
            self.scheduler.on_trial_add(self.controller, member)

    def exploit(self, member: int, donor: int, epoch: int) -> dict[str, Any] | None:
        if self.is_stopping:
            return None
        self.exploited.append((member, donor, epoch))
        return {"number": member, "from": donor}

    def report(self, number: int, epoch: int, value: float) -> str:
        result = {"epoch": epoch, "map50": value}
        return self.scheduler.on_trial_result(self.controller, self.members[number], result)

    def end(self, number: int) -> None:
        self.scheduler.on_trial_complete(self.controller, self.members[number], {})


def test_a_bad_member_is_sent_to_the_best_at_the_interval_and_not_before() -> None:
    population = Population(2)
    assert population.report(0, 1, 0.5) == CONTINUE
    assert population.report(1, 1, 0.1) == CONTINUE
    assert population.report(0, 2, 0.6) == CONTINUE
    assert population.report(1, 2, 0.2) == NOOP
    assert population.exploited == [(1, 0, 2)]
    assert population.controller.paused == [1]
    assert population.members[1].config == {"number": 1, "from": 0}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_in_which_members_arrive_does_not_matter(order: tuple[int, ...]) -> None:
    population = Population(3)
    for number in order:
        for epoch in (1, 2):
            population.report(number, epoch, [0.3, 0.1, 0.2][number])
    assert population.exploited == [(1, 0, 2)]


def test_members_are_compared_at_equal_epochs() -> None:
    population = Population(2)
    for epoch, value in ((1, 0.1), (2, 0.2), (3, 0.9)):
        assert population.report(0, epoch, value) == CONTINUE
    assert population.report(1, 2, 0.3) == CONTINUE  # better than the other one was at epoch 2
    assert population.exploited == [(0, 1, 2)]
    assert population.controller.paused == [0]


def test_nothing_is_decided_before_all_members_have_joined() -> None:
    population = Population(2)
    population.scheduler.awaited = 1
    assert [population.report(n, 2, v) for n, v in ((0, 0.6), (1, 0.2))] == [CONTINUE] * 2
    assert population.exploited == []


def test_a_member_that_was_replaced_is_compared_an_interval_later() -> None:
    population = Population(2)
    population.report(0, 2, 0.6)
    population.report(1, 2, 0.2)
    population.report(1, 3, 0.3)
    population.report(1, 4, 0.3)
    assert len(population.exploited) == 1
    population.report(0, 4, 0.6)
    assert population.exploited[1:] == [(1, 0, 4)]


def test_a_replaced_member_has_its_donors_epochs() -> None:
    population = Population(3)
    for number, value in enumerate((0.6, 0.2, 0.4)):
        population.report(number, 2, value)
    assert population.exploited == [(1, 0, 2)]
    population.report(0, 5, 0.7)
    population.report(1, 3, 0.6)  # has what the best one had at epoch 2
    population.report(2, 4, 0.5)
    assert len(population.exploited) == 1
    population.report(1, 4, 0.4)
    assert population.exploited[1:] == [(1, 0, 4)]


def test_a_member_that_has_ended_neither_gives_nor_is_waited_for() -> None:
    population = Population(3)
    population.report(0, 8, 0.6)
    population.end(0)
    population.report(1, 2, 0.2)
    population.report(2, 2, 0.3)
    assert population.exploited == [(1, 2, 2)]


def test_nobody_is_replaced_at_the_end_or_while_the_sweep_stops() -> None:
    population = Population(2, decided=6)
    population.report(0, 8, 0.6)
    assert population.report(1, 8, 0.2) == CONTINUE
    stopping = Population(2)
    stopping.is_stopping = True
    stopping.report(0, 2, 0.6)
    assert stopping.report(1, 2, 0.2) == CONTINUE
    assert population.exploited == stopping.exploited == []


def test_what_an_earlier_launch_has_decided_is_not_decided_again() -> None:
    population = Population(2, decided=2)
    population.report(0, 2, 0.6)
    population.report(1, 2, 0.2)
    assert population.exploited == []
    population.report(0, 4, 0.6)
    population.report(1, 4, 0.2)
    assert population.exploited == [(1, 0, 4)]
