"""The probability of being the best: its symmetries, its limits, and one case known in closed form."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning.confidence import METHOD, judge
from tuning.config import Mode

TOLERANCE = 0.01
"""Six standard errors of a probability from 100,000 draws (at most 0.0016 each)."""
quick = settings(deadline=None, max_examples=25)
SCORES = st.dictionaries(
    st.sampled_from("abcde"),
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=4),
    min_size=1,
)


def p_best(scores: dict[str, list[float]], mode: Mode = "max") -> dict[str, float]:
    standings = {standing.name: standing.p_best for standing in judge(scores, mode)}
    found = {name: p for name, p in standings.items() if p is not None}
    assert found.keys() == scores.keys()
    return found


@pytest.mark.parametrize("k", [2, 3, 5])
def test_equal_candidates_share_the_probability(k: int) -> None:
    found = p_best({str(i): [0.1, 0.2, 0.3] for i in range(k)})
    assert all(abs(p - 1 / k) < TOLERANCE for p in found.values())


def test_a_far_better_candidate_is_the_best_almost_surely() -> None:
    found = p_best({"a": [0.50, 0.51, 0.49], "b": [0.30, 0.31, 0.29], "c": [0.29, 0.30, 0.31]})
    assert found["a"] > 0.99


def test_two_candidates_agree_with_the_t_test() -> None:
    # Variances 1 and 1, 4 degrees of freedom, t = 1 / sqrt(2 / 3) = 1.2247; the CDF of Student's t
    # with 4 degrees of freedom is 1/2 + u (3 - u^2) / 4 with u = t / sqrt(4 + t^2) (closed form).
    found = p_best({"a": [2.0, 3.0, 4.0], "b": [1.0, 2.0, 3.0]})
    u = 1.2247 / math.sqrt(4 + 1.5)
    assert abs(found["a"] - (0.5 + u * (3 - u * u) / 4)) < TOLERANCE


def test_stated_probabilities_come_true() -> None:
    """True means from a wide normal: where p_best says 60 to 80 %, it is the best so often."""
    rng = np.random.default_rng(0)
    claimed, correct = [], []
    for _ in range(1500):
        truth = rng.normal(0, 3, size=3)
        scores = {str(i): list(truth[i] + rng.normal(0, 1, size=3)) for i in range(3)}
        first = judge(scores, "max", num_draws=500)[0]
        assert first.p_best is not None
        if 0.6 < first.p_best < 0.8:
            claimed.append(first.p_best)
            correct.append(int(first.name) == truth.argmax())
    assert len(claimed) > 150
    assert abs(np.mean(claimed) - np.mean(correct)) < 0.11  # three standard errors of 150 cases


@quick
@given(scores=SCORES)
def test_probabilities_sum_to_one_and_standings_are_ordered(scores: dict[str, list[float]]) -> None:
    standings = judge(scores, "max", num_draws=2000)
    means = [standing.mean for standing in standings]
    assert means == sorted(means, reverse=True)
    assert sorted(standing.name for standing in standings) == sorted(scores)
    if any(len(values) > 1 for values in scores.values()):
        assert math.isclose(math.fsum(standing.p_best or 0.0 for standing in standings), 1)


@quick
@given(scores=SCORES)
def test_min_mirrors_max(scores: dict[str, list[float]]) -> None:
    mirrored = {name: [-value for value in values] for name, values in scores.items()}
    lowest = {s.name: (-s.mean, s.spread, s.p_best) for s in judge(scores, "min", num_draws=2000)}
    highest = {s.name: (s.mean, s.spread, s.p_best) for s in judge(mirrored, "max", num_draws=2000)}
    assert lowest == highest


@quick
@given(shift=st.integers(-8, 8), factor=st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_probabilities_do_not_depend_on_the_unit(shift: int, factor: float) -> None:
    scores = {"a": [3.0, 4.0, 6.0], "b": [2.0, 5.0], "c": [1.0]}
    moved = {name: [factor * value + shift for value in values] for name, values in scores.items()}
    before, after = p_best(scores), p_best(moved)
    assert all(abs(before[name] - after[name]) < TOLERANCE for name in scores)


def test_mean_and_sample_deviation_are_those_of_the_textbook() -> None:
    first, second = judge({"a": [1.0, 2.0, 3.0], "b": [9.0]}, "max")
    assert (first.name, first.mean, first.spread, first.n) == ("b", 9.0, None, 1)
    assert (second.name, second.mean, second.spread, second.n) == ("a", 2.0, 1.0, 3)
    assert first.p_best is not None  # the spread is that of the others


def test_without_repeats_nothing_is_claimed() -> None:
    assert [standing.p_best for standing in judge({"a": [0.2], "b": [0.1]}, "max")] == [None, None]


def test_without_spread_the_best_is_certain_and_ties_share() -> None:
    scores = {"a": [0.3] * 2, "b": [0.3] * 3, "c": [0.1] * 3, "d": [0.2]}
    assert p_best(scores) == {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.0}
    assert p_best(scores, "min") == {"a": 0.0, "b": 0.0, "c": 1.0, "d": 0.0}


def test_the_method_is_named() -> None:
    assert "Student-t" in METHOD
