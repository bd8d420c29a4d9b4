"""An evaluation class by class, and its detections as COCO's tools read them."""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from trainjobs.evaluation.coco import CocoMetrics
from trainjobs.evaluation.detections import Detections
from trainjobs.evaluation.yolov5_map import Yolov5Metrics

ClassFigures = dict[str, float | int | None]


def figures_per_class(
    coco: CocoMetrics, curves: Yolov5Metrics, names: Sequence[str]
) -> dict[str, ClassFigures]:
    """What each class contributes to the metrics.

    Returns:
        By class name: `ap50_95` and `ap50` as COCO defines them, whose means are map50_95 and map50;
        `precision` and `recall` at the confidence of the best mean F1, IoU 0.5; `num_boxes` labeled.
        A class without a labeled box has no figures: None.
    """
    figures: dict[str, ClassFigures] = {}
    for index, name in enumerate(names):
        values = {
            "ap50_95": coco["ap_per_class"][index],
            "ap50": coco["ap50_per_class"][index],
            "precision": curves.class_precision[index],
            "recall": curves.class_recall[index],
        }
        num_boxes = int(curves.num_truths[index])
        figures[name] = {key: float(value) if num_boxes else None for key, value in values.items()}
        figures[name]["num_boxes"] = num_boxes
    return figures


def coco_results(
    detections: Iterable[Detections], image_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Detections in the format of COCO's results, with the image's name besides.

    Args:
        detections: image ids are places in the split.
        image_names: of the split.

    Returns:
        A row per detection, images in the order of the split. Boxes are x, y, width and height in px
        of the original; `category_id` is the dataset's class id; `image_id` see `image_numbers`.
    """
    numbers = image_numbers(image_names)
    rows = []
    for found in sorted(detections, key=lambda one: one.image_id):
        corners = found.boxes_xyxy_px.astype(np.float64)
        boxes_xywh_px = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        for box, score, class_id in zip(
            boxes_xywh_px.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True
        ):
            rows.append(
                {
                    "image_id": numbers[found.image_id],
                    "file_name": image_names[found.image_id],
                    "category_id": class_id,
                    "bbox": box,
                    "score": score,
                }
            )
    return rows


def image_numbers(image_names: Sequence[str]) -> list[int]:
    """Ids for images: the numbers in their names, as in COCO's own files (000000000139.jpg is 139).

    Their places in the split if a name is no number, or two are the same.
    """
    stems = [PurePosixPath(name).stem for name in image_names]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(image_names)))
