"""What a sample plan says: which images, where, cut how, colored how. Plain numbers, no pixels.

Coordinates are continuous: pixel i covers [i, i + 1), so that pixels and boxes follow one matrix.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.images import JPEG_REDUCTIONS, RgbImage

Rect = tuple[float, float, float, float]
"""x1, y1, x2, y2."""
PixelRect = tuple[int, int, int, int]
"""The same in whole pixels: rows y1 to y2 - 1, columns x1 to x2 - 1."""
Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Affine map of (x, y, 1)."""

NO_PERSPECTIVE = (0.0, 0.0, 1.0)
"""The depth of a tile that is parallel to the output: 1 everywhere."""

Shape = tuple[int, int]
"""Height and width in px of a batch."""
EVAL_MARGIN = 0.5
"""Strides of padding that a batch has besides what its images need. Source: recipe.md, section 2."""


class LabelSource(Protocol):
    """The objects in each image of a split."""

    def labels(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes (n,) and boxes_cxcywh_norm (n, 4)."""

    def outlines(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
        """Points (m, 2), as fractions, of the outlines of all objects, one after the other.

        Returns:
            They, and how many points each object has (n,), 0 for none; None where none has any.
        """


class ImageSource(LabelSource, Protocol):
    """What a plan is executed on, such as a `shards.Split`."""

    def read_image(self, index: int, reduce: int = 1) -> RgbImage:
        """The image, upright; a JPEG may come at ceil(side / reduce)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TilePlan:
    """Where one source image goes in the output."""

    index: int
    """Of the image in its split."""
    height: int
    """Of the source image, in px."""
    width: int
    reduce: int = 1
    """By which a JPEG is shrunk while it is decoded."""
    matrix: Matrix
    """From source px to output px, times the depth there."""
    depth: tuple[float, float, float] = NO_PERSPECTIVE
    """Factors of (x, y, 1) in source px; positive in all of `source_rect`. 1: no perspective."""
    source_rect: Rect
    """Part of the source, in px, that may show."""
    window: PixelRect
    """Part of the output that it may cover."""
    crop: PixelRect | None = None
    """Part of the source, in px, that fills `window` exactly, so that it is resized, not warped;
    edges are multiples of `reduce`. None: the tile is warped."""

    @property
    def has_perspective(self) -> bool:
        """Whether parallel lines may meet."""
        return self.depth != NO_PERSPECTIVE


@dataclass(frozen=True, kw_only=True, slots=True)
class PastePlan:
    """One object of a sample drawn once more, mirrored, over the sample's tiles.

    A pixel of the output shows the paste's tile if its center lies in `tile.window`, and in
    `outline` by the even-odd rule (`paste.outline_mask`).
    """

    tile: TilePlan
    """The object's image as it lies in the sample, mirrored about the middle of the output. Its
    window is what can show of the object; it is warped, never resized."""
    outline: tuple[tuple[float, float], ...]
    """x and y in output px of the corners of what shows of the object."""
    box: Rect
    """The bounds of that, in output px: the label's box."""
    class_id: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ColorPlan:
    """What is done to the colors of a whole sample, in this order."""

    blur_px: int = 0
    """Side of the averaging square. 0: none."""
    is_gray: bool = False
    clahe_limit: float = 0.0
    """Clip limit of adaptive histogram equalization. 0: none."""
    hsv_gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors on hue, saturation and value; see `color.change_colors`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplePlan:
    """How one network input is made."""

    height: int
    """Of the output, in px."""
    width: int
    tiles: tuple[TilePlan, ...]
    pastes: tuple[PastePlan, ...] = ()
    """Drawn over the tiles, in this order, before anything is mixed in; boxes below them stay."""
    mixed: "SamplePlan | None" = None
    """Drawn on its own and averaged with the tiles; all its boxes count."""
    mixed_share: float = 0.0
    """Weight of `mixed` in the average."""
    color: ColorPlan = ColorPlan()
    holes: tuple[PixelRect, ...] = ()
    """Parts of the output that are painted over."""
    is_augmented: bool = False
    """Boxes of which too little is left are dropped, and moderate shrinking is bilinear (as
    YOLOv5 trains); otherwise every box stays and shrinking averages."""


def jpeg_reduction(scale: float) -> int:
    """The largest reduction of a JPEG that leaves at least `scale` of its size."""
    return next((factor for factor in JPEG_REDUCTIONS if scale * factor <= 1), 1)


def plan_letterbox(
    index: int, height: int, width: int, *, image_size: int, out_height: int, out_width: int
) -> SamplePlan:
    """Fit a whole image into the middle of the output, without distortion.

    Args:
        index: Of the image in its split.
        height: Of the source image, in px.
        width: Of the source image, in px.
        image_size: Px that the longest side is scaled to, up or down, if the output has room.
        out_height: Px, may exceed image_size (see `eval_shapes`).
        out_width: Px, likewise.
    """
    scale = min(image_size / max(height, width), out_height / height, out_width / width)
    # Whole pixels, so that the image is resized, not resampled between pixels.
    new_height, new_width = max(round(height * scale), 1), max(round(width * scale), 1)
    top, left = (out_height - new_height) // 2, (out_width - new_width) // 2
    reduce = jpeg_reduction(math.sqrt(new_width / width * new_height / height))
    is_even = height % reduce == width % reduce == 0
    tile = TilePlan(
        index=index,
        height=height,
        width=width,
        reduce=reduce,
        matrix=((new_width / width, 0.0, left), (0.0, new_height / height, top)),
        source_rect=(0.0, 0.0, float(width), float(height)),
        window=(left, top, left + new_width, top + new_height),
        crop=(0, 0, width, height) if is_even else None,
    )
    return SamplePlan(height=out_height, width=out_width, tiles=(tile,))


def eval_shapes(
    sizes: NDArray[np.int32], image_size: int, stride: int, batch: int
) -> list[tuple[list[int], tuple[int, int]]]:
    """Cut a split into batches of images of like aspect, each with the least padding.

    Args:
        sizes: (N, 2) height and width in px.
        image_size: Px of the longest side.
        stride: The network's largest, in px.
        batch: Images in a batch.

    Returns:
        Per batch the images' indices and the batch's height and width in px.

    Source: recipe.md, section 2, "Load": shape = ceil(ratio * image_size / stride + 0.5) * stride.
    """
    aspects = sizes[:, 0] / sizes[:, 1]
    order = np.argsort(aspects, kind="stable")
    batches = []
    for start in range(0, len(order), batch):
        members = order[start : start + batch]
        shape = fitting_shape(sizes[members], image_size, stride, EVAL_MARGIN)
        batches.append((members.tolist(), shape))
    return batches


def fitting_shape(sizes: NDArray[np.int32], image_size: int, stride: int, margin: float) -> Shape:
    """The least shape in which images fit whose longest side is scaled to `image_size`.

    Args:
        sizes: (n, 2) their heights and widths in px.
        image_size: Px.
        stride: Of which both sides are multiples, in px.
        margin: Strides besides what the images need, before sides are rounded up.
    """
    aspects = sizes[:, 0] / sizes[:, 1]
    ratios = (min(aspects.max(), 1.0), min(1 / aspects.min(), 1.0))
    height, width = (math.ceil(r * image_size / stride + margin) * stride for r in ratios)
    return height, width
