"""Pictures of settings against the metric: the importance of each, and one small plot for each."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from tuning.config import Mode
from tuning.importance import CURVED, CURVED_TRIALS, MIXED, STRAIGHT, Comparison, Importance
from tuning.plot_style import (
    ACCENT,
    BAR,
    DPI,
    INK,
    MUTED,
    Scale,
    is_wide,
    plain_axes,
    plain_text,
    scale_of,
)
from tuning.records import TrialRecord
from tuning.scores import best_values
from tuning.table import short_names, short_value

KINDS = {STRAIGHT: f"numbers, n < {CURVED_TRIALS}", CURVED: "numbers", MIXED: "text and flags"}
PLOTS_PER_ROW = 3
MAX_CATEGORIES = 12  # with more, their names overlap
MIN_TICK_GAP = 0.15  # of an axis
MAX_UPRIGHT_TEXT = 22
"""Characters of all category names of an axis that fit beside each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How a trial's dot is drawn: keywords of `Axes.plot`."""

    marker: str
    color: str
    mfc: str
    ms: float
    zorder: float


def plot_importance(
    judged: Sequence[Importance],
    comparison: Comparison,
    path: Path,
    *,
    metric: str,
    epochs: int,
) -> None:
    """What each setting explains of the metric at one epoch, beside what chance would."""
    figure = Figure(figsize=(9, 2.2 + 0.42 * len(judged)), layout="constrained")
    axes = plain_axes(figure.add_subplot())
    axes.grid(visible=False, axis="y")
    names = short_names([one.path for one in judged])
    for place, one in enumerate(judged):
        axes.barh(place, one.share, height=0.62, color=BAR)
        axes.plot([one.chance] * 2, [place - 0.4, place + 0.4], color=ACCENT, lw=2.2)
        detail = "" if one.correlation is None else f"rank correlation {one.correlation:+.2f}, "
        axes.text(
            max(one.share, one.chance) + 0.015, place, f"{one.share:.2f}  ({detail}n = {one.n})",
            va="center", color=INK, fontsize=9,
        )  # fmt: skip
    axes.set_yticks(range(len(judged)), [plain_text(names[one.path]) for one in judged])
    axes.set(xlim=(0, 1.5), ylim=(len(judged) - 0.4, -0.6), xticks=np.linspace(0, 1, 6))
    axes.set_xlabel("share explained of the variance of the metric's ranks, each setting alone")
    methods = "; ".join(dict.fromkeys(f"{KINDS[one.method]}: {one.method}" for one in judged))
    figure.suptitle(
        f"importance for {plain_text(metric)} at epoch {comparison.epoch} of {epochs}, "
        f"n = {len(comparison.trials)} trials"
    )
    axes.set_title(
        f"{methods}\nall values from epoch {comparison.epoch}, so that trials stopped early count",
        fontsize=9,
        color=INK,
    )
    axes.spines["bottom"].set_bounds(0, 1)
    mark = Line2D([], [], color=ACCENT, lw=2.2, label="what chance alone would explain")
    figure.legend(handles=[mark], frameon=False, loc="outside lower center")
    figure.savefig(path, dpi=DPI)


def plot_parameters(
    ranking: Sequence[TrialRecord],
    path: Path,
    *,
    paths: Sequence[str],
    log_paths: Collection[str],
    metric: str,
    mode: Mode,
) -> None:
    """Each trial's best value against each setting.

    Args:
        ranking: trials that have a value, best first.
        path: PNG to write.
        paths: settings that at least one of them has.
        log_paths: those with a logarithmic axis.
        metric: name of what is optimized.
        mode: which way it is better.
    """
    columns = min(PLOTS_PER_ROW, len(paths))
    rows = -(-len(paths) // columns)
    figure = Figure(figsize=(max(4.2 * columns, 6.5), 3.4 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    names, scores = short_names(paths), best_values(ranking, mode)
    for axes, name in zip(grid.flat, paths, strict=False):
        plain_axes(axes).set_xlabel(plain_text(names[name]))
        _plot_setting(axes, name, ranking, scores, is_log=name in log_paths)
    for axes in grid.flat[len(paths) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(plain_text(metric))
    if is_wide(scores, mode):
        grid[0, 0].set_yscale("log")  # the others share it
    figure.suptitle(f"best {plain_text(metric)} of each trial against each setting")
    figure.legend(handles=_dot_signs(ranking), frameon=False, ncols=4, loc="outside lower center")
    figure.savefig(path, dpi=DPI)


def _plot_setting(
    axes: Axes, path: str, ranking: Sequence[TrialRecord], scores: Sequence[float], *, is_log: bool
) -> None:
    values = [trial.settings[path] for trial in ranking if path in trial.settings]
    scale = scale_of(values, is_log=is_log)
    _format_values(axes, scale, values)
    groups: dict[Look, list[tuple[float, float]]] = defaultdict(list)
    for trial, score in zip(ranking, scores, strict=True):
        if path in trial.settings:
            look = _look(trial, is_best=trial is ranking[0])
            groups[look].append((scale.number(trial.settings[path]), score))
    for look, points in groups.items():
        axes.plot(*zip(*points, strict=True), ls="", **asdict(look))


def _look(trial: TrialRecord, *, is_best: bool) -> Look:
    is_base = trial.origin == "default"
    color = ACCENT if is_best else INK if is_base else BAR
    return Look(
        marker="D" if is_base else "o",
        color=color,
        mfc="white" if trial.state == "stopped" else color,
        ms=8 if is_best else 6,
        zorder=4 if is_best else 3,
    )


def _format_values(axes: Axes, scale: Scale, values: Sequence[Any]) -> None:
    if scale.kind == "category":
        step = -(-len(scale.categories) // MAX_CATEGORIES)
        shown = range(0, len(scale.categories), step)
        names = [plain_text(scale.categories[place]) for place in shown]
        is_crowded = sum(map(len, names)) > MAX_UPRIGHT_TEXT
        axes.set_xticks(
            shown, names, rotation=30 * is_crowded, ha="right" if is_crowded else "center"
        )
        axes.set_xlim(-0.6, len(scale.categories) - 0.4)
    elif scale.kind == "log":
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())  # less than a decade has too many
        axes.margins(x=0.08)
    else:
        marks = sorted(set(values))
        gap = MIN_TICK_GAP * (marks[-1] - marks[0])
        if all(right - left > gap for left, right in pairwise(marks)):
            axes.set_xticks(marks, [short_value(mark) for mark in marks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=1))
        axes.margins(x=0.08)


def _dot_signs(ranking: Sequence[TrialRecord]) -> list[Line2D]:
    best_marker = _look(ranking[0], is_best=True).marker
    signs = [(best_marker, ACCENT, ACCENT, f"best: trial {ranking[0].number}")]
    signs.append(("o", BAR, BAR, "trial"))
    if any(trial.origin == "default" for trial in ranking[1:]):
        signs.append(("D", INK, INK, "base config"))
    if any(trial.state == "stopped" for trial in ranking):
        signs.append(("o", MUTED, "white", "hollow: stopped early"))
    return [
        Line2D([], [], ls="", marker=marker, color=color, mfc=fill, label=label)
        for marker, color, fill, label in signs
    ]
