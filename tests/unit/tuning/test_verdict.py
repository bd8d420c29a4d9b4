from typing import Any

import pytest

from tuning.confidence import Standing
from tuning.records import TrialRecord
from tuning.table import BASE_NAME
from tuning.verdict import NO_NOISE, SweepSummary, gap, verdict


def make_trial(number: int, curve: dict[int, float], **changes: Any) -> TrialRecord:
    settings: dict[str, Any] = {
        "origin": "random" if number else "default",
        "values": {},
        "state": "finished",
        "epochs": max(curve, default=0),
    }
    return TrialRecord(number=number, seed=0, curve=curve, **{**settings, **changes})


def make_summary(
    best: TrialRecord | None, default: TrialRecord | None, **changes: Any
) -> SweepSummary:
    settings: dict[str, Any] = {
        "name": "first",
        "job": "yolo",
        "metric": "map50_95",
        "mode": "max",
        "epochs": 9,
        "status": "finished",
        "records": [trial for trial in (default, best) if trial],
        "paths": [],
        "best": best,
        "default": default,
        "standings": (),
        "utilization": 0.5,
        "wall_s": 60.0,
        "folder": "/runs/first",
        "plots": (),
    }
    return SweepSummary(**{**settings, **changes})


def make_standing(name: str, mean: float, **changes: Any) -> Standing:
    return Standing(**{"name": name, "mean": mean, "spread": 0.01, "n": 3, "p_best": 0.5} | changes)


def test_a_better_trial_beats_the_base_config_by_the_difference() -> None:
    summary = make_summary(make_trial(3, {9: 0.412}), make_trial(0, {9: 0.400}))

    assert verdict(summary) == (
        "The best trial (3) beats the base config by 0.012 (map50_95 0.412 against 0.4; "
        f"{NO_NOISE})."
    )


def test_of_a_loss_the_lower_is_better() -> None:
    summary = make_summary(make_trial(3, {9: 1.5}), make_trial(0, {9: 2.0}), mode="min")

    assert gap(summary) == 0.5
    assert "beats the base config by 0.5" in verdict(summary)


@pytest.mark.parametrize("best", [make_trial(0, {9: 0.4}), make_trial(3, {9: 0.4})])
def test_an_equal_or_the_same_trial_does_not_beat_the_base_config(best: TrialRecord) -> None:
    summary = make_summary(best, make_trial(0, {9: 0.4}))

    assert verdict(summary).startswith("No trial beats the base config")


def test_a_base_config_that_was_stopped_is_compared_where_both_were_measured() -> None:
    default = make_trial(0, {1: 0.1, 3: 0.2}, state="stopped")
    summary = make_summary(make_trial(3, {1: 0.1, 3: 0.25, 9: 0.6}), default)

    assert gap(summary) is None
    assert "by 0.05 at epoch 3, the last that both have measured" in verdict(summary)
    assert "went on to 0.6" in verdict(summary)


def test_a_longer_training_alone_beats_nothing() -> None:
    default = make_trial(0, {3: 0.25}, state="stopped")
    summary = make_summary(make_trial(3, {3: 0.2, 9: 0.6}), default)

    assert verdict(summary).startswith("No trial is shown to beat the base config: at epoch 3")


def test_trials_measured_at_different_epochs_are_not_compared() -> None:
    summary = make_summary(make_trial(3, {9: 0.6}), make_trial(0, {1: 0.2}))

    assert "never measured at the same epoch" in verdict(summary)


def test_a_trial_stopped_early_may_beat_a_base_config_that_was_not() -> None:
    best = make_trial(3, {3: 0.5}, state="stopped")

    assert "beats the base config by 0.1" in verdict(make_summary(best, make_trial(0, {9: 0.4})))


@pytest.mark.parametrize("default", [None, make_trial(0, {}, state="failed")])
def test_without_a_value_of_the_base_config_nothing_is_compared(
    default: TrialRecord | None,
) -> None:
    assert "no value to compare it with" in verdict(make_summary(make_trial(3, {9: 0.4}), default))


@pytest.mark.parametrize("best", [None, make_trial(3, {1: float("nan")})])
def test_without_a_measurement_there_is_no_best_trial(best: TrialRecord | None) -> None:
    assert verdict(make_summary(best, None)).startswith("No trial has measured map50_95")


def test_a_sweep_that_was_interrupted_says_so() -> None:
    summary = make_summary(None, None, status="interrupted")

    assert verdict(summary).startswith("So far (interrupted): ")


def test_a_confirmed_winner_comes_with_mean_spread_seeds_and_probability() -> None:
    standings = [make_standing("trial 3", 0.412, p_best=0.8), make_standing(BASE_NAME, 0.4)]

    found = verdict(make_summary(make_trial(3, {9: 0.5}), None, standings=standings))

    assert found == (
        "Confirmed over 3 fresh seeds each: trial 3 leads with mean map50_95 0.412 (spread 0.01), "
        "the best with probability 0.80; base config 0.4 (spread 0.01), probability 0.50."
    )


def test_a_confirmation_that_the_base_config_wins_says_that_no_trial_beats_it() -> None:
    standings = [make_standing(BASE_NAME, 0.4), make_standing("trial 3", 0.39)]

    assert "no trial beats the base config" in verdict(
        make_summary(None, None, standings=standings)
    )


def test_single_fresh_seeds_give_no_probability() -> None:
    standings = [make_standing("trial 3", 0.4, spread=None, n=1, p_best=None)]

    found = verdict(make_summary(None, None, standings=standings))

    assert found.startswith("Confirmed over 1 fresh seed each")
    assert "too few seeds for a probability" in found
    assert "spread" not in found


def test_uneven_and_many_standings_are_counted() -> None:
    standings = [make_standing(f"trial {n}", 0.4, n=2 + n % 2) for n in range(8)]

    found = verdict(make_summary(None, None, standings=standings))

    assert "over 2 to 3 fresh seeds" in found
    assert found.endswith("; and 3 more.")
