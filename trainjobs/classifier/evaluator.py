"""A classifier measured on a split: the same batches and figures in training and after it."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainjobs.classifier.inference import batch_statistics
from trainjobs.config import EvalConfig
from trainjobs.data.device.decoded_batches import whole_image_targets
from trainjobs.data.device.decoded_split import DecodedSplit
from trainjobs.data.loader import EvaluationSamples, build_loader
from trainjobs.data.packed.shards import Split
from trainjobs.evaluation.classification import (
    NUM_KEPT,
    Answers,
    ClassEvaluation,
    best_classes,
    evaluate_answers,
    evaluate_embeddings,
)
from trainjobs.host_copy import HostCopy
from trainjobs.task import Batch, RankContext

Forward = Callable[[Tensor], Tensor]
"""(B, 3, S, S) uint8 -> (B, C) float32."""


class ClassEvaluator:
    """Measures classifiers on one split, whose batches ranks share."""

    def __init__(
        self,
        split: Split,
        *,
        image_size: int,
        batch_size: int,
        context: RankContext,
        decoded: DecodedSplit | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            split: To measure on.
            image_size: Px.
            batch_size: Images in a batch.
            context: Of this rank.
            decoded: The split, on the rank's device. Default: its images are decoded each time.
        """
        self._split, self._image_size, self._context = split, image_size, context
        self._mine = _batches_of(len(split), batch_size)[context.rank :: context.world_size]
        self._decoded = decoded

    def evaluate(self, forward: Forward, *, embeds: bool = False) -> ClassEvaluation:
        """The figures of what `forward` gives; the same metrics on every rank.

        Args:
            forward: Scores of classes, or embeddings.
            embeds: Whether it gives embeddings, whose images get the class of their nearest neighbor.
        """
        copies = []
        for batch in self._batches():
            labels, outputs = batch["targets"][:, 1].long(), forward(batch["images"])
            copies.append(HostCopy([labels, outputs]))  # read later, so that no batch is waited for
        found = []
        for images, copied in zip(self._mine, copies, strict=True):
            labels, outputs = copied.read()
            found.append((np.array(images), labels.numpy(), outputs.numpy()))
        if embeds:
            return evaluate_embeddings(found)
        return evaluate_answers([_answers(*part) for part in found])

    def _batches(self) -> Iterator[Batch]:
        decoded = self._decoded
        if decoded is None:
            yield from self._loader
            return
        for indices in self._mine:
            part = slice(indices.start, indices.stop)
            targets = whole_image_targets(decoded.classes[part])
            yield {"images": decoded.images[part].permute(0, 3, 1, 2), "targets": targets}

    @functools.cached_property
    def _loader(self) -> Iterable[Batch]:
        side = self._image_size
        loader = build_loader(
            EvaluationSamples(split=self._split, image_size=side),
            [[(index, side, side) for index in indices] for indices in self._mine],
            workers=self._context.loader_workers,
            pin_memory=self._context.device.type == "cuda",
        )
        return self._context.prepare_loader(loader)


def _batches_of(num_images: int, batch_size: int) -> list[range]:
    """Images in a row. One left alone joins those before it: BatchNorm in training mode, in which
    models are also measured, is not defined over a single 1x1 map."""
    starts = list(range(0, num_images, batch_size))
    if len(starts) > 1 and starts[-1] == num_images - 1:
        starts.pop()
    return [range(start, end) for start, end in itertools.pairwise([*starts, num_images])]


def evaluate_model(
    evaluator: ClassEvaluator,
    model: nn.Module,
    forward: Forward,
    settings: EvalConfig,
    *,
    embeds: bool,
) -> ClassEvaluation:
    """The figures of a model, in the ways that the settings ask for; it is left in evaluation mode.

    Args:
        evaluator: Of the split.
        model: That `forward` asks.
        forward: See `Forward`.
        settings: Of the run.
        embeds: See `ClassEvaluator.evaluate`.
    """
    model.eval()
    evaluation = evaluator.evaluate(forward, embeds=embeds)
    if settings.batch_statistics:
        with batch_statistics(model):
            other = evaluator.evaluate(forward, embeds=embeds)
        evaluation.metrics["top1_batch_statistics"] = other.metrics["top1"]
    return evaluation


def _answers(
    images: NDArray[np.int64], labels: NDArray[np.int64], outputs: NDArray[np.float32]
) -> Answers:
    """The best classes of (B, C) outputs, with their shares of the softmax."""
    shares = torch.from_numpy(outputs).softmax(dim=1).numpy()
    classes, scores = best_classes(shares, NUM_KEPT)
    return Answers(images, labels, classes, scores)
