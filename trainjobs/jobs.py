"""The jobs there are, by name: what each brings to a run besides its settings."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cluster.errors import DatasetError
from cluster.places import dataset_cache
from trainjobs.checkpoint import load_fitting
from trainjobs.classifier.measure import measure_classifier
from trainjobs.classifier.models import build_classifier
from trainjobs.classifier.models import output_keys as classifier_output_keys
from trainjobs.classifier.task import (
    ClassificationTask,
    check_classifier_config,
    check_images_kept,
    num_outputs,
)
from trainjobs.config import TrainConfig
from trainjobs.data.generated.datasets import SHAPES, THUMBNAILS, Generated
from trainjobs.data.mixture import prepare_datasets
from trainjobs.data.one_class import check_one_class_per_image
from trainjobs.data.prepare import Prepared
from trainjobs.detector.measure import measure_detector
from trainjobs.detector.model import build_yolov5
from trainjobs.detector.task import DetectionTask, check_model_config, output_keys
from trainjobs.measurement import Measured, Measurement
from trainjobs.optim.parts import check_settings
from trainjobs.shapes_alone import shapes_alone
from trainjobs.task import RankContext, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One kind of training."""

    check_config: Callable[[TrainConfig], None]
    """Raises ConfigError for a model, or a setting, that this job cannot train with."""
    generated: Generated
    """The dataset of a run that is given none."""
    check_data: Callable[[Prepared, str], None]
    """Raises DatasetError for a dataset of that name, by what its index says, that is not for this
    job."""
    check_fit: Callable[[TrainConfig, Prepared], None]
    """Raises ConfigError for settings that a usable dataset, by what its index says, does not go with."""
    min_classes: int
    """That there must be for training to make sense."""
    build_task: Callable[[TrainConfig, Prepared, RankContext], Task]
    num_outputs: Callable[[TrainConfig, int], int]
    """Number of classes -> that the config's network is built for: they, or an embedding's size.
    Raises ConfigError if the settings do not go with so many classes."""
    build_network: Callable[[TrainConfig, int], nn.Module]
    """A new network by the config's model, with so many outputs."""
    output_keys: Callable[[TrainConfig, int], Collection[str]]
    """Names in its state of what depends on the number of outputs."""
    measure: Callable[[Measurement], Measured]
    """The figures of trained weights, for `trainjobs.validate`."""
    key_metric: str
    """The column of metrics.csv that decides which weights are best; higher is better."""


JOBS = {
    "yolo": Job(
        check_config=check_model_config,
        generated=SHAPES,
        check_data=lambda _, __: None,  # any boxes will do
        check_fit=lambda _, __: None,
        min_classes=1,
        build_task=DetectionTask,
        num_outputs=lambda _, num_classes: num_classes,
        build_network=lambda config, num_classes: build_yolov5(config.model.name, num_classes),
        output_keys=lambda config, num_classes: output_keys(
            build_yolov5(config.model.name, num_classes)
        ),
        measure=measure_detector,
        key_metric=DetectionTask.key_metric,
    ),
    "classify": Job(
        check_config=check_classifier_config,
        generated=THUMBNAILS,
        check_data=check_one_class_per_image,
        check_fit=check_images_kept,
        min_classes=2,
        build_task=ClassificationTask,
        num_outputs=num_outputs,
        build_network=build_classifier,
        output_keys=classifier_output_keys,
        measure=measure_classifier,
        key_metric=ClassificationTask.key_metric,
    ),
}


def prepare_data(config: TrainConfig, job: Job) -> Prepared:
    """The datasets, scanned into this node's cache.

    Raises:
        DatasetError: they cannot be used, by this job or at all; says which file and why.
        ConfigError: a setting does not go with them.
    """
    cache = Path(dataset_cache()).expanduser()
    data = prepare_datasets(config.data, cache, config.seed, job.generated)
    source = config.data.source or job.generated.name
    job.check_data(data, source)
    if (found := len(data.names)) < job.min_classes:
        reason = f"has {found} class ({data.names[0]!r}); to tell classes apart takes two at least"
        raise DatasetError(source, reason)
    job.check_fit(config, data)
    return data


def check_network(config: TrainConfig, job: Job, num_classes: int) -> nn.Module:
    """Build the network that a run trains, without values, and hold the settings against it.

    Raises:
        ConfigError: `model.freeze` or `optim.lr_factors` names a part that it does not have, or the
            loss fails on so many classes.
    """
    outputs = job.num_outputs(config, num_classes)
    with shapes_alone():
        network = job.build_network(config, outputs)
    check_settings(network, config.model.freeze, config.optim.lr_factors)
    return network


def check_weights(config: TrainConfig, job: Job, network: nn.Module, num_classes: int) -> None:
    """Read the weights that a new run is to start from, if any, before there are ranks that would.

    Raises:
        CheckpointError: the file cannot be read here, or is of another model.
        StorageError: its URI does not answer.
    """
    if config.model.weights:
        num_outputs = job.num_outputs(config, num_classes)
        with shapes_alone():
            outputs = job.output_keys(config, num_outputs)
        load_fitting(network, config.model.weights, name=config.model.name, outputs=outputs)
