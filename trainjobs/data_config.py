"""The settings below `data.` and `augment.`: which images, and how they are changed for training."""

from dataclasses import dataclass, fields
from typing import Literal

from trainjobs.ranges import check_range
from trainjobs.weighted_source import parse_weighted


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which images, at which size, read how."""

    source: str | None = None
    """A packed dataset, by folder or URI, or a data.yaml. Default: one that the run generates."""
    also: tuple[str, ...] = ()
    """Further datasets to train on, each SOURCE or SOURCE#WEIGHT: an image comes WEIGHT (1) times an
    epoch, 0.5 every other epoch. Their classes are found by name among those of source."""
    image_size: int = 640
    """Side of the square training image in px; a multiple of the model's largest stride."""
    rect: bool = False
    """Train on rectangles: images of like aspect share a micro-batch, with the least padding. There
    is no mosaic then, and no mixup."""
    multi_scale: float = 0.0
    """The side of each micro-batch is drawn from image_size times [1 - multi_scale, 1 + multi_scale].
    YOLOv5's flag means 0.5."""
    shuffle_shards: int = 256
    """Shards of the training split that are shuffled as a whole. Of more, so many are in use at a
    time, shared out over the nodes: a node's cache must hold its part (docs/data.md)."""
    image_weights: bool = False
    """Draw images with rare classes more often: as if first a class were drawn, then a box of it."""
    loader_workers: int | Literal["auto"] = "auto"
    """Data-loading threads per rank. `auto`: min(node CPUs / ranks on it, 8); 0 for batches of one."""
    max_bad_fraction: float = 0.05
    """Largest fraction of unusable images in a split before the run stops (at least 10 images)."""
    cache_gib: float = 50.0
    """GiB of fetched shards that a node keeps, for all runs, and again of the datasets that were packed
    or decoded there; of these, what a run uses stays in any case."""
    decoded_gib: float = 4.0
    """A classifier's images are decoded once, at image_size, if a split takes no more GiB than this: in
    the cache of each node, and on each GPU. Else, and with 0, they are decoded each time."""
    generated_images: int = 640
    """Training images of the generated dataset."""

    def __post_init__(self) -> None:
        for text in self.also:
            parse_weighted(text, "data.also")
        check_range("data.image_size", self.image_size, 32)
        check_range("data.multi_scale", self.multi_scale, 0, 0.9)
        check_range("data.shuffle_shards", self.shuffle_shards, 1)
        if self.loader_workers != "auto":
            check_range("data.loader_workers", self.loader_workers, 0)
        check_range("data.max_bad_fraction", self.max_bad_fraction, 0, 1)
        check_range("data.cache_gib", self.cache_gib, 0)
        check_range("data.decoded_gib", self.decoded_gib, 0)
        check_range("data.generated_images", self.generated_images, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Random changes to training images; each is keyed by (seed, epoch, position in the order)."""

    execute: Literal["auto", "cpu", "device"] = "auto"
    """Where pixels are made. `device`: a batch at a time, where the model is, JPEGs too if that is a
    GPU; `cpu`: by the loader's threads. `auto`: device on a GPU, else cpu (docs/data.md)."""
    mosaic: float = 1.0
    """Probability that an image becomes a mosaic of four."""
    mosaic_nine: float = 0.0
    """Probability that a mosaic is made of nine images."""
    mosaic_window: int = 256
    """A mosaic's other images come from so many round it in the epoch's order, so that each is decoded
    once for several mosaics; small windows cost mAP. 0: the whole dataset."""
    mixup: float = 0.0
    """Probability that a mosaic is averaged with another one."""
    close_mosaic: int = 10
    """Final epochs without mosaic. 0: mosaic to the end."""
    degrees: float = 0.0
    """Largest rotation, in degrees either way."""
    translate: float = 0.1
    """Largest shift, as a fraction of the image side."""
    scale: float = 0.5
    """Zoom is drawn from [1 - scale, 1 + scale]."""
    shear: float = 0.0
    """Largest shear, in degrees either way."""
    copy_paste: float = 0.0
    """Probability that an object with a polygon is pasted once more, mirrored, where it covers less
    than 30 % of any box."""
    perspective: float = 0.0
    """Largest tilt: depth changes by this fraction per px. YOLOv5 uses up to 0.001."""
    hsv_h: float = 0.015
    """Largest turn of the hue, as a fraction of half a circle."""
    hsv_s: float = 0.7
    """Largest relative change of saturation."""
    hsv_v: float = 0.4
    """Largest relative change of value (brightness)."""
    flip_vertical: float = 0.0
    """Probability of an upside-down flip."""
    flip_horizontal: float = 0.5
    """Probability of a left-right flip."""
    alternate_flip: bool = False
    """A classifier's decoded image is mirrored every other epoch, from a random start, rather than by
    chance; instead of flip_horizontal."""
    blur: float = 0.0
    """Probability of averaging over 3, 5 or 7 px."""
    gray: float = 0.0
    """Probability of losing all color."""
    clahe: float = 0.0
    """Probability of adaptive histogram equalization (CLAHE)."""
    cutout: float = 0.0
    """Probability of painting rectangles over parts of the image; a box covered by more than 60 % is
    dropped."""

    def __post_init__(self) -> None:
        highest = {  # the others are probabilities and shares
            "close_mosaic": float("inf"), "mosaic_window": float("inf"), "perspective": 0.01,
            "degrees": 180.0, "translate": 0.9, "scale": 0.99, "shear": 60.0,
        }  # fmt: skip
        for setting in fields(self):
            if setting.name in ("execute", "alternate_flip"):
                continue
            high = highest.get(setting.name, 1.0)
            check_range(f"augment.{setting.name}", getattr(self, setting.name), 0, high)
