"""Copy-paste: objects of a sample drawn once more, mirrored, where they hide little of others.

Source: Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation" (arXiv:2012.07177), within a sample, as YOLOv5 has it (recipe.md, section 2).
"""

import dataclasses
import math
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from trainjobs.data.augmentation.outlines import visible_outline
from trainjobs.data.augmentation.placement import MAX_BOX_ASPECT, MIN_BOX_SIDE_PX, place_labels
from trainjobs.data.augmentation.sample_plan import (
    LabelSource,
    PastePlan,
    PixelRect,
    Rect,
    SamplePlan,
    TilePlan,
)

MAX_COVER = 0.3
"""A paste covers less than this of each box that is there. Source: recipe.md."""
SUBPIXEL_BITS = 4
"""Corners of a mask are rounded to sixteenths of a px."""


def plan_pastes(
    plan: SamplePlan, source: LabelSource, rng: np.random.Generator, probability: float
) -> tuple[PastePlan, ...]:
    """Choose objects with outlines, each with the given probability, and mirror them.

    Args:
        plan: Of a sample without pastes.
        source: Of its images' labels.
        rng: Draws a number for each object that has an outline.
        probability: That an object is pasted, if it hides little enough.
    """
    rows = place_labels(plan, source)
    output = np.array([plan.width, plan.height, plan.width, plan.height])
    centers, sides = rows[:, 1:3] * output[:2], rows[:, 3:] * output[:2]
    taken = [*np.hstack([centers - sides / 2, centers + sides / 2])]
    pastes = []
    for tile, points, class_id in _outlined(plan, source):
        if rng.random() >= probability:
            continue
        paste = _mirrored(tile, points, class_id, plan.width)
        if paste is not None and _covered(np.array(taken), paste.box).max(initial=0) < MAX_COVER:
            taken.append(np.array(paste.box))
            pastes.append(paste)
    return tuple(pastes)


def outline_mask(paste: PastePlan) -> NDArray[np.uint8]:
    """Which pixels of a paste's window its object covers: (h, w), 255 or 0."""
    x1, y1, x2, y2 = paste.tile.window
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    # OpenCV puts the center of pixel i at i, we at i + 1/2.
    corners = (np.array(paste.outline) - (x1 + 0.5, y1 + 0.5)) * 2**SUBPIXEL_BITS
    cv2.fillPoly(mask, [corners.round().astype(np.int32)], 255, cv2.LINE_8, SUBPIXEL_BITS)
    return mask


def _outlined(
    plan: SamplePlan, source: LabelSource
) -> Iterator[tuple[TilePlan, NDArray[np.float32], int]]:
    """Objects that have an outline: tile, points (m, 2) as fractions of its image, and class."""
    for tile in plan.tiles:
        found = source.outlines(tile.index)
        if found is None:
            continue
        points, counts = found
        parts = np.split(points, np.cumsum(counts)[:-1])
        for part, class_id in zip(parts, source.labels(tile.index)[0].tolist(), strict=True):
            if len(part):
                yield tile, part, class_id


def _mirrored(
    tile: TilePlan, points_norm: NDArray[np.float32], class_id: int, width: int
) -> PastePlan | None:
    """An object mirrored about the middle of the output; None if too little of it shows."""
    (a, b, c), row = tile.matrix
    g, h, k = tile.depth
    x1, y1, x2, y2 = tile.window
    turned = dataclasses.replace(
        tile,
        matrix=((width * g - a, width * h - b, width * k - c), row),
        window=(width - x2, y1, width - x1, y2),
        crop=None,
    )
    outline = visible_outline(turned, points_norm)
    if not outline:
        return None
    corners = np.array(outline)
    left, top = corners.min(axis=0).tolist()
    right, bottom = corners.max(axis=0).tolist()
    shortest, longest = sorted((right - left, bottom - top))
    if shortest <= MIN_BOX_SIDE_PX or longest >= MAX_BOX_ASPECT * shortest:
        return None
    window: PixelRect = (
        max(math.floor(left), turned.window[0]),
        max(math.floor(top), turned.window[1]),
        min(math.ceil(right), turned.window[2]),
        min(math.ceil(bottom), turned.window[3]),
    )
    return PastePlan(
        tile=dataclasses.replace(turned, window=window),
        outline=tuple(outline),
        box=(left, top, right, bottom),
        class_id=class_id,
    )


def _covered(boxes: NDArray[np.float64], paste: Rect) -> NDArray[np.float64]:
    """Share of each box (n, 4) that lies in another one."""
    boxes = boxes.reshape(-1, 4)
    low, high = np.maximum(boxes[:, :2], paste[:2]), np.minimum(boxes[:, 2:], paste[2:])
    area = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), np.finfo(float).tiny)
    share: NDArray[np.float64] = np.maximum(high - low, 0).prod(axis=1) / area
    return share
