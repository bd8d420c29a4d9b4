"""The mAP that YOLOv5 prints, for comparing with published runs. It is not COCO's figure.

It differs in the pairing (by IoU, not by score), in the interpolation of precision (linear, ending
at precision 0 for recall 1, so that a perfect class scores 0.995) and in counting every detection.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from trainjobs.evaluation.detections import Detections, Truth, match_by_iou, pairwise_iou

Array = NDArray[np.float64]

IOU_THRESHOLDS: Array = np.linspace(0.5, 0.95, 10)
IOU_SLACK = 1e-9  # an IoU that is a threshold but for rounding reaches it
RECALLS: Array = np.linspace(0, 1, 101)
CONFIDENCES: Array = np.linspace(0, 1, 1000)
SMOOTHING_FRACTION = 0.1  # width of the moving mean over the F1 curve; recipe.md, section 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Yolov5Metrics:
    """Figures in [0, 1]; rows of a class without a truth are -1 in `ap` and 0 elsewhere."""

    map50_95: float
    map50: float
    precision: float
    """Mean over classes at `confidence`, IoU 0.5."""
    recall: float
    """Mean over classes at `confidence`, IoU 0.5."""
    f1: float
    """Mean over classes at `confidence`, IoU 0.5."""
    confidence: float
    """Where the smoothed mean F1 is highest."""
    ap: Array
    """(C, 10) at IoU .50:.05:.95."""
    class_precision: Array
    """(C,) at `confidence`, IoU 0.5."""
    class_recall: Array
    """(C,) at `confidence`, IoU 0.5."""
    num_truths: NDArray[np.int64]
    """(C,) labeled objects."""
    precision_at_recall: Array
    """(C, 101) precision envelope over `RECALLS`, IoU 0.5."""
    f1_at_confidence: Array
    """(C, 1000) over `CONFIDENCES`, IoU 0.5."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClassCurves:
    """Curves of K classes; rows of one without a truth are -1 in `ap` and 0 elsewhere."""

    num_truths: NDArray[np.int64]
    """(K,) labeled objects."""
    ap: Array
    """(K, 10) at IoU .50:.05:.95."""
    precision_at_recall: Array
    """(K, 101) precision envelope over `RECALLS`, IoU 0.5."""
    precision: Array
    """(K, 1000) over `CONFIDENCES`, IoU 0.5."""
    recall: Array
    """(K, 1000) over `CONFIDENCES`, IoU 0.5."""


def yolov5_map(
    truths: Sequence[Truth], detections: Sequence[Detections], num_classes: int
) -> Yolov5Metrics:
    """Mean average precision as YOLOv5 reports it.

    Args:
        truths: every image of the split, also those without objects; image ids are unique.
        detections: at most one entry an image, in any order; an image may be left out.
        num_classes: C.

    Returns:
        Means over the classes that occur; all 0 where nothing is found, or nothing is labeled.

    Source: recipe.md, section 2, "mAP". Pairs are formed greedily by falling IoU per class.
    """
    return yolov5_metrics(class_curves(truths, detections, range(num_classes)))


