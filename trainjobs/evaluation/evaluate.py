"""A detector over a split: predictions back in original pixels, gathered over ranks, measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainjobs.boxes import cxcywh_to_xyxy
from trainjobs.data.augmentation.sample_plan import plan_letterbox
from trainjobs.data.packed.shards import Split
from trainjobs.distributed import all_gather_lists, broadcast_object, gather_lists
from trainjobs.evaluation.coco import CocoMetrics, average_precision, coco_metrics
from trainjobs.evaluation.detections import Detections, Truth, only_classes, share_classes
from trainjobs.evaluation.yolov5_map import (
    ClassCurves,
    Yolov5Metrics,
    class_curves,
    joined,
    yolov5_metrics,
)
from trainjobs.task import Batch


@dataclass(frozen=True, slots=True, eq=False)
class PartialFigures:
    """What one rank has measured: all of some classes."""

    classes: list[int]
    """K ids."""
    ap: NDArray[np.float64]
    """(K, 10) COCO's, at IoU .50:.05:.95."""
    curves: ClassCurves
    """YOLOv5's."""


EvaluationBatch = tuple[list[int], tuple[int, int]]
"""Images of the split that share a forward, and the height and width they are letterboxed to."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """One measurement of a split. Rank 0 holds it all; the others hold the metrics alone."""

    metrics: dict[str, float]
    """map50_95 and map50 as COCO defines them; precision and recall at the best F1, IoU 0.5."""
    metrics_yolov5: dict[str, float] = field(default_factory=dict)
    """map50_95 and map50 as YOLOv5 reports them."""
    truths: Sequence[Truth] = ()
    detections: Sequence[Detections] = ()
    curves: Yolov5Metrics | None = None
    coco: CocoMetrics | None = None


def evaluate_detector(
    detect: Callable[[Tensor], list[Tensor]],
    batches: Iterable[Batch],
    shares: Sequence[EvaluationBatch],
    split: Split,
    truths: Sequence[Truth],
    *,
    image_size: int,
    rank: int,
    world_size: int,
) -> Evaluation:
    """Measure a detector on a split that ranks share; every image counts once.

    Args:
        detect: images (B, 3, H, W) uint8 -> per image (K, 6) [x1, y1, x2, y2, score, class] in px
            of the letterboxed image.
        batches: this rank's images, those of every `world_size`-th of the shares from `rank` on.
        shares: which images share a forward, on all ranks.
        split: that they are of.
        truths: see `split_truths`.
        image_size: px that their longest sides were scaled to.
        rank: of this process.
        world_size: number of ranks.
    """
    found: list[Detections] = []
    for (indices, shape), batch in zip(shares[rank::world_size], batches, strict=True):
        for index, rows in zip(indices, detect(batch["images"]), strict=True):
            size = split.size(index)
            found.append(
                original_detections(index, rows.cpu().numpy(), size, shape, image_size=image_size)
            )
    detections = in_order(all_gather_lists(found), shares)
    # Ranks share the classes, too: of a large split, all of them keep one process busy for seconds.
    mine = share_classes(truths, detections, len(split.names), world_size)[rank]
    parts = gather_lists([measure_part(truths, detections, mine)])
    evaluation = summarize(parts, truths, detections) if parts else Evaluation({})
    metrics, yolov5 = broadcast_object((evaluation.metrics, evaluation.metrics_yolov5))
    return replace(evaluation, metrics=metrics, metrics_yolov5=yolov5)


def in_order(
    detections: Iterable[Detections], shares: Sequence[EvaluationBatch]
) -> list[Detections]:
    """Those of all ranks as one rank alone finds them: what scores the same is ranked by its place."""
    places = {image: place for place, image in enumerate(i for images, _ in shares for i in images)}
    return sorted(detections, key=lambda found: places[found.image_id])


def measure_part(
    truths: Sequence[Truth], detections: Sequence[Detections], classes: list[int]
) -> PartialFigures:
    """COCO's figures and YOLOv5's of some classes, whose ids rise."""
    truths, detections = only_classes(truths, detections, classes)
    return PartialFigures(
        classes,
        average_precision(truths, detections, classes),
        class_curves(truths, detections, classes),
    )


def summarize(
    parts: Sequence[PartialFigures], truths: Sequence[Truth], detections: Sequence[Detections]
) -> Evaluation:
    """The figures of all classes, of which each is in one of the parts."""
    order = np.argsort([class_id for part in parts for class_id in part.classes])
    coco = coco_metrics(np.concatenate([part.ap for part in parts])[order])
    curves = yolov5_metrics(joined([part.curves for part in parts], order))
    metrics = {
        "map50_95": coco["map50_95"],
        "map50": coco["map50"],
        "precision": curves.precision,
        "recall": curves.recall,
    }
    yolov5 = {"map50_95": curves.map50_95, "map50": curves.map50}
    return Evaluation(metrics, yolov5, truths, detections, curves, coco)


def split_truths(split: Split) -> list[Truth]:
    """Every labeled box of a split, in original pixels."""
    truths = []
    for index in range(len(split)):
        shard, row = split.shard_of(index)
        height, width = split.size(index)
        classes, boxes = shard.labels(row)
        scale = np.array([width, height, width, height], dtype=np.float32)
        corners = cxcywh_to_xyxy(torch.from_numpy(boxes)).numpy() * scale
        is_crowd = shard.crowd(row)
        objects, crowds = ((corners[kind], classes[kind]) for kind in (~is_crowd, is_crowd))
        truths.append(Truth(index, height, width, *objects, *crowds))
    return truths


def original_detections(
    index: int,
    rows: NDArray[np.float32],
    size: tuple[int, int],
    shape: tuple[int, int],
    *,
    image_size: int,
) -> Detections:
    """Undo the letterbox: (K, 6) in px of an input of `shape` -> px of the original of `size`."""
    height, width = size
    plan = plan_letterbox(
        index, height, width, image_size=image_size, out_height=shape[0], out_width=shape[1]
    )
    (scale_x, _, left), (_, scale_y, top) = plan.tiles[0].matrix
    boxes = (rows[:, :4] - [left, top, left, top]) / [scale_x, scale_y, scale_x, scale_y]
    return Detections(
        index,
        np.clip(boxes, 0, [width, height, width, height]).astype(np.float32),
        rows[:, 4],
        rows[:, 5].astype(np.int64),
    )
