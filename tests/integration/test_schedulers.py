"""ASHA on our own epochs, also after a restart; population-based training's decisions."""

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


def make_population(interval: int = 2) -> tuple[PopulationScheduler, list[tuple[int, int, int]]]:
    exploited: list[tuple[int, int, int]] = []

    def exploit(member: int, donor: int, epoch: int) -> dict[str, Any]:
        exploited.append((member, donor, epoch))
        return {"number": member, "from": donor}

    scheduler = PopulationScheduler(
        metric="map50", mode="max", interval=interval, epochs=8, seed=0, exploit=exploit
    )
    return scheduler, exploited


def test_a_bad_member_is_sent_to_the_best_at_the_interval_and_not_before() -> None:
    scheduler, exploited = make_population()
    controller, (good, bad) = Controller(), (Member(0), Member(1))
    assert scheduler.on_trial_result(controller, good, {"epoch": 1, "map50": 0.5}) == CONTINUE
    assert scheduler.on_trial_result(controller, bad, {"epoch": 1, "map50": 0.1}) == CONTINUE
    assert scheduler.on_trial_result(controller, good, {"epoch": 2, "map50": 0.6}) == CONTINUE
    assert scheduler.on_trial_result(controller, bad, {"epoch": 2, "map50": 0.2}) == NOOP
    assert (exploited, controller.paused) == ([(1, 0, 2)], [1])
    assert bad.config == {"number": 1, "from": 0}


def test_a_member_that_was_replaced_is_compared_an_interval_later() -> None:
    scheduler, exploited = make_population()
    controller, (good, bad) = Controller(), (Member(0), Member(1))
    scheduler.on_trial_result(controller, good, {"epoch": 2, "map50": 0.6})
    scheduler.on_trial_result(controller, bad, {"epoch": 2, "map50": 0.2})
    scheduler.on_trial_result(controller, bad, {"epoch": 3, "map50": 0.3})
    assert len(exploited) == 1
    scheduler.on_trial_result(controller, bad, {"epoch": 4, "map50": 0.3})
    assert exploited[1:] == [(1, 0, 4)]


def test_a_replaced_member_is_no_donor_before_it_has_measured_itself() -> None:
    scheduler, exploited = make_population()
    controller, (good, bad, other) = Controller(), (Member(0), Member(1), Member(2))
    scheduler.on_trial_result(controller, good, {"epoch": 2, "map50": 0.6})
    scheduler.on_trial_result(controller, bad, {"epoch": 2, "map50": 0.2})
    assert exploited == [(1, 0, 2)]
    scheduler.on_trial_complete(controller, good, {})
    assert scheduler.on_trial_result(controller, other, {"epoch": 2, "map50": 0.1}) == CONTINUE
    scheduler.on_trial_result(controller, bad, {"epoch": 3, "map50": 0.5})
    scheduler.on_trial_result(controller, other, {"epoch": 4, "map50": 0.1})
    assert exploited == [(1, 0, 2), (2, 1, 4)]


def test_a_member_that_has_ended_is_no_donor() -> None:
    scheduler, exploited = make_population()
    controller, (good, bad) = Controller(), (Member(0), Member(1))
    scheduler.on_trial_result(controller, good, {"epoch": 8, "map50": 0.6})
    scheduler.on_trial_complete(controller, good, {"epoch": 8, "map50": 0.6})
    assert scheduler.on_trial_result(controller, bad, {"epoch": 2, "map50": 0.2}) == CONTINUE
    assert exploited == []


def test_nobody_is_replaced_at_the_end() -> None:
    scheduler, exploited = make_population()
    controller, (good, bad) = Controller(), (Member(0), Member(1))
    scheduler.on_trial_result(controller, good, {"epoch": 8, "map50": 0.6})
    assert scheduler.on_trial_result(controller, bad, {"epoch": 8, "map50": 0.2}) == CONTINUE
    assert exploited == []
