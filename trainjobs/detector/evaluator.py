"""A detector measured on a split: the same batches, suppression and figures in training and after it."""

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from trainjobs.config import EvalConfig
from trainjobs.data.augmentation.sample_plan import eval_shapes
from trainjobs.data.loader import EvaluationSamples, build_loader
from trainjobs.data.packed.shards import Split
from trainjobs.detector.model import YOLOv5
from trainjobs.detector.postprocess import decode, non_max_suppression
from trainjobs.evaluation.detections import Truth
from trainjobs.evaluation.evaluate import (
    Evaluation,
    EvaluationBatch,
    evaluate_detector,
    split_truths,
)
from trainjobs.task import Batch, RankContext

Detect = Callable[[Tensor], list[Tensor]]
"""(B, 3, H, W) uint8 -> per image (K, 6) [x1, y1, x2, y2, score, class] in px of that input."""


class DetectionEvaluator:
    """Measures detectors on one split, which ranks share. Its loader serves every evaluation."""

    def __init__(
        self,
        split: Split,
        *,
        image_size: int,
        batch_size: int,
        stride: int,
        context: RankContext,
    ) -> None:
        self.split, self.image_size, self.context = split, image_size, context
        self._batch_size, self._stride = batch_size, stride

    def evaluate(self, detect: Detect) -> Evaluation:
        """The figures of what `detect` finds; the same metrics on every rank."""
        return evaluate_detector(
            detect,
            self._loader,
            self._shares,
            self.split,
            self._truths,
            image_size=self.image_size,
            rank=self.context.rank,
            world_size=self.context.world_size,
        )

    @functools.cached_property
    def _shares(self) -> list[EvaluationBatch]:
        return eval_shapes(self.split.sizes, self.image_size, self._stride, self._batch_size)

    @functools.cached_property
    def _truths(self) -> list[Truth]:
        return split_truths(self.split)

    @functools.cached_property
    def _loader(self) -> Iterable[Batch]:
        mine = self._shares[self.context.rank :: self.context.world_size]
        refs = [[(index, *shape) for index in indices] for indices, shape in mine]
        loader = build_loader(
            EvaluationSamples(split=self.split, image_size=self.image_size),
            refs,
            workers=self.context.loader_workers,
            pin_memory=self.context.device.type == "cuda",
        )
        return self.context.prepare_loader(loader)


def detection_summary(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """The figures of an evaluation by their key in result.json."""
    return {"metrics": evaluation.metrics, "metrics_yolov5": evaluation.metrics_yolov5}


@torch.inference_mode()
def detect_objects(model: YOLOv5, limits: EvalConfig, images: Tensor) -> list[Tensor]:
    """Forward, decoding and suppression; see `Detect`. The model is in evaluation mode."""
    predictions = decode(model(to_float(images)), model.anchors, model.strides)
    return non_max_suppression(
        predictions,
        confidence=limits.confidence,
        nms_iou=limits.nms_iou,
        max_detections=limits.max_detections,
    )


def to_float(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> float32 in [0, 1], channels last."""
    return images.to(memory_format=torch.channels_last).float() / 255
