"""Pictures of a sweep, as PNG: what its trials reached, which settings matter, what stopping saved.

Only matplotlib's objects are used, never pyplot, whose figures are shared by all threads.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tuning.config import Mode
from tuning.importance import compare, importances
from tuning.parallel_plot import plot_parallel
from tuning.plot_style import (
    ACCENT,
    BAR,
    DPI,
    FAILED,
    FAINT,
    INK,
    MUTED,
    is_wide,
    plain_axes,
    plain_text,
)
from tuning.records import TrialRecord
from tuning.scores import best_score, finite_curve, ranked, search_trials
from tuning.table import short_value, trial_title
from tuning.value_plots import plot_importance, plot_parameters

MAX_NAMED_TRIALS = 8  # with more, a legend hides the curves and colors look alike
MAX_LABELED_BARS = 40
COLORS = (
    "#1f77b4", "#2b8a3e", "#7048e8", "#0b7285", "#a17000", "#c2255c", "#5c940d", "#364fc7",
)  # fmt: skip
"""Of trials that have a name; the best one has its own."""


def draw_plots(
    records: Sequence[TrialRecord],
    folder: Path,
    *,
    paths: Sequence[str],
    log_paths: Collection[str],
    metric: str,
    mode: Mode,
    epochs: int,
    rungs: Sequence[int] = (),
) -> list[Path]:
    """Draw what the trials have enough data for; trials that confirm or retrain are left out.

    Args:
        records: all trials.
        folder: gets the files; made if it is missing.
        paths: dotted paths of the settings that the search chooses.
        log_paths: those of them that are drawn on a logarithmic axis.
        metric: name of what is optimized.
        mode: which way it is better.
        epochs: that a trial trains for if nothing stops it.
        rungs: epochs at which the scheduler may stop a trial.

    Returns:
        The files written, of curves.png, importance.png, parameters.png, parallel_coordinates.png
        and early_stopping.png, in this order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trials = search_trials(records)
    scored = ranked(trials, mode)
    used = [path for path in paths if any(path in trial.settings for trial in scored)]
    written = []
    if any(finite_curve(trial) for trial in trials):
        written.append(folder / "curves.png")
        plot_curves(trials, written[-1], metric=metric, mode=mode, epochs=epochs, rungs=rungs)
    comparison = compare(trials)
    judged = importances(comparison, used) if comparison else []
    if comparison and judged:
        written.append(folder / "importance.png")
        plot_importance(judged, comparison, written[-1], metric=metric, epochs=epochs)
    if len(scored) > 1 and used:
        written.append(folder / "parameters.png")
        plot_parameters(
            scored, written[-1], paths=used, log_paths=log_paths, metric=metric, mode=mode
        )
        written.append(folder / "parallel_coordinates.png")
        plot_parallel(
            scored, written[-1], paths=used, log_paths=log_paths, metric=metric, mode=mode
        )
    if any(trial.state == "stopped" for trial in trials):
        written.append(folder / "early_stopping.png")
        plot_early_stopping(trials, written[-1], epochs=epochs)
    return written


