"""Classification as a task of the loop: the network, its data, its loss and its evaluation."""

import functools
import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainjobs.checkpoint import load_fitting
from trainjobs.classifier.defaults import DEFAULTS, UNUSED
from trainjobs.classifier.evaluator import ClassEvaluator, evaluate_model
from trainjobs.classifier.fast_net import FastNet
from trainjobs.classifier.inference import Normalization, class_outputs
from trainjobs.classifier.loss import build_loss, embedding_size
from trainjobs.classifier.models import (
    build_classifier,
    check_image_size,
    check_model_name,
    has_small_stem,
    output_keys,
)
from trainjobs.config import AugmentConfig, TrainConfig
from trainjobs.data.cached_folders import prepared_folders
from trainjobs.data.device.decoded_batches import DECODED, DecodedBatches
from trainjobs.data.device.decoded_split import DecodedSplit, decoded_bytes, load_decoded
from trainjobs.data.loader import EvaluationSamples, TrainingSamples, gray_batch
from trainjobs.data.ordering.order import Orders
from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.data.packed.joined import TrainingSplit
from trainjobs.data.packed.shards import Split
from trainjobs.data.prepare import Prepared
from trainjobs.data.training_batches import build_orders, drawn_batches, fetched_ahead
from trainjobs.evaluation.classification import ClassEvaluation
from trainjobs.task import Batch, Loss, Metrics, RankContext
from trainjobs.unused import check_unused
from trainjobs.weights_file import common_header

WHITENED_IMAGES = 512
"""Training images whose patches whiten a `FastNet`: half a million of 32 px, plenty for 12 x 12."""


def check_classifier_config(config: TrainConfig) -> None:
    """Raise ConfigError for an unknown model, a size it cannot take, a loss that there is not, or a
    setting of detection."""
    check_unused(config, DEFAULTS, UNUSED, "classify")
    check_model_name(config.model.name)
    check_image_size(config)
    build_loss(config.loss)
    if config.augment.alternate_flip and (odd := _not_decoded(config.augment)):
        raise ConfigError(
            f"augment.alternate_flip: is for decoded images, which augment.{odd[0]} does not work on; "
            f"set that to 0, or use flip_horizontal"
        )


def check_images_kept(config: TrainConfig, data: Prepared) -> None:
    """Raise ConfigError if `augment.alternate_flip` is asked for images that take too much memory."""
    counts = [data.counts["train"], *(other.data.counts["train"] for other in data.also)]
    taken = _gib(sum(counts), config)
    if config.augment.alternate_flip and taken > config.data.decoded_gib:
        raise ConfigError(
            f"augment.alternate_flip: is for decoded images, and these take {taken:.3g} GiB; raise "
            "data.decoded_gib, or use flip_horizontal"
        )


def num_outputs(config: TrainConfig, num_classes: int) -> int:
    """Of the network that a config asks for: one per class, or those of an embedding.

    Raises:
        ConfigError: the loss fails on so many classes.
    """
    return embedding_size(build_loss(config.loss, num_classes)) or num_classes


