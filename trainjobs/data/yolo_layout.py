"""The files of a YOLO dataset: which images a folder or list names, where labels lie, what rows say.

A label row is `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...` (a polygon), as fractions of the
upright image.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import DatasetError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the files in a folder that count as images."""

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095  # Linux: NAME_MAX, PATH_MAX less its final zero
BOX_COLUMNS = 5
MIN_POLYGON_COLUMNS = 7  # class and three points

# Annotation tools write six digits, so a box at the edge may be read as 1.000001.
_ROUNDING = 1e-4


class BadLabelsError(DatasetError):
    """A fault for which one label file, and so its image, is left out."""


@dataclass(slots=True)
class Labels:
    """What one label file says."""

    classes: list[int] = field(default_factory=list)
    boxes_cxcywh_norm: list[tuple[float, float, float, float]] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    """Row number and reason of each row left out."""


def list_images(entry: Path, root: Path) -> list[Path]:
    """Images that a folder (searched in depth, sorted) or a text file (one path a line) names.

    Args:
        entry: Absolute path of a folder or a text file.
        root: Root of the dataset. In a text file, `./x` is relative to the file's own folder; `x`
            too, or to the root where it is not found there.

    Raises:
        DatasetError: No such folder or file, or it names no image.
    """
    if entry.is_dir():
        images = [
            Path(folder, name)
            for folder, names in _walk(entry)
            for name in names
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
        images.sort()
    elif entry.is_file():
        images = _read_list(entry, root)
    else:
        raise DatasetError(str(entry), "no such folder or file")
    if not images:
        raise DatasetError(str(entry), f"names no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def _walk(entry: Path) -> Iterator[tuple[str, list[str]]]:
    """Folders and the names of their files; links are followed, unless they lead back up."""
    for folder, below, names in os.walk(entry, followlinks=True):
        here = Path(folder).resolve()
        below[:] = [
            name
            for name in below
            if not (link := Path(folder, name)).is_symlink()
            or not here.is_relative_to(link.resolve())
        ]
        yield folder, names


def _read_list(file: Path, root: Path) -> list[Path]:
    images = []
    for row, raw in enumerate(read_text(file).splitlines(), start=1):
        line = raw.strip()
        if not line:
            continue
        image = normal_path(file.parent, line, file, row)
        if not line.startswith("./") and not image.exists():
            other = normal_path(root, line, file, row)
            image = other if other.exists() else image
        if not image.name:
            raise DatasetError(str(file), f"{line!r} is no image", row)
        images.append(image)
    return images


def normal_path(folder: Path, path: str, file: Path | None = None, row: int | None = None) -> Path:
    """Absolute path without `..`; links stay, for labels lie beside the link.

    Args:
        folder: What `path` is relative to.
        path: May lie anywhere: a dataset's files do.
        file: That names it, and the row, for errors.

    Raises:
        DatasetError: No file can have such a name.
    """
    home = os.path.expanduser(path)  # noqa: PTH111  pathlib's raises for a user that is unknown
    found = Path(os.path.normpath(folder.absolute() / home))
    longest = max(len(os.fsencode(part)) for part in found.parts)
    if "\0" in path or longest > MAX_NAME_BYTES or len(os.fsencode(found)) > MAX_PATH_BYTES:
        raise DatasetError(str(file or folder), f"no file can be named {path[:60]!r}", row)
    return found


def read_text(file: Path) -> str:
    """Text of a file.

    Raises:
        DatasetError: It cannot be read or is not UTF-8.
    """
    try:
        if file.exists() and not file.is_file():  # reading a pipe would not end
            raise DatasetError(str(file), "is no regular file")
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(str(file), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise DatasetError(str(file), "is not UTF-8 text") from error


def label_path(image: Path) -> Path:
    """Where an image's labels lie: the last `/images/` of its path becomes `/labels/`."""
    before, separator, after = str(image).rpartition(f"{os.sep}images{os.sep}")
    moved = f"{before}{os.sep}labels{os.sep}{after}" if separator else str(image)
    return Path(moved).with_suffix(".txt")


def read_labels(file: Path, num_classes: int) -> Labels:
    """Read one label file. Zero-size and repeated rows are dropped, polygons become boxes.

    Raises:
        DatasetError: A class is not an integer in 0 .. num_classes - 1: names and labels of the
            dataset do not belong together.
        BadLabelsError: Any other fault of a row, or the file is not text.
    """
    labels = Labels()
    first_seen: dict[tuple[float, ...], int] = {}
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
        if box[2] <= 0 or box[3] <= 0:
            labels.dropped.append((row, "the box has no area"))
        elif (key := tuple(values)) in first_seen:
            labels.dropped.append((row, f"repeats row {first_seen[key]}"))
        else:
            first_seen[key] = row
            labels.classes.append(class_id)
            labels.boxes_cxcywh_norm.append(box)
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


def _to_box(values: list[float], file: Path, row: int) -> tuple[float, float, float, float]:
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