def plot_curves(
    trials: Sequence[TrialRecord],
    path: Path,
    *,
    metric: str,
    mode: Mode,
    epochs: int,
    rungs: Sequence[int] = (),
) -> None:
    """The metric of each trial over its epochs; those that were stopped or failed end with a cross."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = plain_axes(figure.add_subplot())
    measured = [trial for trial in trials if finite_curve(trial)]
    best = next(iter(ranked(measured, mode)), None)
    for rung in rungs:
        axes.axvline(rung, color=MUTED, lw=0.8, ls=":", zorder=1)
    for place, trial in enumerate(measured):
        color = COLORS[place % len(COLORS)] if len(measured) <= MAX_NAMED_TRIALS else None
        _draw_curve(axes, trial, color=color, is_best=trial is best)
    title = f"{plain_text(metric)} of {len(measured)} trial{'s' * (len(measured) != 1)}"
    if best is not None and (score := best_score(best, mode)):
        title += f", best {short_value(score[1])}: trial {best.number} at epoch {score[0]}"
    axes.set(title=title, xlabel="epoch", ylabel=plain_text(metric))
    axes.set_xlim(0.5, max([epochs, *(max(finite_curve(trial)) for trial in measured)]) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if is_wide([value for trial in measured for value in finite_curve(trial).values()], mode):
        axes.set_yscale("log")
    handles = [*axes.get_legend_handles_labels()[0], *_signs(measured, rungs)]
    axes.legend(handles=handles, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=DPI)


def plot_early_stopping(trials: Sequence[TrialRecord], path: Path, *, epochs: int) -> None:
    """Epochs trained, and epochs not trained because the scheduler stopped the trial."""
    trained = np.array([trial.epochs for trial in trials])
    saved = np.array([max(epochs - t.epochs, 0) if t.state == "stopped" else 0 for t in trials])
    has_labels = len(trials) <= MAX_LABELED_BARS
    height = 1.6 + 0.26 * len(trials) if has_labels else 7
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = plain_axes(figure.add_subplot())
    axes.grid(visible=False, axis="y")
    places, size = np.arange(len(trials)), 0.72 if has_labels else 1.0
    colors = [FAILED if trial.state == "failed" else BAR for trial in trials]
    axes.barh(places, trained, height=size, color=colors)
    axes.barh(places, saved, left=trained, height=size, color=FAINT)
    if has_labels:
        axes.set_yticks(places, [trial_title(trial) for trial in trials])
    axes.set_ylim(len(trials) - 0.4, -0.6)
    axes.set_xlim(0, max(epochs, int(trained.max())) * 1.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    total, share = int((trained + saved).sum()), saved.sum() / max((trained + saved).sum(), 1)
    axes.set(xlabel="epochs", ylabel="trial")
    axes.set_title(
        f"early stopping saved {int(saved.sum())} of {total} epochs ({share:.0%}), "
        f"in {int((saved > 0).sum())} of {len(trials)} trials"
    )
    kinds = [("trained", BAR), ("saved by stopping", FAINT)]
    kinds += [("of a failed trial", FAILED)] * (FAILED in colors)
    handles = [Line2D([], [], color=color, lw=7, label=label) for label, color in kinds]
    axes.legend(handles=handles, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=DPI)


def _draw_curve(axes: Axes, trial: TrialRecord, *, color: str | None, is_best: bool) -> None:
    """Draw one trial; without a color it stays in the background unless it is the best or base."""
    curve, is_base, is_failed = (
        finite_curve(trial),
        trial.origin == "default",
        trial.state == "failed",
    )
    is_named = is_best or is_base or color is not None
    marker = {"stopped": "x", "failed": "X"}.get(trial.state, "o" if len(curve) == 1 else None)
    drawn = ACCENT if is_best else INK if is_base else color or MUTED
    axes.plot(
        list(curve),
        list(curve.values()),
        color=drawn,
        lw=2.4 if is_best else 1.6 if is_named else 0.8,
        ls="--" if is_base else "-",
        alpha=1 if is_named else 0.6,
        zorder=4 if is_best else 3 if is_named else 2,
        marker=marker,
        markevery=[-1],
        ms=7 if is_named else 4.5,
        mec=FAILED if is_failed else drawn,
        mfc=FAILED if is_failed else drawn,
        label=f"trial {trial_title(trial)}{' (best)' * is_best}" if is_named else None,
    )


def _signs(trials: Sequence[TrialRecord], rungs: Sequence[int]) -> list[Line2D]:
    states = {trial.state for trial in trials}
    signs = []
    if "stopped" in states:
        signs.append(Line2D([], [], color=INK, ls="", marker="x", label="stopped early"))
    if "failed" in states:
        signs.append(Line2D([], [], color=FAILED, ls="", marker="X", label="failed"))
    if rungs:
        signs.append(Line2D([], [], color=MUTED, lw=0.8, ls=":", label="scheduler decides"))
    if len(trials) > MAX_NAMED_TRIALS:
        signs.append(Line2D([], [], color=MUTED, lw=0.8, label="another trial"))
    return signs
