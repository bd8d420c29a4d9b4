"""Everything that can be set about a training run: frozen, checked once, documented here.

`python -m trainjobs.yolo --help` prints it, and so does `trainjobs.classify`. A field's path
(`optim.lr`) is its key in YAML, on the command line and in a search space.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from cluster.config import ResourceRequest
from cluster.errors import ConfigError
from trainjobs.data_config import AugmentConfig as AugmentConfig  # noqa: PLC0414  re-exported
from trainjobs.data_config import DataConfig as DataConfig  # noqa: PLC0414  re-exported
from trainjobs.optim_config import OptimConfig as OptimConfig  # noqa: PLC0414  re-exported
from trainjobs.ranges import check_range

RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
"""It becomes a folder and part of URIs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which network, and the weights it starts from."""

    name: str = "yolov5s"
    """yolo: yolov5n, s, m, l, x or yolov5n6, s6, m6, l6, x6. classify: fastnet, or a model of
    torchvision's, such as resnet18."""
    weights: str | None = None
    """Weights to start from: a safetensors file of this service, by path or URI, that every node can read.
    Default: random."""
    freeze: tuple[int | str, ...] = ()
    """Parts that are not trained: a name is for all parameters that are it or go on with a dot (model.0,
    model.24.m). Of YOLOv5, a number N is for the first N layers, several are for these layers. BatchNorm
    there normalizes by its running statistics, which do not move."""
    stem: Literal["auto", "standard", "small"] = "auto"
    """First layers of a classifier's ResNet. `small`: 3x3, stride 1, no pooling. `auto`: small for
    images of at most 64 px."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of red, green and blue in [0, 1], taken off a classifier's images. Default: ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """By which a classifier's images are divided after that. Default: ImageNet's."""

    def __post_init__(self) -> None:
        for value in self.std:
            check_range("model.std", value, 1e-6)


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
    """yolo: class targets become 1 - e/2 and e/2. classify: 1 - e + e/C and e/C, C classes."""
    custom: str | None = None
    """A classifier's own loss by import path, `package.module:callable` (docs/classification.md)."""
    options: dict[str, float] = field(default_factory=dict)
    """Arguments of the custom loss by name."""

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
    """Epochs without a better map50_95 (top1) after which the run stops. 0: never."""
    confidence: float = 0.001
    """Detections below this score are dropped."""
    nms_iou: float = 0.6
    """Of two boxes of one class that overlap by more than this IoU, the lower-scored is dropped."""
    max_detections: int = 300
    """Detections kept per image (COCO's figures use the best 100)."""
    flip: bool = False
    """A classifier also sees the mirrored image, and the mean of both decides."""
    batch_statistics: bool = False
    """A classifier is also measured with BatchNorm normalizing by each batch's own statistics, as a
    network that was left in training mode would: top1_batch_statistics. For comparisons."""

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
    """Where the run is recorded besides its folder."""

    uri: str | None = None
    """MLflow server or store. Default: $MLFLOW_TRACKING_URI, else sqlite in the storage folder."""
    experiment: str | None = None
    """MLflow experiment. Default: the job's name (yolo, classify)."""
    parent_run_id: str | None = None
    """MLflow run below which this one is shown; a sweep sets it for its trials."""
    timeout_s: float = 10.0
    """Seconds a run waits for the tracking server before it starts without it."""
    tensorboard: bool = False
    """Also write metrics.csv's figures as TensorBoard's event files, to tensorboard/ in the run's
    folder."""

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
        if self.optim.cuda_graph and (self.data.rect or self.data.multi_scale):
            raise ConfigError(
                "optim.cuda_graph replays images of one size; not with data.rect or data.multi_scale"
            )
        if self.run_name is not None and not RUN_NAME.fullmatch(self.run_name):
            raise ConfigError(
                f"run_name must be letters, digits, '.', '_' and '-', not beginning with '.', "
                f"got {self.run_name!r}"
            )
