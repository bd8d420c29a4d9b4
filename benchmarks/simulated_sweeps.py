"""`python -m benchmarks.simulated_sweeps`: how fast each way to search finds a good config.

Sweeps run in simulated time, with the proposals, ASHA and population-based training of `tuning`
(`simulated_search.py`); only the training runs are made up (`simulated_runs.py`).
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.simulated_search import Circumstances, Simulation, Trace
from tuning.config import SearchConfig

RANDOM = "random"
METHODS = {
    RANDOM: SearchConfig(search="random", scheduler="none"),
    "random + ASHA": SearchConfig(search="random", scheduler="asha"),
    "Optuna": SearchConfig(search="optuna", scheduler="none"),
    "Optuna + ASHA": SearchConfig(search="optuna", scheduler="asha"),
    "PBT": SearchConfig(search="random", scheduler="pbt"),
}
SHARES = (0.1, 0.25, 0.5, 1.0)
"""Of the time that random search without stopping needs."""
GRID = np.linspace(0, 1, 401)
"""Shares at which curves of regret are averaged."""
NOTABLE = 2.0
"""Standard errors of a paired difference below which two methods are not told apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Regret over simulated time of random search, ASHA, Optuna and population-based training."""

    given: Annotated[Circumstances, tyro.conf.arg(name="")] = field(default_factory=Circumstances)
    seeds: int = 12
    """Problems, each with its own optimum; every method searches each of them once."""
    plot: Path | None = None
    """PNG to draw."""


def compare(options: Options) -> dict[str, list[Trace]]:
    """Every method on every problem."""
    return {
        name: [Simulation(search, options.given, seed).run() for seed in range(options.seeds)]
        for name, search in METHODS.items()
    }


def regret_over_time(traces: Mapping[str, Sequence[Trace]]) -> dict[str, NDArray[np.float64]]:
    """Method -> regret (seeds, len(GRID)), in time as a share of what random search takes."""
    return {
        name: np.array([
            trace.at(GRID * whole.end) for trace, whole in zip(runs, traces[RANDOM], strict=True)
        ])
        for name, runs in traces.items()
    }  # fmt: skip


def report(traces: Mapping[str, Sequence[Trace]], options: Options) -> list[str]:
    """The comparison as text; its last line says what is best."""
    regrets, given = regret_over_time(traces), options.given
    places = [int(np.searchsorted(GRID, share)) for share in SHARES]
    whole = float(np.mean([trace.end for trace in traces[RANDOM]]))
    trained = float(np.mean([trace.epochs_run for trace in traces[RANDOM]]))
    lines = [
        f"{given.trials} trials of {given.epochs} epochs, {given.slots} at a time; start-up "
        f"{given.startup_epochs:g} epochs; noise {given.run_noise:g} between runs, "
        f"{given.epoch_noise:g} between epochs",
        f"regret: 1000 x true quality missed by the config believed best; {options.seeds} seeds, mean "
        "+- standard error",
        f"time: as a share of what {RANDOM} takes ({whole:.0f} epochs); reached: when the mean regret "
        f"is down to what {RANDOM} ends with",
        "",
        f"{'regret at time':<16}{''.join(f'{share:>14.2f}' for share in SHARES)}"
        f"{'reached':>10}{'ended':>8}{'epochs trained':>17}",
    ]
    for name, runs in traces.items():
        cells = [_mean_and_error(1000 * regrets[name][:, place]) for place in places]
        there = np.flatnonzero(regrets[name].mean(axis=0) <= regrets[RANDOM][:, -1].mean())
        reached = f"{GRID[there[0]]:.2f}" if there.size else "never"
        ended = np.mean([trace.end for trace in runs]) / whole
        epochs = np.mean([trace.epochs_run for trace in runs]) / trained
        lines.append(
            f"{name:<16}{''.join(f'{cell:>14}' for cell in cells)}"
            f"{reached:>10}{ended:>8.2f}{epochs:>17.2f}"
        )
    best = [f"{GRID[place]:.2f}: {_best(regrets, place)}" for place in places]
    return [*lines, "", "lowest regret at time " + "; ".join(best)]


def _best(regrets: Mapping[str, NDArray[np.float64]], place: int) -> str:
    """The method with the lowest mean, and those too close to be told apart on the same seeds."""
    best = min(regrets, key=lambda name: float(regrets[name][:, place].mean()))
    close = []
    for name, regret in regrets.items():
        difference = regret[:, place] - regrets[best][:, place]
        if name != best and difference.mean() <= NOTABLE * _standard_error(difference):
            close.append(name)
    return best + (f" (not clearly better than {', '.join(close)})" if close else "")


def _mean_and_error(values: NDArray[np.float64]) -> str:
    return f"{values.mean():.1f} +- {_standard_error(values):.1f}"


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def draw(traces: Mapping[str, Sequence[Trace]], path: Path) -> None:
    """Mean regret over time with a band of one standard error, as PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import, rarely drawn

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, regret in regret_over_time(traces).items():
        mean = regret.mean(axis=0)
        error = np.array([_standard_error(column) for column in regret.T])
        axes.plot(GRID, mean, label=name)
        axes.fill_between(GRID, mean - error, mean + error, alpha=0.2)
    axes.set(
        xlabel=f"time, as a share of what {RANDOM} takes", ylabel="regret of the config believed best"
    )  # fmt: skip
    axes.set_yscale("log")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Compare, print, draw."""
    options = tyro.cli(Options, prog="python -m benchmarks.simulated_sweeps")
    traces = compare(options)
    print("\n".join(report(traces, options)))
    print(f"({time.process_time():.0f} s of CPU)")
    if options.plot:
        draw(traces, options.plot)


if __name__ == "__main__":
    main()
