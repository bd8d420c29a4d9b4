"""A detector's weights file measured on a split, for `trainjobs.validate`."""

import functools
from pathlib import Path

import torch
from torch import Tensor

from trainjobs.config import EvalConfig
from trainjobs.data.packed.shards import Split
from trainjobs.detector.evaluator import DetectionEvaluator, detect_objects, detection_summary
from trainjobs.detector.model import YOLOv5, build_yolov5, check_image_size, max_stride
from trainjobs.evaluation.evaluate import Evaluation
from trainjobs.evaluation.per_class import coco_results, figures_per_class
from trainjobs.measurement import Measured, Measurement, Timed

DETECTIONS = "detections.json"


def measure_detector(wanted: Measurement) -> Measured:
    """COCO's figures and YOLOv5's, as training measures its own weights.

    Raises:
        ConfigError: the image size is no multiple of the model's stride.
        CheckpointError: the weights are not of the model that their header names.
        DatasetError: an image cannot be read.
    """
    weights, split, device = wanted.weights, wanted.split, wanted.context.device
    check_image_size(weights.model, wanted.image_size)
    model = build_yolov5(weights.model, len(weights.classes))
    weights.load_into(model)
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    class_ids = torch.tensor(wanted.class_ids, device=device)
    detect = Timed(functools.partial(_detect_as, class_ids, model, wanted.settings))
    evaluator = DetectionEvaluator(
        split,
        image_size=wanted.image_size,
        batch_size=wanted.batch_size,
        stride=max_stride(weights.model),
        context=wanted.context,
    )
    evaluation = evaluator.evaluate(detect)
    assert evaluation.coco and evaluation.curves  # this is rank 0
    names = [split.id(index) for index in range(len(split))]
    return Measured(
        summary=detection_summary(evaluation),
        per_class=figures_per_class(evaluation.coco, evaluation.curves, split.names),
        ms_per_image=detect.ms_per_image,
        draw_plots=functools.partial(_draw, evaluation, split),
        files={DETECTIONS: coco_results(evaluation.detections, names)},
    )


def _draw(evaluation: Evaluation, split: Split, folder: Path) -> None:
    from trainjobs.evaluation.plots import draw_evaluation  # noqa: PLC0415  2 s, at the end

    draw_evaluation(evaluation, split, folder)


@torch.inference_mode()
def _detect_as(
    class_ids: Tensor, model: YOLOv5, settings: EvalConfig, images: Tensor
) -> list[Tensor]:
    """`detect_objects`, with the dataset's class ids (C,) for the model's."""
    found = detect_objects(model, settings, images)
    for rows in found:
        rows[:, 5] = class_ids[rows[:, 5].long()]
    return found
