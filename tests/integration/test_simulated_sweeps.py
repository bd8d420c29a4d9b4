"""Laws of the simulated sweeps: reproducible, within their budget, and never better than the best."""

import dataclasses

import numpy as np
import pytest

from benchmarks.simulated_runs import BASE, DEFAULT_SPACE, Curve, best_quality, draw_problem
from benchmarks.simulated_search import Circumstances, Simulation, Trace
from benchmarks.simulated_sweeps import METHODS, RANDOM, Options, compare, report
from tuning.space import apply, sample

SMALL = Circumstances(trials=16, slots=4, epochs=9)
ROUNDING = 1e-9
"""The optimum is searched on a grid that is refined until its cells are this small."""


def traced(name: str, given: Circumstances = SMALL, seed: int = 0) -> Trace:
    return Simulation(METHODS[name], given, seed).run()


@pytest.mark.parametrize("name", METHODS)
def test_a_seed_fixes_the_sweep(name: str) -> None:
    assert traced(name) == traced(name)
    assert traced(name) != traced(name, seed=1)


@pytest.mark.parametrize("name", METHODS)
def test_a_sweep_stays_within_its_budget(name: str) -> None:
    trace = traced(name)
    assert 0 < trace.epochs_run <= SMALL.trials * SMALL.epochs
    assert trace.times == sorted(trace.times)
    assert trace.times[-1] <= trace.end


@pytest.mark.parametrize("name", METHODS)
def test_nothing_beats_the_optimum(name: str) -> None:
    assert (
        min(regret for seed in range(3) for regret in traced(name, seed=seed).regrets) > -ROUNDING
    )


@pytest.mark.parametrize("seed", range(3))
def test_no_config_of_the_space_beats_the_optimum(seed: int) -> None:
    problem, rng = draw_problem(seed), np.random.default_rng(seed)
    drawn = [apply(BASE, sample(DEFAULT_SPACE, BASE, rng, 2)) for _ in range(100)]
    qualities = [problem.curve_of(config).quality(9) for config in drawn]
    assert max(qualities) < best_quality(problem, 9) + ROUNDING


def test_without_stopping_every_trial_trains_to_its_end() -> None:
    assert traced(RANDOM).epochs_run == SMALL.trials * SMALL.epochs


def test_asha_trains_fewer_epochs_in_less_time() -> None:
    asha, whole = traced("random + ASHA"), traced(RANDOM)
    assert asha.epochs_run < whole.epochs_run
    assert asha.end < whole.end


@pytest.mark.parametrize("name", ["random", "PBT"])
def test_startup_costs_time_and_no_epochs(name: str) -> None:
    slow = dataclasses.replace(SMALL, startup_epochs=5.0)
    assert traced(name, slow).end > traced(name).end
    assert traced(RANDOM, slow).epochs_run == traced(RANDOM).epochs_run


def test_without_noise_random_search_ends_with_its_best_trial() -> None:
    quiet = dataclasses.replace(SMALL, run_noise=0.0, epoch_noise=0.0)
    simulation = Simulation(METHODS[RANDOM], quiet, 0)
    trace = simulation.run()
    best = max(trial.curve.quality(quiet.epochs) for trial in simulation.trials)
    assert abs(trace.regrets[-1] - (simulation.optimum - best)) < ROUNDING


def test_epoch_by_epoch_a_run_follows_its_curve() -> None:
    curve, quality = Curve(0.6, 0.5), 0.0
    for epoch in range(1, 28):
        quality = curve.next_quality(quality)
        assert abs(quality - curve.quality(epoch)) < ROUNDING


def test_weights_that_are_too_good_for_a_config_sink_towards_its_limit() -> None:
    curve = Curve(0.4, 0.5)
    assert 0.4 < curve.next_quality(0.6) < 0.6
    assert Curve(0.0, 0.5).next_quality(0.6) < 0.6  # diverges


def test_the_report_names_a_method_for_each_budget() -> None:
    options = Options(given=dataclasses.replace(SMALL, trials=8), seeds=2)
    lines = report(compare(options), options)
    assert [sum(line.startswith(name) for line in lines) for name in METHODS] == [2, 1, 2, 1, 1]
    assert lines[-1].startswith("lowest regret at time 0.10: ")
    assert lines[-1].count(": ") == 4
