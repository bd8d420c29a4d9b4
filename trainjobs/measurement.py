"""What a job is asked to measure of trained weights, and what it answers."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from cluster.errors import DatasetError
from trainjobs.config import EvalConfig
from trainjobs.data.formats.class_names import listed
from trainjobs.data.packed.shards import Split
from trainjobs.task import Metrics, RankContext
from trainjobs.weights_file import WeightsFile

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measurement:
    """Weights, and the split that they are to be measured on."""

    weights: WeightsFile
    split: Split
    class_ids: tuple[int, ...]
    """The split's class id of each class of the weights."""
    image_size: int
    """Px."""
    batch_size: int
    settings: EvalConfig
    context: RankContext


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measured:
    """What came out."""

    summary: Mapping[str, Metrics]
    """As `Task.summary`: `metrics` and further figures by their key in result.json."""
    per_class: Mapping[str, Mapping[str, float | int | None]]
    """Figures of each class by its name."""
    ms_per_image: float
    """Of the model and what follows it, without reading images."""
    draw_plots: Callable[[Path], None]
    """As `Task.draw_plots`."""
    files: Mapping[str, Any] = field(default_factory=dict)
    """Further results by file name, to be written as JSON."""


class Timed(Generic[Answer]):
    """A function of a batch of images that keeps the time it takes.

    The first batch goes through it twice, the first time untimed: libraries load then, and memory and
    kernels are chosen.
    """

    def __init__(self, function: Callable[[Tensor], Answer]) -> None:
        self._function = function
        self._num_images, self._seconds = 0, 0.0

    def __call__(self, images: Tensor) -> Answer:
        """Call the function; on a GPU wait until it is done."""
        if not self._num_images:
            self._function(images)
            _wait_for(images.device)
        started = time.perf_counter()
        answer = self._function(images)
        _wait_for(images.device)
        self._seconds += time.perf_counter() - started
        self._num_images += len(images)
        return answer

    @property
    def ms_per_image(self) -> float:
        """Mean over all images so far."""
        return 1000 * self._seconds / max(self._num_images, 1)


def match_classes(weights: WeightsFile, names: tuple[str, ...], source: str) -> tuple[int, ...]:
    """The dataset's class id of each class of the weights, which are matched by name.

    Args:
        weights: of a model.
        names: the dataset's class names by class id.
        source: where the dataset is, for the error.

    Raises:
        DatasetError: one of them has a class that the other has not.
    """
    for there, here, who in (
        (names, weights.classes, weights.location),
        (weights.classes, names, source),
    ):
        if missing := [name for name in there if name not in here]:
            other = source if who == weights.location else weights.location
            raise DatasetError(
                who,
                f"has no class {listed(missing)!r}, which {other} has; both must have the same "
                f"classes, in any order. Here: {listed(here)}",
            )
    return tuple(names.index(name) for name in weights.classes)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
