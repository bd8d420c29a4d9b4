"""Images with their labels beside what a detector found in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from trainjobs.evaluation.confusion import CONFIDENCE
from trainjobs.evaluation.detections import Detections, Floats, Truth
from trainjobs.evaluation.plot_style import DPI, class_color

CELL_PX = 360
GAP_PX = 12
HEADER_PX = 36
PAIRS_PER_ROW = 2
LABEL_PX = 18


def plot_samples(
    images: Sequence[NDArray[np.uint8]],
    truths: Sequence[Truth],
    detections: Sequence[Detections],
    names: Sequence[str],
    path: Path,
) -> None:
    """Draw labels (left) and detections of confidence 0.25 or more (right) of each image.

    Args:
        images: (H, W, 3) RGB, upright.
        truths: of the same images.
        detections: of the same images.
        names: of the classes.
        path: JPEG or PNG to write; of photographs a JPEG is far smaller.
    """
    pairs = min(PAIRS_PER_ROW, len(images))
    height = HEADER_PX + -(-len(images) // pairs) * (CELL_PX + GAP_PX)
    canvas = np.full((height, 2 * pairs * (CELL_PX + GAP_PX) + GAP_PX, 3), 255, dtype=np.uint8)
    # One axes for all: a layout of many takes seconds.
    figure = Figure(figsize=(canvas.shape[1] / DPI, height / DPI))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, canvas.shape[1]), ylim=(height, 0))
    axes.axis("off")
    for column in range(2 * pairs):
        title = "labels" if column % 2 == 0 else "detections"
        axes.text(
            place_column(column) + CELL_PX / 2, HEADER_PX / 2, title, ha="center", va="center"
        )
    for number, (image, truth, found) in enumerate(zip(images, truths, detections, strict=True)):
        row, pair = divmod(number, pairs)
        top = HEADER_PX + row * (CELL_PX + GAP_PX)
        classes = truth.classes.tolist()
        labels = [names[index] for index in classes]
        cell = paste_image(canvas, image, place_column(2 * pair), top)
        draw_boxes(axes, cell, truth.boxes_xyxy_px, classes, labels)
        kept = np.flatnonzero(found.scores >= CONFIDENCE)
        kept = kept[np.argsort(found.scores[kept])]  # the surest on top
        classes = found.classes[kept].tolist()
        scored = zip(classes, found.scores[kept].tolist(), strict=True)
        labels = [f"{names[index]} {score:.2f}" for index, score in scored]
        cell = paste_image(canvas, image, place_column(2 * pair + 1), top)
        draw_boxes(axes, cell, found.boxes_xyxy_px[kept], classes, labels)
    figure.figimage(canvas, zorder=-1)  # below the boxes
    figure.savefig(path, dpi=DPI)


@dataclass(frozen=True, slots=True)
class Cell:
    """Where an image lies on the canvas, in canvas px."""

    left: int
    top: int
    width: int
    height: int
    scale: float


def place_column(column: int) -> int:
    """Left edge of a column of cells, in canvas px."""
    return GAP_PX + column * (CELL_PX + GAP_PX)


def paste_image(canvas: NDArray[np.uint8], image: NDArray[np.uint8], left: int, top: int) -> Cell:
    """Draw an image into the middle of the square cell at a place of the canvas."""
    scale = CELL_PX / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    left, top = left + (CELL_PX - width) // 2, top + (CELL_PX - height) // 2
    canvas[top : top + height, left : left + width] = cv2.resize(
        image, (width, height), interpolation=method
    )
    return Cell(left, top, width, height, scale)


def draw_boxes(
    axes: Axes, cell: Cell, boxes_xyxy_px: Floats, classes: Sequence[int], labels: Sequence[str]
) -> None:
    """Frame the boxes of an image that lies on the canvas; an empty label is not drawn."""
    low = np.array([cell.left, cell.top] * 2)
    high = low + np.array([cell.width, cell.height] * 2)
    corners = np.clip(boxes_xyxy_px * cell.scale + low, low, high)
    for (left, top, right, bottom), index, label in zip(
        corners.tolist(), classes, labels, strict=True
    ):
        color = class_color(index)
        frame = Rectangle((left, top), right - left, bottom - top, fill=False, ec=color, lw=1.6)
        axes.add_artist(frame)
        if not label:
            continue
        # A label sits on its box, unless that would be outside of the image.
        fits_above = top - cell.top > LABEL_PX
        fits_right = left - cell.left < 0.7 * cell.width
        axes.text(
            left if fits_right else right,
            top,
            label,
            color="white",
            fontsize=6.5,
            ha="left" if fits_right else "right",
            va="bottom" if fits_above else "top",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.0, "alpha": 0.9},
        )
