"""A classifier's weights file measured on a split, for `trainjobs.validate`."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cluster.errors import CheckpointError, ConfigError
from trainjobs.classifier.defaults import DEFAULTS
from trainjobs.classifier.evaluator import ClassEvaluator, evaluate_model
from trainjobs.classifier.inference import Normalization, class_outputs
from trainjobs.classifier.models import build_classifier, check_image_size
from trainjobs.config import DataConfig, ModelConfig
from trainjobs.data.packed.shards import Split
from trainjobs.evaluation.classification import (
    ClassEvaluation,
    class_accuracies,
    count_confusions,
)
from trainjobs.measurement import Measured, Measurement, Timed
from trainjobs.weights_file import WeightsFile


def measure_classifier(wanted: Measurement) -> Measured:
    """Accuracy, as training measures its own weights.

    Raises:
        ConfigError: the model cannot take the image size.
        CheckpointError: the weights are not of the model that their header names.
        DatasetError: an image cannot be read, or is not of one class.
    """
    weights, split, device = wanted.weights, wanted.split, wanted.context.device
    model, normalize, embeds = build_from(weights, wanted.image_size, device)
    places = torch.tensor(np.argsort(wanted.class_ids), device=device)
    forward = Timed(
        functools.partial(
            _outputs, model, normalize, wanted.settings.flip, None if embeds else places
        )
    )
    evaluator = ClassEvaluator(
        split, image_size=wanted.image_size, batch_size=wanted.batch_size, context=wanted.context
    )
    evaluation = evaluate_model(evaluator, model, forward, wanted.settings, embeds=embeds)
    assert evaluation.answers is not None  # this is rank 0
    matrix = count_confusions(evaluation.answers, len(split.names))
    accuracies, counts = class_accuracies(matrix), matrix.sum(axis=0).tolist()
    return Measured(
        summary={"metrics": evaluation.metrics},
        per_class={
            name: {"accuracy": float(accuracy) if count else None, "num_images": count}
            for name, accuracy, count in zip(split.names, accuracies, counts, strict=True)
        },
        ms_per_image=forward.ms_per_image,
        draw_plots=functools.partial(_draw, evaluation, split),
    )


def build_from(
    weights: WeightsFile, image_size: int, device: torch.device
) -> tuple[nn.Module, Normalization, bool]:
    """The network of a weights file, with them.

    Returns:
        It, in evaluation mode on the device; what its images are normalized by; whether it gives
        embeddings.

    Raises:
        ConfigError: the model cannot take the image size.
        CheckpointError: the header is damaged, or says another model than the weights are of.
    """
    header = weights.header
    try:
        settings = ModelConfig(
            name=weights.model,
            stem=header["stem"],  # type: ignore[arg-type]  # checked by building
            mean=tuple(json.loads(header["mean"])),
            std=tuple(json.loads(header["std"])),
        )
        embedding = json.loads(header["embedding_size"])
        config = replace(DEFAULTS, model=settings, data=DataConfig(image_size=image_size))
        check_image_size(config)
        model = build_classifier(config, embedding or len(weights.classes))
        normalize = Normalization(settings.mean, settings.std, device)
    except KeyError as error:
        raise CheckpointError(weights.location, f"its header has no {error}") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise CheckpointError(weights.location, f"its header is damaged: {error}") from error
    weights.load_into(model)
    model = model.to(device).to(memory_format=torch.channels_last)
    return model.eval(), normalize, embedding is not None


def _outputs(
    model: nn.Module, normalize: Normalization, flip: bool, places: Tensor | None, images: Tensor
) -> Tensor:
    """`class_outputs`, with a column for each class of the dataset, in its order."""
    outputs = class_outputs(model, normalize, images, flip=flip)
    return outputs if places is None else outputs[:, places]


def _draw(evaluation: ClassEvaluation, split: Split, folder: Path) -> None:
    from trainjobs.evaluation.classification_plots import (  # noqa: PLC0415  2 s, at the end
        draw_classification,
    )

    assert evaluation.answers is not None
    draw_classification(evaluation.answers, split, folder)
