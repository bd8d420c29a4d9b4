"""Parallel coordinates: every trial is a line through the values of its settings to its metric."""

import textwrap
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tuning.config import Mode
from tuning.plot_style import ACCENT, DPI, INK, MUTED, Scale, is_wide, plain_text, scale_of
from tuning.records import TrialRecord
from tuning.scores import best_values
from tuning.table import short_names, short_value

MIN_TICK_GAP = 0.055  # of an axis
NOT_SET = -0.12
"""Where a trial crosses the axis of a setting that it does not have: below all values."""
MAX_TITLE = 14  # characters of a line over an axis
BRIGHTNESS = (0.0, 0.9)  # of the color map; its end is too pale for a line on white


def plot_parallel(
    ranking: Sequence[TrialRecord],
    path: Path,
    *,
    paths: Sequence[str],
    log_paths: Collection[str],
    metric: str,
    mode: Mode,
) -> None:
    """A line per trial through its settings to its best value; arguments as of `plot_parameters`."""
    figure = Figure(figsize=(min(3.5 + 1.7 * len(paths), 22), 5.2), layout="constrained")
    axes = figure.add_subplot()
    scores, names = best_values(ranking, mode), short_names(paths)
    norm_class = LogNorm if is_wide(scores, mode) else Normalize
    norm = norm_class(min(scores), max(scores))
    reach = np.linspace(*BRIGHTNESS, 256)  # the best are dark
    colors = ListedColormap(colormaps["viridis"](reach[:: 1 if mode == "min" else -1]))
    heights = []
    for column, name in enumerate(paths):
        values = [trial.settings[name] for trial in ranking if name in trial.settings]
        scale = scale_of(values, is_log=name in log_paths)
        places = iter(_draw_axis(axes, column, scale, values))
        heights.append([next(places) if name in t.settings else NOT_SET for t in ranking])
        if len(values) < len(ranking):
            _tick(axes, column, NOT_SET, "not set")
    score_scale = Scale(kind="log" if norm_class is LogNorm else "linear")
    heights.append(_draw_axis(axes, len(paths), score_scale, scores))
    lines = list(zip(ranking, scores, np.array(heights).T, strict=True))
    for trial, score, line in reversed(lines):
        is_best = trial is ranking[0]
        axes.plot(
            line,
            color=ACCENT if is_best else colors(norm(score)),
            lw=2.8 if is_best else 1.3,
            ls="--" if trial.state == "stopped" else "-",
            alpha=1 if is_best else 0.85,
        )
    titles = [_wrapped(names[one]) for one in paths] + ["best\n" + plain_text(metric)]
    axes.set_xticks(range(len(titles)), titles)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(yticks=[], ylim=(NOT_SET - 0.04, 1.04), xlim=(-0.35, len(paths) + 0.45))
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, aspect=30, pad=0.01)
    bar.set_label(plain_text(metric))
    handles = [Line2D([], [], color=ACCENT, lw=2.8, label=f"best: trial {ranking[0].number}")]
    if any(trial.state == "stopped" for trial in ranking):
        handles.append(Line2D([], [], color=MUTED, ls="--", label="stopped early"))
    figure.legend(handles=handles, frameon=False, ncols=2, loc="outside lower center")
    figure.savefig(path, dpi=DPI)


def _draw_axis(axes: Axes, column: int, scale: Scale, values: Sequence[Any]) -> list[float]:
    """Draw one upright axis; returns the heights of the values, in [0, 1]."""
    numbers = np.array([scale.number(value) for value in values])
    if scale.kind == "category":
        ticks = {float(place): plain_text(name) for place, name in enumerate(scale.categories)}
    else:
        low, high = float(numbers.min()), float(numbers.max())
        ticks = {number: short_value(number) for number in _tick_numbers(low, high, scale, numbers)}
    marks = np.array(list(ticks))
    if scale.kind == "log":
        numbers, marks = np.log10(numbers), np.log10(marks)
    low, high = marks.min(), marks.max()
    span = high - low or 1.0
    shift = 0.5 if high == low else 0.0  # a single value stands in the middle
    axes.plot([column, column], [0, 1], color=MUTED, lw=1, zorder=3)
    taken: list[float] = []
    for height, text in zip((marks - low) / span + shift, ticks.values(), strict=True):
        if all(abs(height - other) >= MIN_TICK_GAP for other in taken):
            taken.append(height)
            _tick(axes, column, height, text)
    return [float(height) for height in (numbers - low) / span + shift]


def _tick_numbers(low: float, high: float, scale: Scale, numbers: Iterable[float]) -> list[float]:
    # The ends come first: where labels would overlap, the first one stays.
    if scale.kind == "log":
        between = [10.0**power for power in range(-300, 300) if low < 10.0**power < high]
    elif len(distinct := sorted(set(numbers))) <= 6:
        between = distinct
    else:
        between = [mark for mark in MaxNLocator(5).tick_values(low, high) if low < mark < high]
    return list(dict.fromkeys([low, high, *between]))


def _tick(axes: Axes, column: int, height: float, text: str) -> None:
    axes.plot([column - 0.02, column + 0.02], [height, height], color=INK, lw=1, zorder=3)
    axes.text(
        column + 0.035, height, text, va="center", fontsize=8.5, color=INK, zorder=5,
        bbox={"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.75},
    )  # fmt: skip


def _wrapped(name: str) -> str:
    spaced = name.replace("_", "_ ").replace(".", ". ")
    lines = textwrap.wrap(spaced, MAX_TITLE, break_long_words=True)
    return "\n".join(plain_text(line.replace("_ ", "_").replace(". ", ".")) for line in lines)
