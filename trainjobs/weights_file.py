"""A weights file of this service with what its header says of the model, and what goes into that."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from cluster.config_io import from_dict, to_dict
from cluster.errors import CheckpointError, ConfigError
from trainjobs.checkpoint import load_weights
from trainjobs.config import EvalConfig, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightsFile:
    """Weights, and what every job writes into their header."""

    location: str
    """Path or URI."""
    tensors: dict[str, Tensor] = field(repr=False)
    header: dict[str, str]
    """All of it; a job has keys of its own."""
    job: str
    """That trained it."""
    model: str
    classes: tuple[str, ...]
    """Class names by class id."""
    image_size: int
    """Px that it was trained at."""
    batch_size: int
    """Images in a batch when it was measured in training: they decide the shape of a batch."""
    eval: EvalConfig
    """How it was measured then."""

    def load_into(self, model: nn.Module) -> None:
        """Copy all tensors into a network that is built as the header says.

        Raises:
            CheckpointError: they are not this network's.
        """
        wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
        found = {name: tensor.shape for name, tensor in self.tensors.items()}
        if wanted != found:
            odd = sorted({name for name, _ in wanted.items() ^ found.items()})
            raise CheckpointError(
                self.location,
                f"its tensors are not those of {self.model} with {len(self.classes)} classes, which "
                f"its header says it is: {', '.join(odd[:3])}",
            )
        model.load_state_dict(self.tensors)


def common_header(config: TrainConfig, names: Sequence[str], job: str) -> dict[str, str]:
    """What every job writes into the header of its weights; JSON where it is no plain text."""
    return {
        "job": job,
        "model": config.model.name,
        "classes": json.dumps(list(names)),
        "image_size": str(config.data.image_size),
        "batch_size": str(config.batch_size_per_worker),
        "eval": json.dumps(to_dict(config.eval)),
    }


def read_weights(location: str) -> WeightsFile:
    """Read a weights file, by path or URI.

    Raises:
        CheckpointError: it is missing, damaged, or no weights file of this service.
        StorageError: the URI does not answer.
    """
    tensors, header = load_weights(location)
    try:
        model, classes = header["model"], json.loads(header["classes"])
        image_size = int(header["image_size"])
        # Files from before these were written have none.
        batch_size = int(header.get("batch_size", TrainConfig().batch_size_per_worker))
        settings = from_dict(EvalConfig, json.loads(header.get("eval", "{}")))
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("classes must be a list of names")
        if not classes or len(set(classes)) < len(classes):
            raise ValueError("classes must be different names, at least one")
        if image_size < 1 or batch_size < 1:
            raise ValueError(f"image_size {image_size} and batch_size {batch_size} must be >= 1")
    except (KeyError, TypeError, ValueError, RecursionError, ConfigError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(location, f"its header is damaged: {reason}") from error
    return WeightsFile(
        location=location,
        tensors=tensors,
        header=header,
        job=header.get("job", "yolo"),
        model=model,
        classes=tuple(classes),
        image_size=image_size,
        batch_size=batch_size,
        eval=settings,
    )
