import math
from typing import Any

import numpy as np
import pytest

from tuning.importance import CURVED, MIXED, STRAIGHT, Comparison, compare, importances, rank
from tuning.records import TrialRecord

LR, OTHER = "optim.lr", "optim.name"


def make_trial(number: int, curve: dict[int, float], **changes: Any) -> TrialRecord:
    settings: dict[str, Any] = {"origin": "random", "values": {}, "state": "finished"}
    return TrialRecord(number=number, seed=0, curve=curve, **{**settings, **changes})


def make_comparison(values: list[Any], scores: list[float]) -> Comparison:
    trials = [make_trial(i, {1: scores[i]}, values={LR: v}) for i, v in enumerate(values)]
    return Comparison(epoch=1, trials=tuple(trials), scores=tuple(scores))


def test_trials_are_compared_at_the_last_epoch_that_all_of_them_share() -> None:
    long = make_trial(0, {1: 0.1, 3: 0.3, 9: 0.9})
    stopped = make_trial(1, {1: 0.2, 3: 0.2}, state="stopped")

    found = compare([long, stopped])

    assert found is not None
    assert (found.epoch, found.scores) == (3, (0.3, 0.2))


def test_a_trial_that_still_runs_or_failed_counts_if_it_got_so_far_but_holds_no_one_back() -> None:
    ended = make_trial(0, {1: 0.1, 3: 0.3})
    early = make_trial(1, {1: 0.2}, state="running")
    late = make_trial(2, {1: 0.2, 3: 0.5, 4: 0.5}, state="failed")

    found = compare([ended, early, late])

    assert found is not None
    assert (found.epoch, found.scores) == (3, (0.3, 0.5))


def test_repeats_and_values_that_are_no_numbers_are_not_compared() -> None:
    trials = [make_trial(0, {1: 0.1, 2: math.nan}), make_trial(1, {1: 0.2, 2: math.inf})]
    trials.append(make_trial(2, {2: 0.9}, origin="confirm"))

    found = compare(trials)

    assert found is not None
    assert (found.epoch, found.scores) == (1, (0.1, 0.2))


@pytest.mark.parametrize("curves", [[], [{}], [{1: math.nan}]])
def test_without_a_measurement_nothing_is_compared(curves: list[dict[int, float]]) -> None:
    assert compare([make_trial(i, curve) for i, curve in enumerate(curves)]) is None


def test_equal_values_share_their_mean_rank() -> None:
    assert rank([5, 1, 5, 7]).tolist() == [2.5, 1, 2.5, 4]


def test_few_numbers_are_judged_by_squared_rank_correlation() -> None:
    # Ranks 1 2 3 4 against 1 2 4 3: Spearman is 1 - 6 * 2 / (4 * 15) = 0.8.
    (found,) = importances(make_comparison([1e-4, 1e-3, 1e-2, 1], [0.1, 0.2, 0.4, 0.3]), [LR])

    assert found.correlation == pytest.approx(0.8)
    assert found.share == pytest.approx(0.64)
    assert found.chance == pytest.approx(1 / 3)
    assert (found.method, found.n) == (STRAIGHT, 4)


def test_of_many_numbers_a_best_value_in_the_middle_is_seen() -> None:
    values = np.linspace(-1, 1, 9)

    (found,) = importances(make_comparison(values.tolist(), (-(values**2)).tolist()), [LR])

    assert found.method == CURVED
    assert found.correlation == pytest.approx(0, abs=1e-9)
    assert found.share > 0.9


def test_text_and_flags_are_judged_by_eta_squared() -> None:
    # Ranks 1, 2 | 3, 4: between the groups 4 * 1 = 4 of a sum of squares of 5.
    for values in (["a", "a", "b", "b"], [True, True, False, False], [None, None, 1, 1]):
        (found,) = importances(make_comparison(values, [0.1, 0.2, 0.3, 0.4]), [LR])

        assert found.share == pytest.approx(0.8)
        assert (found.method, found.correlation) == (MIXED, None)


def test_as_many_categories_as_trials_explain_no_more_than_chance() -> None:
    (found,) = importances(make_comparison(["a", "b", "c", "d"], [0.1, 0.4, 0.2, 0.3]), [LR])

    assert (found.share, found.chance) == pytest.approx((1, 1))


def test_chance_is_the_share_of_settings_without_effect() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        comparison = make_comparison(rng.random(10).tolist(), rng.random(10).tolist())
        (found,) = importances(comparison, [LR])
        shares.append(found.share)

    # Standard error of the mean is about 0.01.
    assert found.chance == pytest.approx(2 / 9)
    assert np.mean(shares) == pytest.approx(found.chance, abs=0.03)


@pytest.mark.parametrize(
    ("values", "scores"),
    [([1, 2, 3], [1, 2, 3]), ([1] * 5, [1, 2, 3, 4, 5]), ([1, 2, 3, 4], [0.5] * 4)],
    ids=["few trials", "one value", "one score"],
)
def test_what_cannot_be_judged_is_left_out(values: list[Any], scores: list[float]) -> None:
    assert importances(make_comparison(values, scores), [LR]) == []


def test_a_conditional_setting_is_judged_by_the_trials_that_have_it() -> None:
    trials = [make_trial(i, {1: float(i)}, values={LR: i, OTHER: "sgd"}) for i in range(5)]
    trials.append(make_trial(5, {1: 0.0}, values={OTHER: "adam"}))
    found = compare(trials)
    assert found is not None

    by_path = {judged.path: judged for judged in importances(found, [LR, OTHER])}

    assert (by_path[LR].n, by_path[OTHER].n) == (5, 6)
