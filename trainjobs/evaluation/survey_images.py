"""A dataset's images with their labels: some of each split, and those that come twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from trainjobs.data.images import RgbImage
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.survey.reading import ReadDataset
from trainjobs.data.survey.statistics import ImageRef, Repeat, is_whole_image
from trainjobs.evaluation.plot_style import DPI, class_color, plain_text
from trainjobs.evaluation.samples import CELL_PX, GAP_PX, draw_boxes, paste_image, place_column

SAMPLES_PER_SPLIT = 4
MAX_REPEATS, MAX_COPIES = 5, 3  # rows and columns that are drawn
MAX_NAME, MAX_CAPTION = 24, 60  # characters
LEGEND_PX, CAPTION_PX = 36, 28
LEGEND_KEY_PX, LETTER_PX = 90, 11  # measured: a color with its gaps, and a wide letter


@dataclass(frozen=True, slots=True, eq=False)
class LabeledImage:
    """An image to show."""

    pixels: RgbImage
    record: ImageRecord
    caption: str


def plot_split_samples(found: ReadDataset, path: Path) -> None:
    """Some images of each split, spread evenly over it; a row a split.

    Raises:
        DatasetError: an image cannot be read.
    """
    rows = []
    for split, content in found.contents.items():
        count = len(content.records)
        spread = np.linspace(0, count - 1, min(SAMPLES_PER_SPLIT, count)).round().astype(int)
        refs = [ImageRef(split, index, content.records[index].id) for index in spread.tolist()]
        rows.append([_load(found, ref) for ref in refs])
    _plot_rows([row for row in rows if row], found.names, path)


def plot_repeats(found: ReadDataset, repeats: Sequence[Repeat], path: Path) -> None:
    """Some of the images that come twice, each with its own labels; a row an image.

    Those whose labels differ come first.

    Raises:
        DatasetError: an image cannot be read.
    """
    chosen = sorted(repeats, key=lambda repeat: repeat.same_labels)[:MAX_REPEATS]
    rows = [[_load(found, ref) for ref in _shown(repeat)] for repeat in chosen]
    _plot_rows(rows, found.names, path)


def _shown(repeat: Repeat) -> list[ImageRef]:
    """One of each split first."""
    first: dict[str, ImageRef] = {}
    for ref in repeat.images:
        first.setdefault(ref.split, ref)
    others = [ref for ref in repeat.images if ref != first[ref.split]]
    return [*first.values(), *others][:MAX_COPIES]


def _load(found: ReadDataset, ref: ImageRef) -> LabeledImage:
    pixels, record = (
        found.readers[ref.split](ref.index),
        found.contents[ref.split].records[ref.index],
    )
    count = len(record.classes)
    text = f"{count} box" if count == 1 else f"{count} boxes"
    if is_whole_image(record):
        text = found.names[record.classes[0]]
    return LabeledImage(pixels, record, f"{ref.split}: {ref.id}, {text}")


def _plot_rows(rows: Sequence[Sequence[LabeledImage]], names: Sequence[str], path: Path) -> None:
    """Class names stand in a legend if it has room and colors for them, else at the boxes."""
    width = place_column(max(map(len, rows)))
    names = [plain_text(name, MAX_NAME) for name in names]
    occur = sorted({c for row in rows for item in row for c in item.record.classes})
    has_colors = len({class_color(c) for c in occur}) == len(occur)
    has_room = sum(LEGEND_KEY_PX + LETTER_PX * len(names[c]) for c in occur) < width
    has_legend = has_colors and has_room
    header = LEGEND_PX if has_legend and occur else 0
    height = header + len(rows) * (CAPTION_PX + CELL_PX) + GAP_PX
    canvas = np.full((height, width, 3), 255, np.uint8)
    # One axes for all: a layout of many takes seconds.
    figure = Figure(figsize=(width / DPI, height / DPI))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    at_boxes = [""] * len(names) if has_legend else names
    for number, row in enumerate(rows):
        top = header + number * (CAPTION_PX + CELL_PX) + CAPTION_PX
        for column, item in enumerate(row):
            _draw(axes, canvas, item, at_boxes, (place_column(column), top))
    if header:
        patches = [Patch(color=class_color(c), label=names[c]) for c in occur]
        axes.legend(
            handles=patches,
            loc="center left",
            bbox_to_anchor=(GAP_PX, header / 2),
            bbox_transform=axes.transData,
            ncols=len(occur),
            frameon=False,
            borderpad=0,
        )
    figure.figimage(canvas, zorder=-1)  # below the boxes
    figure.savefig(path, dpi=DPI)


def _draw(
    axes: Axes,
    canvas: NDArray[np.uint8],
    item: LabeledImage,
    names: Sequence[str],
    place: tuple[int, int],
) -> None:
    cell = paste_image(canvas, item.pixels, *place)
    height, width = item.pixels.shape[:2]
    boxes = np.array(item.record.boxes_cxcywh_norm, np.float64).reshape(-1, 4)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    corners = np.concatenate([low, high], axis=1) * (width, height, width, height)
    classes = item.record.classes
    draw_boxes(axes, cell, corners, classes, [names[c] for c in classes])
    caption = plain_text(item.caption, MAX_CAPTION)
    axes.text(place[0], cell.top - 5, caption, fontsize=6.5, va="bottom")
