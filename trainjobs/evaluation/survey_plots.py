"""A dataset as charts: how often classes occur, how large boxes are and where they lie."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from trainjobs.data.survey.statistics import (
    LARGE_AREA_PX,
    MEDIUM_AREA_PX,
    TINY_PX,
    BoxTable,
    Survey,
)
from trainjobs.evaluation.plot_style import (
    COLORS,
    DPI,
    FAINT,
    INK,
    plain_axes,
    plain_text,
)

MAX_CLASSES = 30
"""Shown; of more, the most and the least frequent ones."""
MAX_NAME = 24  # characters
LOG_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
CENTER_CELLS = (8, 40)
"""Fewest and most per side of the map of box centers; between them, 4 boxes a cell."""
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g}%")
SPLIT_COLORS = {"train": COLORS[0], "val": COLORS[1], "test": COLORS[2]}


def plot_classes(survey: Survey, path: Path) -> None:
    """Each class's share of a split's boxes, and of its images; numbers are counts."""
    order = _shown_classes(survey)
    figure = Figure(
        figsize=(13, 1.8 + (0.12 + 0.19 * len(survey.splits)) * len(order)), layout="constrained"
    )
    left, right = (plain_axes(figure.add_subplot(1, 2, number)) for number in (1, 2))
    height = 0.84 / len(survey.splits)
    for place, (split, found) in enumerate(survey.splits.items()):
        rows = np.arange(len(order)) + (place - (len(survey.splits) - 1) / 2) * height
        for axes, counts, total in (
            (left, found.boxes_per_class, found.num_boxes),
            (right, found.images_per_class, found.num_images),
        ):
            shown = np.array([counts[index] for index in order])
            shares = shown / max(total, 1)
            axes.barh(rows, shares, 0.9 * height, color=SPLIT_COLORS.get(split, INK), label=split)
            for row, share, count in zip(rows, shares, shown, strict=True):
                color = INK if count else "#c92a2a"
                number = axes.text(share, row, f" {count:,}", va="center", fontsize=7, color=color)
                number.set_in_layout(False)  # measuring hundreds takes seconds
    names = [plain_text(survey.names[index], MAX_NAME) for index in order]
    hidden = len(survey.names) - len(order)
    note = f", without {hidden} classes of middling frequency" if hidden else ""
    for axes, title in (
        (left, "share of a split's boxes"),
        (right, "share of a split's images"),
    ):
        axes.set_yticks(range(len(order)), names)
        axes.set(
            title=title + note, ylim=(len(order) - 0.4, -0.6), xlim=(0, 1.12 * axes.dataLim.x1 or 1)
        )
        axes.xaxis.set_major_formatter(PERCENT)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False
    )
    figure.savefig(path, dpi=DPI)


def _shown_classes(survey: Survey) -> list[int]:
    """Class ids, the most frequent first."""
    total = np.sum([found.boxes_per_class for found in survey.splits.values()], axis=0)
    order: list[int] = np.argsort(-total, kind="stable").tolist()
    half = MAX_CLASSES // 2
    return order if len(order) <= MAX_CLASSES else order[:half] + order[-half:]


def plot_sizes(boxes: Mapping[str, BoxTable], image_size: int, path: Path) -> None:
    """How large boxes are: as COCO counts, and as the detector meets them at `image_size`."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, right = (plain_axes(figure.add_subplot(1, 2, number)) for number in (1, 2))
    filled = {split: table for split, table in boxes.items() if len(table.classes)}
    _size_curves(left, {split: np.sqrt(table.areas_px) for split, table in filled.items()})
    _size_curves(right, {split: table.longer_at(image_size) for split, table in filled.items()})
    left.set(
        title="size of an object at its image's own size", xlabel="square root of its area, px"
    )
    bounds = ("small", MEDIUM_AREA_PX**0.5), ("medium", LARGE_AREA_PX**0.5)
    for name, bound in bounds:
        _mark(left, bound, f"{name} ")
    left.text(LARGE_AREA_PX**0.5, 1.0, " large", transform=left.get_xaxis_transform(), va="top")
    right.set(title=f"longer side of a box at --image-size {image_size}", xlabel="px")
    _mark(right, TINY_PX, f"under {TINY_PX} px ")
    for axes in (left, right):
        axes.set_ylabel("share of a split's boxes")
        axes.yaxis.set_major_formatter(PERCENT)
    if filled:
        right.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.92))
    figure.savefig(path, dpi=DPI)


def _size_curves(axes: Axes, sides: Mapping[str, NDArray[np.float64]]) -> None:
    axes.set_xscale("log")
    everything = np.concatenate([[4.0, 400.0], *sides.values()])
    low, high = max(0.8 * everything.min(), 0.5), 1.25 * everything.max()
    edges = np.geomspace(low, high, 41)
    for split, values in sides.items():
        share = np.histogram(values.clip(low), edges)[0] / len(values)
        axes.stairs(share, edges, color=SPLIT_COLORS.get(split, INK), lw=1.8, label=split)
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1.15 * axes.dataLim.y1 or 1)
    axes.xaxis.set_major_locator(FixedLocator(LOG_TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _mark(axes: Axes, place: float, left_of: str) -> None:
    axes.axvline(place, color=INK, lw=1, ls=":")
    axes.text(place, 1.0, left_of, transform=axes.get_xaxis_transform(), va="top", ha="right")


def plot_centers(boxes: Mapping[str, BoxTable], path: Path) -> None:
    """Where in the image the centers of boxes lie, one map a split."""
    figure = Figure(figsize=(1 + 4.2 * len(boxes), 4.6), layout="constrained")
    for place, (split, table) in enumerate(boxes.items(), start=1):
        axes = figure.add_subplot(1, len(boxes), place)
        x, y = table.centers_norm.T
        edges = np.linspace(0, 1, int(np.clip((len(x) / 4) ** 0.5, *CENTER_CELLS)) + 1)
        counts = np.histogram2d(y, x, (edges, edges))[0]
        image = axes.imshow(counts, extent=(0, 1, 1, 0), cmap="Blues", vmin=0)
        axes.set(title=f"{split}: centers of {len(x):,} boxes", xlabel="x / width")
        axes.set_ylabel("y / height" if place == 1 else "")
        axes.spines[:].set_color(FAINT)
        bar = figure.colorbar(image, ax=axes, shrink=0.75, aspect=30, label="boxes in a cell")
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(integer=True, min_n_ticks=1)
        bar.update_ticks()
    figure.savefig(path, dpi=DPI)
