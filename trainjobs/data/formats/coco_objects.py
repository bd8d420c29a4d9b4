"""One annotation of a COCO file: its box, outline, area, and whether it is a crowd."""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from trainjobs.data.formats.labels import Box, Labels, find_fault, to_norm

MIN_POLYGON_NUMBERS = 6  # three points

OUTLINE_SLACK_PX = 2.0
"""An outline whose bounds lie further than this from the box belongs to something else."""


class FaultyObjectError(ValueError):
    """What is wrong with an annotation."""


@dataclass(frozen=True, slots=True)
class CocoObject:
    """An annotation whose image and class are known."""

    row: int
    """Its id; its place in the list, from 1, where it has none."""
    class_id: int
    content: dict[str, Any]


def read_object(found: CocoObject, height: int, width: int, labels: Labels) -> None:
    """Add an annotation to its image's labels.

    Args:
        found: The annotation.
        height: Px of the image that it is for.
        width: Px, likewise.
        labels: It is added to these.

    Raises:
        FaultyObjectError: A value is of the wrong kind, not finite, negative, or the box lies outside.
    """
    x, y, box_width, box_height = _numbers(found.content.get("bbox"), "bbox", count=4)
    box = (x, y, x + box_width, y + box_height)
    _check(box, "bbox", height, width)
    is_crowd = found.content.get("iscrowd", 0)
    if is_crowd not in (0, 1):
        raise FaultyObjectError(f"iscrowd must be 0 or 1, got {is_crowd!r:.40}")
    area = found.content.get("area")
    labels.add(
        found.row,
        found.class_id,
        to_norm(box, height, width),
        polygon_norm=_outline(found.content.get("segmentation"), box, height, width),
        area_px=box_width * box_height if area is None else _area(area),
        is_crowd=bool(is_crowd),
    )


def _area(value: object) -> float:
    (area,) = _numbers([value], "area", count=1)
    if area < 0:
        raise FaultyObjectError(f"area is negative ({area:g})")
    return area


def _outline(segmentation: object, box: Box, height: int, width: int) -> list[float]:
    """The polygons of an object as one, in fractions of the image; [] for a mask, or for none."""
    if segmentation is None or isinstance(segmentation, dict):
        return []
    if not isinstance(segmentation, list):
        raise FaultyObjectError(f"segmentation is no list of polygons: {segmentation!r:.40}")
    parts = [_numbers(part, "segmentation") for part in segmentation]
    parts = [part for part in parts if len(part) >= MIN_POLYGON_NUMBERS]
    if not parts:
        return []
    points = np.array(_join(parts)).reshape(-1, 2)
    low_x, low_y = points.min(axis=0).tolist()
    high_x, high_y = points.max(axis=0).tolist()
    bounds = (low_x, low_y, high_x, high_y)
    _check(bounds, "segmentation", height, width)
    if max(abs(edge - other) for edge, other in zip(bounds, box, strict=True)) > OUTLINE_SLACK_PX:
        return []
    outline: list[float] = (points / (width, height)).clip(0, 1).ravel().tolist()
    return outline


def _join(parts: list[list[float]]) -> list[float]:
    """One outline through all parts, by bridges of no width from the first part's first point."""
    first = parts[0]
    if len(parts) == 1:
        return first
    bridged = chain.from_iterable([*part, *part[:2], *first[:2]] for part in parts[1:])
    return [*first, *first[:2], *bridged]


def _check(xyxy_px: Box, what: str, height: int, width: int) -> None:
    fault = find_fault(xyxy_px, height, width)
    if fault is not None:
        raise FaultyObjectError(f"{what}: {fault}")


def _numbers(values: object, what: str, count: int | None = None) -> list[float]:
    """Finite numbers of a list: as many as `count`, else an even number."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        raise FaultyObjectError(f"{what} must hold numbers, got {values!r:.40}")
    if len(values) % 2 if count is None else len(values) != count:
        raise FaultyObjectError(f"{what} has {len(values)} numbers")
    try:
        numbers = list(map(float, values))
    except OverflowError:
        numbers = [math.inf]
    if not all(map(math.isfinite, numbers)):
        raise FaultyObjectError(f"{what}: a number is NaN or infinite")
    return numbers
