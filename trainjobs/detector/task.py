"""Detection as a task of the loop: YOLOv5, its data, its loss and its evaluation."""

import functools
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cluster.errors import CheckpointError
from trainjobs.checkpoint import load_weights
from trainjobs.config import TrainConfig
from trainjobs.data.batch_shapes import BatchShapes, kinds_by_shape
from trainjobs.data.class_weights import rare_class_weights
from trainjobs.data.copies import Share, weights_of_images
from trainjobs.data.device_batches import DrawnBatches, build_device_samples, draws_on_device
from trainjobs.data.joined import TrainingSplit
from trainjobs.data.loader import TrainingSamples, build_loader, gray_batch
from trainjobs.data.order import Orders
from trainjobs.data.prepare import Prepared
from trainjobs.data.read_ahead import read_ahead
from trainjobs.data.shards import Split
from trainjobs.detector.evaluator import DetectionEvaluator, detect_objects, to_float
from trainjobs.detector.loss import LOSS_NAMES, DetectionLoss
from trainjobs.detector.model import YOLOv5, build_yolov5, check_image_size, max_stride
from trainjobs.evaluation.evaluate import Evaluation
from trainjobs.task import Batch, Loss, Metrics, RankContext

logger = logging.getLogger(__name__)


def check_model_config(config: TrainConfig) -> None:
    """Raise ConfigError for an unknown model or an image size that is no multiple of its stride."""
    check_image_size(config.model.name, config.data.image_size)


class DetectionTask:
    """See `trainjobs.task.Task`."""

    loss_names = LOSS_NAMES
    key_metric = "map50_95"

    def __init__(self, config: TrainConfig, data: Prepared, context: RankContext) -> None:
        self.config, self.names, self.context = config, data.names, context
        self.train: TrainingSplit = data.open_train()
        self._shares = data.shares if data.also else ()
        self.val: Split = data.open("val")
        self.last: Evaluation | None = None

    @functools.cached_property
    def orders(self) -> Orders:
        """Of the training split."""
        settings = self.config.data
        return Orders(
            np.array(self.train.shard_sizes),
            seed=self.config.seed,
            batch_size=self.config.batch_size_per_worker,
            shuffle_shards=settings.shuffle_shards,
            shares=self._shares,
            weights=class_weights(self.train, self._shares) if settings.image_weights else None,
            kinds=kinds_by_shape(self.train.sizes, settings.image_size, self._stride)
            if settings.rect
            else None,
        )

    @property
    def _stride(self) -> int:
        return max_stride(self.config.model.name)

    def build_model(self) -> nn.Module:
        """YOLOv5 from the run's seed, or from `model.weights`; equal on every rank."""
        torch.manual_seed(self.config.seed)
        model = build_yolov5(self.config.model.name, len(self.names))
        if self.config.model.weights:
            load_into(model, Path(self.config.model.weights))
        self._loss = DetectionLoss(
            model.anchors, len(self.names), self.config.data.image_size, self.config.loss
        )
        strides = torch.tensor(model.strides)[:, None, None]
        self._anchors_px = (model.anchors * strides).tolist()
        return model.to(memory_format=torch.channels_last)

    def training_batches(self, batches: Iterable[list[Any]]) -> Iterable[Batch]:
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
        # Half of the cache, as other runs may use it too, and partners of mosaics come on top.
        room = round(settings.cache_gib * 2**30) // 2 // self.context.ranks_on_node
        batches = read_ahead(batches, self.train, room)
        if settings.rect or settings.multi_scale:
            shapes = BatchShapes(
                image_size=settings.image_size,
                stride=self._stride,
                seed=self.config.seed,
                multi_scale=settings.multi_scale,
                sizes=self.train.sizes if settings.rect else None,
            )
            batches = shapes.shaped(batches)
        device = self.context.device
        if not draws_on_device(self.config.augment.execute, device):
            return self.context.prepare_loader(self._loader(samples, batches))
        prepared = build_device_samples(samples, device)
        loader = build_loader(
            prepared,
            batches,
            workers=self.context.loader_workers,
            pin_memory=False,  # it does that itself, in the threads
            collate=prepared.collate,
        )
        return DrawnBatches(self.context.prepare_loader(loader), device)

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
        return {"metrics": self.last.metrics, "metrics_yolov5": self.last.metrics_yolov5}

    def weights_header(self) -> dict[str, str]:
        """Model name, classes, image size and anchors (px), as JSON strings."""
        return {
            "model": self.config.model.name,
            "classes": json.dumps(list(self.names)),
            "image_size": str(self.config.data.image_size),
            "anchors": json.dumps(self._anchors_px),
        }

    @functools.cached_property
    def _evaluator(self) -> DetectionEvaluator:
        return DetectionEvaluator(
            self.val,
            image_size=self.config.data.image_size,
            batch_size=self.config.batch_size_per_worker,
            stride=self._stride,
            context=self.context,
        )

    def _loader(self, samples: Any, batches: Any) -> "DataLoader[Batch]":
        return build_loader(
            samples,
            batches,
            workers=self.context.loader_workers,
            pin_memory=self.context.device.type == "cuda",
        )


def class_weights(split: TrainingSplit, shares: Sequence[Share] = ()) -> NDArray[np.float64]:
    """(N,) how often each image is to be drawn, by how rare its classes are in an epoch."""
    classes = [split.labels(index)[0] for index in range(len(split))]
    copies = weights_of_images(split.shard_sizes, shares) if shares else None
    counts = np.array([len(found) for found in classes])
    return rare_class_weights(np.concatenate(classes), counts, copies)


def load_into(model: nn.Module, path: Path) -> None:
    """Copy a weights file into `model`: all of it, or all but the outputs if classes differ.

    Raises:
        CheckpointError: the file is of another model.
    """
    tensors, header = load_weights(path)
    wanted = model.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    foreign = {k for k in wanted if k not in fitting}
    outputs = {k for k in wanted if ".m." in k and k.startswith(f"model.{len(model.model) - 1}.")}  # type: ignore[arg-type]  # a ModuleList
    if foreign - outputs:
        raise CheckpointError(
            str(path), f"is of {header.get('model', 'another model')}, not of {model.name}"
        )
    if foreign:
        logger.warning(
            "%s has %s classes: its output layer is not used", path, header.get("classes")
        )
    model.load_state_dict(fitting, strict=False)
