"""Detection as a task of the loop: YOLOv5, its data, its loss and its evaluation."""

import functools
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from trainjobs.checkpoint import load_fitting
from trainjobs.config import TrainConfig
from trainjobs.data.loader import TrainingSamples, gray_batch
from trainjobs.data.ordering.batch_shapes import BatchShapes, kinds_by_shape
from trainjobs.data.ordering.order import Orders
from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.data.packed.joined import TrainingSplit
from trainjobs.data.packed.shards import Split
from trainjobs.data.prepare import Prepared
from trainjobs.data.training_batches import build_orders, drawn_batches, fetched_ahead
from trainjobs.detector.evaluator import (
    DetectionEvaluator,
    detect_objects,
    detection_summary,
    to_float,
)
from trainjobs.detector.loss import LOSS_NAMES, DetectionLoss
from trainjobs.detector.model import YOLOv5, build_yolov5, check_image_size, max_stride
from trainjobs.evaluation.evaluate import Evaluation
from trainjobs.task import Batch, Loss, Metrics, RankContext
from trainjobs.unused import check_unused
from trainjobs.weights_file import common_header

UNUSED = (
    "augment.alternate_flip",
    "data.decoded_gib",
    "model.stem",
    "model.mean",
    "model.std",
    "loss.custom",
    "loss.options",
    "eval.flip",
    "eval.batch_statistics",
)
"""Settings of classification: a run that is given another value than the default's would ignore it."""


def check_model_config(config: TrainConfig) -> None:
    """Raise ConfigError for an unknown model, an image size that is no multiple of its stride, or a
    setting of classification."""
    check_unused(config, TrainConfig(), UNUSED, "yolo")
    check_image_size(config.model.name, config.data.image_size)


class DetectionTask:
    """See `trainjobs.task.Task`."""

    loss_names = LOSS_NAMES
    figure_names = ()
    key_metric = "map50_95"

    def __init__(self, config: TrainConfig, data: Prepared, context: RankContext) -> None:
        self.config, self.data, self.context = config, data, context
        self.names = data.names
        self.train: TrainingSplit = data.open_train()
        self.val: Split = data.open("val")
        self.last: Evaluation | None = None

    @functools.cached_property
    def orders(self) -> Orders:
        """Of the training split."""
        settings = self.config.data
        kinds = None
        if settings.rect:
            kinds = kinds_by_shape(self.train.sizes, settings.image_size, self._stride)
        return build_orders(self.config, self.data, self.train, kinds)

    @property
    def _stride(self) -> int:
        return max_stride(self.config.model.name)

    def build_model(self, *, continues: bool = False) -> nn.Module:
        """YOLOv5 from the run's seed, or from `model.weights`; equal on every rank."""
        torch.manual_seed(self.config.seed)
        model = build_yolov5(self.config.model.name, len(self.names))
        if (weights := self.config.model.weights) and not continues:
            fitting = load_fitting(model, weights, name=model.name, outputs=output_keys(model))
            model.load_state_dict(fitting, strict=False)
        self._loss = DetectionLoss(
            model.anchors, len(self.names), self.config.data.image_size, self.config.loss
        )
        strides = torch.tensor(model.strides)[:, None, None]
        self._anchors_px = (model.anchors * strides).tolist()
        return model.to(memory_format=torch.channels_last)

    def training_batches(self, batches: Iterable[list[SampleRef]]) -> Iterable[Batch]:
        """Augmented images by (epoch, position, image)."""
        settings, augment = self.config.data, self.config.augment
        samples = TrainingSamples(
            split=self.train,
            orders=self.orders,
            # A mosaic is square, and so is what is mixed with it.
            augment=replace(augment, mosaic=0.0) if settings.rect else augment,
            image_size=settings.image_size,
            seed=self.config.seed,
            epochs=self.config.epochs,
            ranks_on_node=self.context.ranks_on_node,
        )
        batches = fetched_ahead(batches, self.train, self.config, self.context)
        if settings.rect or settings.multi_scale:
            shapes = BatchShapes(
                image_size=settings.image_size,
                stride=self._stride,
                seed=self.config.seed,
                multi_scale=settings.multi_scale,
                sizes=self.train.sizes if settings.rect else None,
            )
            batches = shapes.shaped(batches)
        return drawn_batches(samples, batches, self.context)

    def dummy_batch(self) -> Batch:
        """Gray images without boxes."""
        return gray_batch(self._stride, self.context.device)

    def compute_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> Loss:
        """Forward and loss of one micro-batch; `images` (B, 3, H, W) uint8."""
        raw: list[Tensor] = model(to_float(images))
        return self._loss(raw, targets)

    def evaluate(self, model: nn.Module) -> Metrics:
        """COCO mAP, precision and recall of `model` on the validation split."""
        detector = model.eval()
        assert isinstance(detector, YOLOv5)
        detect = functools.partial(detect_objects, detector, self.config.eval)
        self.last = self._evaluator.evaluate(detect)
        return self.last.metrics

    def draw_plots(self, folder: Path) -> None:
        """Precision-recall, confusion matrix and labeled validation samples; rank 0 alone."""
        from trainjobs.evaluation.plots import draw_evaluation  # noqa: PLC0415  2 s, rank 0 at the end

        if self.last is not None:
            draw_evaluation(self.last, self.val, folder)

    def summary(self) -> dict[str, dict[str, float]]:
        """The last evaluation's figures, for result.json."""
        assert self.last is not None
        return detection_summary(self.last)

    def weights_header(self) -> dict[str, str]:
        """What a weights file says about the model: `common_header`, and anchors (px) as JSON."""
        common = common_header(self.config, self.names, "yolo")
        return {**common, "anchors": json.dumps(self._anchors_px)}

    @functools.cached_property
    def _evaluator(self) -> DetectionEvaluator:
        return DetectionEvaluator(
            self.val,
            image_size=self.config.data.image_size,
            batch_size=self.config.batch_size_per_worker,
            stride=self._stride,
            context=self.context,
        )


def output_keys(model: YOLOv5) -> set[str]:
    """Names in the network's state of what depends on the number of classes."""
    last = f"model.{len(model.model) - 1}."
    return {key for key in model.state_dict() if ".m." in key and key.startswith(last)}
