"""Everything that can be set about a training run: frozen, checked once, documented here.

`python -m trainjobs.yolo --help` prints this file. A field's path (`optim.lr`) is its key in YAML,
on the command line and in a search space.
"""

import re
from dataclasses import dataclass, field, fields
from typing import Literal

from cluster.config import ResourceRequest
from cluster.errors import ConfigError
from trainjobs.optim_config import OptimConfig as OptimConfig  # noqa: PLC0414  re-exported
from trainjobs.ranges import check_range
from trainjobs.weighted_source import parse_weighted

RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
"""It becomes a folder and part of URIs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which images, at which size, read how."""

    source: str | None = None
    """A packed dataset, by folder or URI, or a data.yaml. Default: one that the run generates."""
    also: tuple[str, ...] = ()
    """Further datasets to train on, each SOURCE or SOURCE#WEIGHT: an image comes WEIGHT (1) times an
    epoch, 0.5 every other epoch. Their classes are found by name among those of source."""
    image_size: int = 640
    """Side of the square training image in px; a multiple of the model's largest stride."""
    rect: bool = False
    """Train on rectangles: images of like aspect share a micro-batch, with the least padding. There
    is no mosaic then, and no mixup."""
    multi_scale: float = 0.0
    """The side of each micro-batch is drawn from image_size times [1 - multi_scale, 1 + multi_scale].
    YOLOv5's flag means 0.5."""
    shuffle_shards: int = 256
    """Shards of the training split that are shuffled as a whole. Of more, so many are in use at a
    time, shared out over the nodes: a node's cache must hold its part (docs/data.md)."""
    image_weights: bool = False
    """Draw images with rare classes more often: as if first a class were drawn, then a box of it."""
    loader_workers: int | Literal["auto"] = "auto"
    """Data-loading threads per rank. `auto`: min(node CPUs / ranks on it, 8); 0 for batches of one."""
    max_bad_fraction: float = 0.05
    """Largest fraction of unusable images in a split before the run stops (at least 10 images)."""
    cache_gib: float = 50.0
    """GiB of fetched shards that a node keeps, for all runs and datasets."""
    generated_images: int = 640
    """Training images of the generated dataset."""

    def __post_init__(self) -> None:
        for text in self.also:
            parse_weighted(text, "data.also")
        check_range("data.image_size", self.image_size, 32)
        check_range("data.multi_scale", self.multi_scale, 0, 0.9)
        check_range("data.shuffle_shards", self.shuffle_shards, 1)
        if self.loader_workers != "auto":
            check_range("data.loader_workers", self.loader_workers, 0)
        check_range("data.max_bad_fraction", self.max_bad_fraction, 0, 1)
        check_range("data.cache_gib", self.cache_gib, 0)
        check_range("data.generated_images", self.generated_images, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Random changes to training images; each is keyed by (seed, epoch, position in the order)."""

    execute: Literal["auto", "cpu", "device"] = "auto"
    """Where pixels are made. `device`: a batch at a time, where the model is, JPEGs too if that is a
    GPU; `cpu`: by the loader's threads. `auto`: device on a GPU, else cpu (docs/data.md)."""
    mosaic: float = 1.0
    """Probability that an image becomes a mosaic of four."""
    mosaic_nine: float = 0.0
    """Probability that a mosaic is made of nine images."""
    mosaic_window: int = 256
    """A mosaic's other images come from so many round it in the epoch's order, so that each is decoded
    once for several mosaics; small windows cost mAP. 0: the whole dataset."""
    mixup: float = 0.0
    """Probability that a mosaic is averaged with another one."""
    close_mosaic: int = 10
    """Final epochs without mosaic. 0: mosaic to the end."""
    degrees: float = 0.0
    """Largest rotation, in degrees either way."""
    translate: float = 0.1
    """Largest shift, as a fraction of the image side."""
    scale: float = 0.5
    """Zoom is drawn from [1 - scale, 1 + scale]."""
    shear: float = 0.0
    """Largest shear, in degrees either way."""
    copy_paste: float = 0.0
    """Probability that an object with a polygon is pasted once more, mirrored, where it covers less
    than 30 % of any box."""
    perspective: float = 0.0
    """Largest tilt: depth changes by this fraction per px. YOLOv5 uses up to 0.001."""
    hsv_h: float = 0.015
    """Largest turn of the hue, as a fraction of half a circle."""
    hsv_s: float = 0.7
    """Largest relative change of saturation."""
    hsv_v: float = 0.4
    """Largest relative change of value (brightness)."""
    flip_vertical: float = 0.0
    """Probability of an upside-down flip."""
    flip_horizontal: float = 0.5
    """Probability of a left-right flip."""
    blur: float = 0.0
    """Probability of averaging over 3, 5 or 7 px."""
    gray: float = 0.0
    """Probability of losing all color."""
    clahe: float = 0.0
    """Probability of adaptive histogram equalization (CLAHE)."""
    cutout: float = 0.0
    """Probability of painting rectangles over parts of the image; a box covered by more than 60 % is
    dropped."""

    def __post_init__(self) -> None:
        highest = {  # the others are probabilities and shares
            "close_mosaic": float("inf"), "mosaic_window": float("inf"), "perspective": 0.01,
            "degrees": 180.0, "translate": 0.9, "scale": 0.99, "shear": 60.0,
        }  # fmt: skip
        for setting in fields(self):
            if setting.name == "execute":
                continue
            high = highest.get(setting.name, 1.0)
            check_range(f"augment.{setting.name}", getattr(self, setting.name), 0, high)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which network, and the weights it starts from."""

    name: str = "yolov5s"
    """yolov5n, s, m, l, x or yolov5n6, s6, m6, l6, x6."""
    weights: str | None = None
    """Weights to start from: a safetensors file of this service. Default: random."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the loss terms and the rule that matches boxes to anchors."""

    box: float = 0.05
    """Gain of the box (CIoU) term."""
    cls: float = 0.5
    """Gain of the class term; scaled by classes / 80."""
    obj: float = 1.0
    """Gain of the objectness term; scaled by (image_size / 640)^2."""
    anchor_threshold: float = 4.0
    """A box matches an anchor if neither side differs by this factor or more."""
    label_smoothing: float = 0.0
    """Class targets become 1 - e/2 and e/2."""

    def __post_init__(self) -> None:
        for name in ("box", "cls", "obj"):
            check_range(f"loss.{name}", getattr(self, name), 0)
        check_range("loss.anchor_threshold", self.anchor_threshold, 1)
        check_range("loss.label_smoothing", self.label_smoothing, 0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """When the validation split is measured, and how detections are selected."""

    every_epochs: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    patience: int = 100
    """Epochs without a better map50_95 after which the run stops. 0: never."""
    confidence: float = 0.001
    """Detections below this score are dropped."""
    nms_iou: float = 0.6
    """Of two boxes of one class that overlap by more than this IoU, the lower-scored is dropped."""
    max_detections: int = 300
    """Detections kept per image (COCO's figures use the best 100)."""

    def __post_init__(self) -> None:
        check_range("eval.every_epochs", self.every_epochs, 1)
        check_range("eval.patience", self.patience, 0)
        check_range("eval.confidence", self.confidence, 0, 1)
        check_range("eval.nms_iou", self.nms_iou, 0, 1)
        check_range("eval.max_detections", self.max_detections, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """How often the whole training state is kept. The best and the newest checkpoint stay."""

    every_epochs: int = 1
    """Epochs between checkpoints; the last epoch always leaves one."""
    start_from: str | None = None
    """Folder of another run: a new run goes on from its newest epoch (weights, optimizer, EMA,
    epochs done) under its own settings. Default: from the start."""

    def __post_init__(self) -> None:
        check_range("checkpoint.every_epochs", self.every_epochs, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Where MLflow records the run."""

    uri: str | None = None
    """MLflow server or store. Default: $MLFLOW_TRACKING_URI, else sqlite in the storage folder."""
    experiment: str | None = None
    """MLflow experiment. Default: the job's name (yolo)."""
    parent_run_id: str | None = None
    """MLflow run below which this one is shown; a sweep sets it for its trials."""
    timeout_s: float = 10.0
    """Seconds a run waits for the tracking server before it starts without it."""

    def __post_init__(self) -> None:
        check_range("tracking.timeout_s", self.timeout_s, 0.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run."""

    epochs: int = 100
    """Passes over the training split."""
    max_steps: int | None = None
    """Optimizer steps after which the run stops where it is, with a checkpoint; without it, or with
    more, it goes on from there. Default: all of epochs."""
    batch_size_per_worker: int = 16
    """Images in one forward on one worker: the micro-batch."""
    seed: int = 0
    """Fixes initial weights, order of images and augmentation."""
    run_name: str | None = None
    """Name of the run and of its folder. A name that stands resumes. Default: a new name."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    resources: ResourceRequest = field(default_factory=ResourceRequest)

    def __post_init__(self) -> None:
        check_range("epochs", self.epochs, 1)
        if self.max_steps is not None:
            check_range("max_steps", self.max_steps, 1)
        check_range("batch_size_per_worker", self.batch_size_per_worker, 1)
        check_range("seed", self.seed, 0, 2**32 - 1)
        if self.run_name is not None and not RUN_NAME.fullmatch(self.run_name):
            raise ConfigError(
                f"run_name must be letters, digits, '.', '_' and '-', not beginning with '.', "
                f"got {self.run_name!r}"
            )
