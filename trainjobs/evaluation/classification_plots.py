"""Pictures of a classifier's evaluation: confusions, accuracy by class, its surest mistakes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trainjobs.data.packed.shards import Split
from trainjobs.evaluation.classification import (
    Answers,
    class_accuracies,
    count_confusions,
    surest_mistakes,
)
from trainjobs.evaluation.plot_style import DPI, FAINT, INK, class_color, plain_axes, plain_text
from trainjobs.evaluation.plots import draw_confusion
from trainjobs.evaluation.samples import CELL_PX, GAP_PX, paste_image

NUM_MISTAKES = 24
MISTAKES_PER_ROW = 6
CAPTION_PX = 40
MAX_BARS = 60
"""With more classes, only the worst are drawn: bars of fewer px cannot be told apart."""


def draw_classification(answers: Answers, split: Split, folder: Path) -> None:
    """Write confusion.png, class_accuracy.png and, if there are any, mistakes.png.

    Raises:
        DatasetError: an image of the split cannot be read.
    """
    matrix = count_confusions(answers, len(split.names))
    draw_confusion(matrix, split.names, folder / "confusion.png", title="classes found, best guess")
    plot_class_accuracy(matrix, split.names, folder / "class_accuracy.png")
    rows = surest_mistakes(answers, NUM_MISTAKES)
    if len(rows):
        captions = [
            f"{_short(split.names[answers.labels[row]])}\n"
            f"as {_short(split.names[answers.classes[row, 0]])} {answers.scores[row, 0]:.2f}"
            for row in rows
        ]
        images = [split.read_image(int(answers.images[row])) for row in rows]
        plot_mistakes(images, captions, folder / "mistakes.png")


def plot_class_accuracy(matrix: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """A bar per class: share of its images that were found, the worst at the top.

    Args:
        matrix: (C, C), rows found, columns true.
        names: C.
        path: PNG to write.
    """
    accuracies, counts = class_accuracies(matrix), matrix.sum(axis=0)
    order = np.argsort(np.nan_to_num(accuracies, nan=2.0), kind="stable")  # without images last
    shown = [index for index in order.tolist() if counts[index]][:MAX_BARS]
    figure = Figure(figsize=(7.5, 1.6 + 0.26 * len(shown)), layout="constrained")
    axes = plain_axes(figure.add_subplot())
    places = range(len(shown))
    axes.barh(places, accuracies[shown], color=class_color(0), height=0.72)
    axes.set_yticks(places, [_short(names[index]) for index in shown])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the class's images that were found")
    axes.grid(visible=False, axis="y")
    for place, index in enumerate(shown):
        right = accuracies[index] > 0.5
        text = f"{accuracies[index]:.3f} of {counts[index]}"
        axes.text(
            accuracies[index] + (-0.01 if right else 0.01), place, text,
            ha="right" if right else "left", va="center", fontsize=8, color="white" if right else INK,
        )  # fmt: skip
    overall = np.trace(matrix) / max(matrix.sum(), 1)
    axes.axvline(overall, color=INK, lw=1, ls=":")
    left_out = f", the {len(shown)} worst classes" if len(shown) < np.count_nonzero(counts) else ""
    axes.set_title(f"accuracy by class, of all {overall:.3f}{left_out}")
    figure.savefig(path, dpi=DPI)


def plot_mistakes(images: Sequence[NDArray[np.uint8]], captions: Sequence[str], path: Path) -> None:
    """A contact sheet of images, each with two lines below it.

    Args:
        images: (H, W, 3) RGB.
        captions: of the same images: true class, and what it was taken for.
        path: PNG to write.
    """
    columns = min(MISTAKES_PER_ROW, len(images))
    row_px, header_px = CELL_PX + CAPTION_PX + GAP_PX, CAPTION_PX
    height = header_px + -(-len(images) // columns) * row_px
    width = columns * (CELL_PX + GAP_PX) + GAP_PX
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.text(GAP_PX, header_px / 2, "surest mistakes", va="center", fontsize=11, color=INK)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = GAP_PX + column * (CELL_PX + GAP_PX), header_px + row * row_px
        paste_image(canvas, image, left, top)
        axes.text(
            left + CELL_PX / 2,
            top + CELL_PX + 3,
            caption,
            ha="center",
            va="top",
            fontsize=8,
            color=INK,
        )
        axes.plot([left, left + CELL_PX], [top + CELL_PX + 1] * 2, color=FAINT, lw=0.6)
    figure.figimage(canvas, zorder=-1)  # below the text
    figure.savefig(path, dpi=DPI)


def _short(name: str) -> str:
    return plain_text(name, 24)
