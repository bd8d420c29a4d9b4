"""The jobs there are, by name: what each brings to a run besides its settings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cluster.places import dataset_cache
from trainjobs.classifier.measure import measure_classifier
from trainjobs.classifier.task import ClassificationTask, build_network, check_classifier_config
from trainjobs.config import TrainConfig
from trainjobs.data.generated.datasets import SHAPES, THUMBNAILS, Generated
from trainjobs.data.mixture import prepare_datasets
from trainjobs.data.one_class import check_one_class_per_image
from trainjobs.data.prepare import Prepared
from trainjobs.detector.measure import measure_detector
from trainjobs.detector.model import build_yolov5
from trainjobs.detector.task import DetectionTask, check_model_config
from trainjobs.measurement import Measured, Measurement
from trainjobs.task import RankContext, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One kind of training."""

    check_config: Callable[[TrainConfig], None]
    """Raises ConfigError for a model, or a setting, that this job cannot train with."""
    generated: Generated
    """The dataset of a run that is given none."""
    check_data: Callable[[Prepared], None]
    """Raises DatasetError for datasets, by what their indexes say, that this job cannot train on."""
    build_task: Callable[[TrainConfig, Prepared, RankContext], Task]
    build_network: Callable[[TrainConfig, int], nn.Module]
    """A new network by the config's model and number of classes."""
    measure: Callable[[Measurement], Measured]
    """The figures of trained weights, for `trainjobs.validate`."""
    key_metric: str
    """The column of metrics.csv that decides which weights are best; higher is better."""


JOBS = {
    "yolo": Job(
        check_config=check_model_config,
        generated=SHAPES,
        check_data=lambda _: None,  # any boxes will do
        build_task=DetectionTask,
        build_network=lambda config, num_classes: build_yolov5(config.model.name, num_classes),
        measure=measure_detector,
        key_metric=DetectionTask.key_metric,
    ),
    "classify": Job(
        check_config=check_classifier_config,
        generated=THUMBNAILS,
        check_data=check_one_class_per_image,
        build_task=ClassificationTask,
        build_network=build_network,
        measure=measure_classifier,
        key_metric=ClassificationTask.key_metric,
    ),
}


def prepare_data(config: TrainConfig, job: Job) -> Prepared:
    """The datasets, scanned into this node's cache.

    Raises:
        DatasetError: they cannot be used, by this job or at all; says which file and why.
    """
    cache = Path(dataset_cache()).expanduser()
    data = prepare_datasets(config.data, cache, config.seed, job.generated)
    job.check_data(data)
    return data
