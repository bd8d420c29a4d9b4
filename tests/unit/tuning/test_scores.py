import math
from typing import Any

import pytest

from tuning.records import TrialRecord
from tuning.scores import base_trial, best_score, common_epoch, ranked, search_trials


def make_trial(number: int, curve: dict[int, float], **changes: Any) -> TrialRecord:
    settings: dict[str, Any] = {"origin": "random", "values": {}, "state": "finished"}
    return TrialRecord(number=number, seed=0, curve=curve, **{**settings, **changes})


@pytest.mark.parametrize(("mode", "best"), [("max", (2, 3.0)), ("min", (1, 1.0))])
def test_the_best_score_is_the_earliest_of_equals_by_the_mode(mode: Any, best: Any) -> None:
    curve = {4: 1.0, 3: 3.0, 2: 3.0, 1: 1.0, 5: math.nan, 6: math.inf, 7: -math.inf}

    assert best_score(make_trial(0, curve), mode) == best


@pytest.mark.parametrize("curve", [{}, {1: math.nan}])
def test_without_a_finite_value_there_is_no_score(curve: dict[int, float]) -> None:
    assert best_score(make_trial(0, curve), "max") is None


def test_trials_are_ranked_by_their_best_value_and_equals_by_number() -> None:
    trials = [make_trial(2, {1: 0.5}), make_trial(1, {1: 0.5}), make_trial(0, {1: 0.1, 2: 0.6})]

    assert [trial.number for trial in ranked(trials, "max")] == [0, 1, 2]
    assert [trial.number for trial in ranked(trials, "min")] == [0, 1, 2]


def test_only_proposed_trials_that_did_not_fail_are_ranked() -> None:
    trials = [
        make_trial(0, {1: 0.1}, state="stopped"),
        make_trial(1, {1: 0.9}, state="failed"),
        make_trial(2, {1: 0.9}, origin="confirm"),
        make_trial(3, {1: 0.9}, origin="retrain"),
        make_trial(4, {}),
    ]

    assert ranked(trials, "max") == trials[:1]
    assert [trial.number for trial in search_trials(trials)] == [0, 1, 4]


def test_the_base_trial_is_found_wherever_it_stands() -> None:
    trials = [make_trial(0, {}), make_trial(1, {}, origin="default")]

    assert base_trial(trials) is trials[1]
    assert base_trial(trials[:1]) is None


def test_without_a_shared_epoch_the_one_that_most_have_counts() -> None:
    trials = [make_trial(0, {1: 0.1, 2: 0.1}), make_trial(1, {2: 0.1}), make_trial(2, {9: 0.1})]

    assert common_epoch(trials) == 2
