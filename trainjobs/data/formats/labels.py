"""What labels of any format come to: the objects of one image, and the rules that formats share.

Labels in px (COCO, VOC) are held against the size that they are for; those of YOLO are fractions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import DatasetError
from trainjobs.data.formats.class_names import DEFAULT_COLUMNS, Columns
from trainjobs.data.formats.stored import StoredImage, fetch_file

OVERSHOOT_PX = 1.0
"""So far may a box or an outline reach out of its image, for tools round; it is cut off there."""

Box = tuple[float, float, float, float]

WHOLE_IMAGE: Box = (0.5, 0.5, 1.0, 1.0)
"""The box (cx, cy, w, h) by which an image has one class."""


class BadLabelsError(DatasetError):
    """A fault in the labels of one image, for which it is left out."""


@dataclass(slots=True)
class Labels:
    """The objects of one image."""

    file: Path | None = None
    """Where they stand; None: nowhere."""
    unit: str = "row"
    """What the rows of `dropped` count."""
    classes: list[int] = field(default_factory=list)
    boxes_cxcywh_norm: list[Box] = field(default_factory=list)
    polygons_norm: list[list[float]] = field(default_factory=list)
    """Of each box; [] where it has none."""
    areas_px: list[float] = field(default_factory=list)
    """Of each box, or of none."""
    crowd: list[bool] = field(default_factory=list)
    """Of each box."""
    dropped: list[tuple[int, str]] = field(default_factory=list)
    """Row and reason of each object left out."""
    _first_seen: dict[tuple[object, ...], int] = field(default_factory=dict)

    def add(
        self,
        row: int,
        class_id: int,
        box_cxcywh_norm: Box,
        *,
        polygon_norm: Sequence[float] = (),
        area_px: float | None = None,
        is_crowd: bool = False,
    ) -> None:
        """Take an object in, unless it has no area or repeats an earlier one."""
        key = (class_id, box_cxcywh_norm, *polygon_norm, is_crowd)
        if min(box_cxcywh_norm[2:]) <= 0:
            self.dropped.append((row, "the box has no area"))
        elif key in self._first_seen:
            self.dropped.append((row, f"repeats {self.unit} {self._first_seen[key]}"))
        else:
            self._first_seen[key] = row
            self.classes.append(class_id)
            self.boxes_cxcywh_norm.append(box_cxcywh_norm)
            self.polygons_norm.append(list(polygon_norm))
            self.crowd.append(is_crowd)
            if area_px is not None:
                self.areas_px.append(area_px)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitFiles:
    """Where the images and labels of one split lie."""

    images: list[Path]
    """Files of its images, of one or of many each; absolute, in their order."""
    folders: tuple[Path, ...]
    """Folders and list files that name them."""
    root: Path
    """Of the dataset."""
    names: tuple[str, ...]
    """Class names by class id."""
    annotations: Path | None = None
    """A JSON file (COCO) or a folder of XML files (VOC)."""
    columns: Columns = DEFAULT_COLUMNS
    """Of images and labels in Parquet files."""
    is_shared: bool = False
    """Another split names the same folders: only images that `annotations` knows are this one's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabeledSplit:
    """The images of one split, and how to get at their labels."""

    images: list[StoredImage]
    read: Callable[[StoredImage, int, int], Labels]
    """Labels of an image by its upright height and width in px. Raises BadLabelsError, or
    DatasetError for a class that has no name."""
    fetch: Callable[[StoredImage], bytes] = fetch_file
    """An image as a file's bytes. Raises BadImageError, or DatasetError where many are at fault."""
    missing: list[str] = field(default_factory=list)
    """Images that labels name and that are not there."""
    dropped: list[tuple[int, str]] = field(default_factory=list)
    """Row and reason of labels that belong to no image."""


def label_whole_image(class_id: int) -> Labels:
    """The labels of an image that has a class and no objects."""
    labels = Labels()
    labels.add(0, class_id, WHOLE_IMAGE)
    return labels


def find_fault(xyxy_px: Box, height: int, width: int) -> str | None:
    """What is wrong with a box in an image of a size; None: nothing that `to_norm` does not mend."""
    x1, y1, x2, y2 = xyxy_px
    if not all(map(math.isfinite, xyxy_px)):
        return "a coordinate is NaN or infinite"
    if x2 < x1 or y2 < y1:
        return f"a size is negative ({x2 - x1:g} x {y2 - y1:g} px)"
    overshoot = max(-x1, -y1, x2 - width, y2 - height)
    if overshoot > OVERSHOOT_PX:
        return f"reaches {overshoot:g} px out of the image of {width} x {height} px"
    return None


def to_norm(xyxy_px: Box, height: int, width: int) -> Box:
    """A box without a fault, cut off at the image's edges, as cx, cy, w, h in fractions of it."""
    x1, x2 = (min(max(x / width, 0.0), 1.0) for x in xyxy_px[0::2])
    y1, y2 = (min(max(y / height, 0.0), 1.0) for y in xyxy_px[1::2])
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
