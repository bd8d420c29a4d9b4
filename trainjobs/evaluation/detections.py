"""What is in an image, what a detector found there, and how the two are paired.

Everything here is numpy, in pixels of the original image: letterboxing is undone before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The labeled objects of one image."""

    image_id: int
    height: int
    """Of the original image, in px, upright."""
    width: int
    boxes_xyxy_px: Floats
    """(N, 4)."""
    classes: Ints
    """(N,)."""
    crowds_xyxy_px: Floats = field(default_factory=lambda: np.zeros((0, 4)))
    """(M, 4) regions with many objects that are not labeled one by one."""
    crowd_classes: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(M,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a detector found in one image."""

    image_id: int
    boxes_xyxy_px: Floats
    """(K, 4)."""
    scores: Floats
    """(K,) confidence in [0, 1]."""
    classes: Ints
    """(K,)."""


def share_classes(
    truths: Sequence[Truth], detections: Sequence[Detections], num_classes: int, shares: int
) -> list[list[int]]:
    """Class ids in so many parts with about equally many boxes; those of a part rise."""
    ids: list[Ints] = [np.empty(0, np.int64)]
    ids += [truth.classes for truth in truths] + [found.classes for found in detections]
    counts = np.bincount(np.concatenate(ids).astype(np.int64), minlength=num_classes)
    parts: list[list[int]] = [[] for _ in range(shares)]
    loads = [0] * shares
    for class_id in np.argsort(-counts, kind="stable").tolist():
        part = loads.index(min(loads))
        parts[part].append(class_id)
        loads[part] += int(counts[class_id]) + 1  # one without a box takes its time, too
    return [sorted(part) for part in parts]


def only_classes(
    truths: Sequence[Truth], detections: Sequence[Detections], classes: Sequence[int]
) -> tuple[list[Truth], list[Detections]]:
    """The same images with the boxes of some classes alone."""
    kept_truths, kept = [], []
    for truth in truths:
        boxes, crowds = np.isin(truth.classes, classes), np.isin(truth.crowd_classes, classes)
        kept_truths.append(
            replace(
                truth,
                boxes_xyxy_px=truth.boxes_xyxy_px[boxes],
                classes=truth.classes[boxes],
                crowds_xyxy_px=truth.crowds_xyxy_px[crowds],
                crowd_classes=truth.crowd_classes[crowds],
            )
        )
    for found in detections:
        is_kept = np.isin(found.classes, classes)
        kept.append(
            replace(
                found,
                boxes_xyxy_px=found.boxes_xyxy_px[is_kept],
                scores=found.scores[is_kept],
                classes=found.classes[is_kept],
            )
        )
    return kept_truths, kept


def pairwise_iou(first_xyxy_px: Floats, second_xyxy_px: Floats) -> NDArray[np.float64]:
    """Intersection over union of every box with every other; 0 where both are empty.

    Args:
        first_xyxy_px: (N, 4).
        second_xyxy_px: (K, 4).

    Returns:
        (N, K), in [0, 1].
    """
    first = first_xyxy_px.astype(np.float64).reshape(-1, 1, 4)
    second = second_xyxy_px.astype(np.float64).reshape(1, -1, 4)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)  # (N, K)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (first, second)]
    union: NDArray[np.float64] = areas[0] + areas[1] - shared
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
    return iou


def match_by_iou(
    iou: NDArray[np.float64], minimum: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pair truths and detections one to one, best overlap first.

    The pairs for a higher minimum are those of a lower one that reach it, so one call serves all
    IoU thresholds.

    Args:
        iou: (N, K) overlap of truths and detections; columns in order of falling score, which
            decides between equal overlaps.
        minimum: pairs below this IoU (> 0) are not formed.

    Returns:
        (K,) index of each detection's truth or -1, and (K,) the pair's IoU or 0.
    """
    truth_of = np.full(iou.shape[1], -1, dtype=np.int64)
    matched_iou = np.zeros(iou.shape[1], dtype=np.float64)
    truths, found = np.nonzero(iou >= minimum)
    overlaps = iou[truths, found]
    taken = np.zeros(iou.shape[0], dtype=bool)
    for pair in np.lexsort((found, -overlaps)):
        truth, detection = truths[pair], found[pair]
        if not taken[truth] and truth_of[detection] < 0:
            taken[truth] = True
            truth_of[detection], matched_iou[detection] = truth, overlaps[pair]
    return truth_of, matched_iou
