"""The label files of a YOLO dataset: where they lie, and what their rows say.

A label row is `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...` (a polygon), as fractions of the
upright image.
"""

import math
import os
from pathlib import Path

from cluster.errors import DatasetError
from trainjobs.data.formats.files import read_text
from trainjobs.data.formats.labels import BadLabelsError, Box, LabeledSplit, Labels, SplitFiles
from trainjobs.data.formats.stored import StoredImage, store_files

BOX_COLUMNS = 5
MIN_POLYGON_COLUMNS = 7  # class and three points

# Annotation tools write six digits, so a box at the edge may be read as 1.000001.
_ROUNDING = 1e-4


def open_yolo(files: SplitFiles) -> LabeledSplit:
    """A split whose labels lie in a text file per image; an image without one has no objects."""

    def read(image: StoredImage, _height: int, _width: int) -> Labels:
        label_file = label_path(image.file)
        return read_labels(label_file, len(files.names)) if label_file.exists() else Labels()

    return LabeledSplit(images=store_files(files.images), read=read)


def yolo_label_files(files: SplitFiles) -> list[Path]:
    """The label file of each image, whether it exists or not."""
    return [label_path(image) for image in files.images]


def label_path(image: Path) -> Path:
    """Where an image's labels lie: the last `/images/` of its path becomes `/labels/`."""
    before, separator, after = str(image).rpartition(f"{os.sep}images{os.sep}")
    moved = f"{before}{os.sep}labels{os.sep}{after}" if separator else str(image)
    return Path(moved).with_suffix(".txt")


def read_labels(file: Path, num_classes: int) -> Labels:
    """Read one label file. Zero-size and repeated rows are dropped; a polygon has the box round it.

    Raises:
        DatasetError: A class is not an integer in 0 .. num_classes - 1: names and labels of the
            dataset do not belong together.
        BadLabelsError: Any other fault of a row, or the file is not text.
    """
    labels = Labels(file)
    try:
        lines = read_text(file).splitlines()
    except DatasetError as error:
        raise BadLabelsError(str(file), error.reason) from error
    for row, line in enumerate(lines, start=1):
        values = _parse_numbers(line, file, row)
        if not values:
            continue
        class_id = _check_class(values[0], file, row, num_classes)
        box = _to_box(values, file, row)
        polygon = values[1:] if len(values) != BOX_COLUMNS else ()
        labels.add(row, class_id, box, polygon_norm=polygon)
    return labels


def _parse_numbers(line: str, file: Path, row: int) -> list[float]:
    try:
        return [float(word) for word in line.split()]
    except ValueError as error:
        raise BadLabelsError(str(file), f"not numbers: {line.strip()[:40]!r}", row) from error


def _check_class(value: float, file: Path, row: int, num_classes: int) -> int:
    if not (value.is_integer() and 0 <= value < num_classes):  # NaN and inf are no integers
        reason = (
            f"class {value:g} must be an integer from 0 to {num_classes - 1} (data.yaml has "
            f"{num_classes} names)"
        )
        raise DatasetError(str(file), reason, row)
    return int(value)


def _to_box(values: list[float], file: Path, row: int) -> Box:
    columns, places = len(values), values[1:]
    is_polygon = columns >= MIN_POLYGON_COLUMNS and columns % 2 == 1
    if columns != BOX_COLUMNS and not is_polygon:
        reason = f"has {columns} columns; 5 make a box (class cx cy w h), 7, 9, 11 ... a polygon"
        raise BadLabelsError(str(file), reason, row)
    if not all(map(math.isfinite, places)):
        raise BadLabelsError(str(file), "a coordinate is NaN or infinite", row)
    if min(places) < 0:
        raise BadLabelsError(str(file), f"a coordinate is negative ({min(places):g})", row)
    if max(places) > 1 + _ROUNDING:
        reason = f"not normalized: coordinates must be <= 1, got {max(places):g}"
        raise BadLabelsError(str(file), reason, row)
    if not is_polygon:
        return places[0], places[1], places[2], places[3]
    xs, ys = places[0::2], places[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
