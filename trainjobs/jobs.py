"""The jobs there are, by name: what each brings to a run besides its settings."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from trainjobs.config import TrainConfig
from trainjobs.data.prepare import Prepared
from trainjobs.detector.model import build_yolov5
from trainjobs.detector.task import DetectionTask, check_model_config
from trainjobs.task import RankContext, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One kind of training."""

    check_config: Callable[[TrainConfig], None]
    """Raises ConfigError for a model, or a setting, that this job cannot train with."""
    build_task: Callable[[TrainConfig, Prepared, RankContext], Task]
    build_network: Callable[[str, int], nn.Module]
    """A new network by `model.name` and number of classes."""
    key_metric: str
    """The column of metrics.csv that decides which weights are best; higher is better."""


JOBS = {
    "yolo": Job(
        check_config=check_model_config,
        build_task=DetectionTask,
        build_network=build_yolov5,
        key_metric=DetectionTask.key_metric,
    ),
}