def class_curves(
    truths: Sequence[Truth], detections: Sequence[Detections], classes: Sequence[int]
) -> ClassCurves:
    """Curves of `classes`; see `yolov5_map`."""
    labeled = np.concatenate([np.empty(0, np.int64), *(truth.classes for truth in truths)])
    num_truths = np.array([np.count_nonzero(labeled == index) for index in classes], np.int64)
    scores, class_ids, hits = _matched(truths, detections)
    order = np.argsort(-scores, kind="stable")
    scores, class_ids, hits = scores[order], class_ids[order], hits[order]

    ap = np.where(num_truths[:, None] > 0, 0.0, -np.ones((1, len(IOU_THRESHOLDS))))
    curves = np.zeros((len(classes), len(RECALLS)))
    precision = np.zeros((len(classes), len(CONFIDENCES)))
    recall = np.zeros((len(classes), len(CONFIDENCES)))
    for index in np.flatnonzero(num_truths).tolist():
        mine = class_ids == classes[index]
        if not mine.any():
            continue
        true_positives = hits[mine].cumsum(axis=0)  # (K, 10)
        class_recall = true_positives / num_truths[index]
        class_precision = true_positives / np.arange(1, mine.sum() + 1)[:, None]
        for level in range(len(IOU_THRESHOLDS)):
            curve = _envelope(class_recall[:, level], class_precision[:, level])
            ap[index, level] = np.trapezoid(curve, RECALLS)
            curves[index] = curve if level == 0 else curves[index]
        falling = -scores[mine]
        recall[index] = np.interp(-CONFIDENCES, falling, class_recall[:, 0], left=0)
        precision[index] = np.interp(-CONFIDENCES, falling, class_precision[:, 0], left=1)
    return ClassCurves(
        num_truths=num_truths,
        ap=ap,
        precision_at_recall=curves,
        precision=precision,
        recall=recall,
    )


def joined(parts: Sequence[ClassCurves], order: NDArray[np.int64]) -> ClassCurves:
    """The rows of all parts, one after the other, in `order`."""
    rows = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])[order]
        for field in fields(ClassCurves)
    }
    return ClassCurves(**rows)


def yolov5_metrics(curves: ClassCurves) -> Yolov5Metrics:
    """The means over the curves of all classes."""
    ap, precision, recall = curves.ap, curves.precision, curves.recall
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    occurs = curves.num_truths > 0
    if not occurs.any():
        occurs, ap = np.ones_like(occurs), np.where(ap < 0, 0.0, ap)
    best = int(_smooth(f1[occurs].mean(axis=0)).argmax())
    return Yolov5Metrics(
        map50_95=float(ap[occurs].mean()),
        map50=float(ap[occurs, 0].mean()),
        precision=float(precision[occurs, best].mean()),
        recall=float(recall[occurs, best].mean()),
        f1=float(f1[occurs, best].mean()),
        confidence=float(CONFIDENCES[best]),
        ap=ap,
        class_precision=precision[:, best],
        class_recall=recall[:, best],
        num_truths=curves.num_truths,
        precision_at_recall=curves.precision_at_recall,
        f1_at_confidence=f1,
    )


def _matched(
    truths: Sequence[Truth], detections: Sequence[Detections]
) -> tuple[Array, NDArray[np.int64], NDArray[np.bool_]]:
    """Scores (K,), classes (K,) and hits (K, 10) of the detections of all images."""
    truth_by_image = {truth.image_id: truth for truth in truths}
    scores: list[Array] = [np.empty(0)]
    classes: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    overlaps: list[Array] = [np.empty(0)]
    for found in detections:
        truth = truth_by_image[found.image_id]
        order = np.argsort(-found.scores, kind="stable")
        same_class = truth.classes[:, None] == found.classes[order]
        iou = pairwise_iou(truth.boxes_xyxy_px, found.boxes_xyxy_px[order]) * same_class
        overlaps.append(match_by_iou(iou, IOU_THRESHOLDS[0] - IOU_SLACK)[1])
        scores.append(found.scores[order].astype(np.float64))
        classes.append(found.classes[order].astype(np.int64))
    hits = np.concatenate(overlaps)[:, None] >= IOU_THRESHOLDS - IOU_SLACK
    return np.concatenate(scores), np.concatenate(classes), hits


def _envelope(recall: Array, precision: Array) -> Array:
    """Precision, made to fall, interpolated at `RECALLS`: (101,)."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[1.0], precision, [0.0]])
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    curve: Array = np.interp(RECALLS, recall, falling)
    return curve


def _smooth(values: Array) -> Array:
    """Mean over a window of `SMOOTHING_FRACTION` of the values, the ends repeated."""
    half = round(len(values) * SMOOTHING_FRACTION) // 2
    padded = np.pad(values, half, mode="edge")
    window = np.full(2 * half + 1, 1 / (2 * half + 1))
    return np.convolve(padded, window, mode="valid")