class ClassificationTask:
    """See `trainjobs.task.Task`."""

    loss_names = ("loss",)  # of one term: it is train_loss, and has no column besides
    key_metric = "top1"

    def __init__(self, config: TrainConfig, data: Prepared, context: RankContext) -> None:
        self.config, self.data, self.context = config, data, context
        self.names = data.names
        self.train: TrainingSplit = data.open_train()
        self.val: Split = data.open("val")
        self.last: ClassEvaluation | None = None
        self._loss = build_loss(config.loss)
        if isinstance(self._loss, nn.Module):
            self._loss.to(context.device)  # it may have constants, such as weights of classes
        self._embeds = embedding_size(self._loss) is not None
        self._num_outputs = embedding_size(self._loss) or len(self.names)
        # Embeddings have no classes of their own that could be counted in training.
        self.figure_names = () if self._embeds else ("top1",)
        self._normalize = Normalization(config.model.mean, config.model.std, context.device)

    @functools.cached_property
    def orders(self) -> Orders:
        """Of the training split."""
        return build_orders(self.config, self.data, self.train)

    def build_model(self, *, continues: bool = False) -> nn.Module:
        """A network from the run's seed, or from `model.weights`; equal on every rank."""
        torch.manual_seed(self.config.seed)
        model = build_classifier(self.config, self._num_outputs)
        if not continues:
            self._start(model)
        return model.to(memory_format=torch.channels_last)

    def _start(self, model: nn.Module) -> None:
        if weights := self.config.model.weights:
            outputs = output_keys(self.config, self._num_outputs)
            fitting = load_fitting(model, weights, name=self.config.model.name, outputs=outputs)
            model.load_state_dict(fitting, strict=False)
        elif isinstance(model, FastNet):
            model.whiten(self._first_images())

    def training_batches(self, batches: Iterable[list[SampleRef]]) -> Iterable[Batch]:
        """Augmented images by (epoch, position, image), each with its class."""
        config = self.config
        if not _not_decoded(config.augment):
            decoded = self._decoded(self.train)
            if decoded is not None:
                return DecodedBatches(decoded, batches, config.augment, seed=config.seed)
        samples = TrainingSamples(
            split=self.train,
            orders=self.orders,
            augment=config.augment,
            image_size=config.data.image_size,
            seed=config.seed,
            epochs=config.epochs,
            ranks_on_node=self.context.ranks_on_node,
            one_class=True,
        )
        batches = fetched_ahead(batches, self.train, config, self.context)
        return drawn_batches(samples, batches, self.context)

    def dummy_batch(self) -> Batch:
        """Gray images without a class."""
        return gray_batch(self.config.data.image_size, self.context.device)

    def compute_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> Loss:
        """Forward, loss and accuracy of one micro-batch; `images` (B, 3, H, W) uint8.

        The loop's gradient is a sum over images. Divided by the images that `optim.lr` is given for,
        it is what classifiers' published learning rates stand before: their mean.
        """
        outputs: Tensor = model(self._normalize(images))
        if not len(targets):  # the dummy: every weight needs a gradient
            nothing = outputs.sum() * 0
            return Loss(nothing, nothing.detach().new_zeros(1 + len(self.figure_names)))
        classes = targets[:, 1].long()  # rows are in the order of the images
        # In the outputs' own precision a loss that multiplies matrices would lose small distances.
        with torch.autocast(outputs.device.type, enabled=False):
            loss = self._loss(outputs.float(), classes)
        figures = [loss.detach()]
        if not self._embeds:
            figures.append((outputs.argmax(dim=1) == classes).float().mean())
        return Loss(loss / self.config.optim.nominal_batch_size, torch.stack(figures))

    def evaluate(self, model: nn.Module) -> Metrics:
        """Accuracy of `model` on the validation split; of embeddings, that of the nearest neighbor."""
        settings = self.config.eval
        forward = functools.partial(class_outputs, model, self._normalize, flip=settings.flip)
        self.last = evaluate_model(self._evaluator, model, forward, settings, embeds=self._embeds)
        return self.last.metrics

    def draw_plots(self, folder: Path) -> None:
        """Confusion matrix, accuracy by class and the surest mistakes; rank 0 alone."""
        from trainjobs.evaluation.classification_plots import (  # noqa: PLC0415  2 s, at the end
            draw_classification,
        )

        if self.last is not None and self.last.answers is not None:
            draw_classification(self.last.answers, self.val, folder)

    def summary(self) -> dict[str, dict[str, float]]:
        """The last evaluation's figures, for result.json."""
        assert self.last is not None
        return {"metrics": self.last.metrics}

    def weights_header(self) -> dict[str, str]:
        """What a weights file says about the model: `common_header`, stem, mean, std and outputs."""
        settings = self.config.model
        return {
            **common_header(self.config, self.names, "classify"),
            "stem": "small" if has_small_stem(self.config) else "standard",
            "mean": json.dumps(settings.mean),
            "std": json.dumps(settings.std),
            "embedding_size": json.dumps(embedding_size(self._loss)),
        }

    @functools.cached_property
    def _evaluator(self) -> ClassEvaluator:
        return ClassEvaluator(
            self.val,
            image_size=self.config.data.image_size,
            batch_size=self.config.batch_size_per_worker,
            context=self.context,
            decoded=self._decoded(self.val),
        )

    def _decoded(self, split: TrainingSplit) -> DecodedSplit | None:
        """A split's images, decoded, if they are to be kept."""
        if _gib(len(split), self.config) > self.config.data.decoded_gib:
            return None
        return load_decoded(
            split,
            image_size=self.config.data.image_size,
            folders=prepared_folders(self.context.cache, self.config.data.cache_gib),
            device=self.context.device,
        )

    def _first_images(self) -> Tensor:
        """Images of the first epoch's order as they are evaluated: a sample that ranks share."""
        side = self.config.data.image_size
        samples = EvaluationSamples(split=self.train, image_size=side)
        count = min(WHITENED_IMAGES, self.orders.num_images)
        images = [samples[index, side, side][0] for index in self.orders.images(0, range(count))]
        planes = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return self._normalize(planes.to(self.context.device)).cpu()


def _gib(num_images: int, config: TrainConfig) -> float:
    """GiB that so many images take when they are decoded."""
    return decoded_bytes(num_images, config.data.image_size) / 2**30


def _not_decoded(augment: AugmentConfig) -> list[str]:
    """The settings in force that `DecodedBatches` has no part in."""
    ignored = (*DECODED, "execute", *(path.partition(".")[2] for path in UNUSED))
    names = [field.name for field in fields(augment) if field.name not in ignored]
    return [name for name in names if getattr(augment, name)]
