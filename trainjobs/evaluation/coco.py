"""COCO mAP, computed by faster-coco-eval (the algorithm of pycocotools in C++)."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from trainjobs.evaluation.detections import Detections, Floats, Ints, Truth

MAX_DETECTIONS = 100  # per class and image: pycocotools, `Params.setDetParams`
ALL_AREAS = [0.0, 1e10]  # px^2, pycocotools' range "all"
NUM_IOUS, IOU_50 = 10, 0  # of .50:.05:.95, and the index of IoU 0.50


class CocoMetrics(TypedDict):
    """COCO's two headline figures and what they are means of."""

    map50_95: float
    """Mean AP over IoU .50:.05:.95 and the classes that occur, in [0, 1]."""
    map50: float
    """The same at IoU 0.5 alone."""
    ap_per_class: NDArray[np.float64]
    """(C,) AP over IoU .50:.05:.95 of each class, -1 for a class without a truth."""
    ap50_per_class: NDArray[np.float64]
    """(C,) AP at IoU 0.5, -1 for a class without a truth."""


def coco_map(
    truths: Sequence[Truth], detections: Sequence[Detections], num_classes: int
) -> CocoMetrics:
    """COCO's mAP over all areas, with the best 100 detections of a class in an image.

    Args:
        truths: every image of the split, also those without objects; image ids are unique.
        detections: at most one entry an image, in any order; an image may be left out.
        num_classes: C. Classes without a truth do not count in the means.

    Returns:
        The means are 0 where nothing is found, or nothing is labeled.

    Source: pycocotools `COCOeval`; a detection that lies in a crowd of its class does not count.
    """
    return coco_metrics(average_precision(truths, detections, range(num_classes)))


def coco_metrics(ap: NDArray[np.float64]) -> CocoMetrics:
    """The means of the AP (C, 10) of all classes at IoU .50:.05:.95, -1 for one without a truth."""
    occurs = ap[:, IOU_50] >= 0
    return CocoMetrics(
        map50_95=float(ap[occurs].mean()) if occurs.any() else 0.0,
        map50=float(ap[occurs, IOU_50].mean()) if occurs.any() else 0.0,
        ap_per_class=ap.mean(axis=1),
        ap50_per_class=ap[:, IOU_50],
    )


def average_precision(
    truths: Sequence[Truth], detections: Sequence[Detections], classes: Sequence[int]
) -> NDArray[np.float64]:
    """(K, 10) AP of each of the K `classes`, which rise; nothing here is of others. See `coco_map`."""
    if not classes:
        return np.empty((0, NUM_IOUS))
    images = [
        {"id": truth.image_id, "height": truth.height, "width": truth.width} for truth in truths
    ]
    categories = [{"id": index, "name": str(index)} for index in classes]
    labeled = [row for t in truths for row in _annotations(t.image_id, t.boxes_xyxy_px, t.classes)]
    labeled += [
        {**row, "iscrowd": 1}
        for t in truths
        for row in _annotations(t.image_id, t.crowds_xyxy_px, t.crowd_classes)
    ]
    found = [
        {**row, "score": score}
        for d in detections
        for row, score in zip(
            _annotations(d.image_id, d.boxes_xyxy_px, d.classes), d.scores.tolist(), strict=True
        )
    ]
    evaluation = COCOeval_faster(
        _dataset(images, categories, labeled),
        _dataset(images, categories, found),
        iouType="bbox",
        print_function=_discard,
    )
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [ALL_AREAS], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    # Thresholds, recalls, classes, areas, detection limits: -1 where a class has no truth.
    precision: NDArray[np.float64] = np.asarray(evaluation.eval["precision"])[..., 0, 0]
    # Class by class in memory, or the last digit of a mean would depend on how many there are.
    ap: NDArray[np.float64] = np.ascontiguousarray(precision.transpose(2, 0, 1)).mean(axis=2)
    return ap


def _annotations(image_id: int, boxes_xyxy_px: Floats, classes: Ints) -> list[dict[str, Any]]:
    corners = boxes_xyxy_px.astype(np.float64).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    boxes_xywh_px = np.concatenate([corners[:, :2], sides], axis=1).tolist()
    return [
        {"image_id": image_id, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
        for label, box, area in zip(
            classes.tolist(), boxes_xywh_px, sides.prod(axis=1).tolist(), strict=True
        )
    ]


def _dataset(
    images: list[dict[str, int]], categories: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> COCO:
    for number, row in enumerate(rows, start=1):  # id 0 would mean "unmatched"
        row["id"] = number
    dataset = {"images": images, "categories": categories, "annotations": rows}
    return COCO(dataset, print_function=_discard)


def _discard(*_text: object) -> None:
    """Stand in for the library's print function."""
