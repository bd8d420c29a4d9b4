"""Images and boxes put through a plan: plain numbers first (`SamplePlan`), pixels second (`execute`).

Coordinates are continuous: pixel i covers [i, i + 1), so that pixels and boxes follow one matrix.
Each output pixel is resampled once, straight from a decoded image; there is no canvas in between.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from trainjobs.data.images import JPEG_REDUCTIONS, RgbImage

FILL = 114
"""Gray of whatever no image covers, as in YOLOv5."""

# When a box survives an augmentation. Source: recipe.md, section 2, "Augment order".
MIN_BOX_SIDE_PX = 2.0
MIN_AREA_KEPT = 0.1
MAX_BOX_ASPECT = 100.0

# Bilinear sampling reads 2 x 2 pixels, so shrinking by more than 2 would skip pixels.
MIN_BILINEAR_SCALE = 0.5

_HUES = 180  # OpenCV's 8-bit hue counts in steps of two degrees
_LEVELS = np.arange(256.0)[:, None]

Rect = tuple[float, float, float, float]
"""x1, y1, x2, y2."""
Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Affine map of (x, y, 1)."""


class ImageSource(Protocol):
    """What `execute` reads from; a `schema.Split`, or images without labels."""

    def read_image(self, index: int, reduce: int = 1) -> RgbImage:
        """The image, upright; a JPEG may come at ceil(side / reduce)."""

    def labels(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes (n,) and boxes_cxcywh_norm (n, 4)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TilePlan:
    """Where one source image goes in the output."""

    index: int
    """Of the image in its split."""
    height: int
    """Of the source image, in px."""
    width: int
    matrix: Matrix
    """From source px to output px."""
    source_rect: Rect
    """Part of the source, in px, that may show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplePlan:
    """How one network input is made."""

    height: int
    """Of the output, in px."""
    width: int
    tiles: tuple[TilePlan, ...]
    hsv_gains: tuple[float, float, float] | None = None
    """Factors on hue, saturation and value."""
    is_augmented: bool = False
    """Boxes of which too little is left are dropped, and moderate shrinking is bilinear (as
    YOLOv5 trains); otherwise every box stays and shrinking averages."""


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
    matrix = ((new_width / width, 0.0, left), (0.0, new_height / height, top))
    rect = (0.0, 0.0, float(width), float(height))
    tile = TilePlan(index=index, height=height, width=width, matrix=matrix, source_rect=rect)
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
        lowest, highest = aspects[members[0]], aspects[members[-1]]
        ratios = (min(highest, 1.0), min(1 / lowest, 1.0))
        height, width = (math.ceil(r * image_size / stride + 0.5) * stride for r in ratios)
        batches.append((members.tolist(), (height, width)))
    return batches


def execute(plan: SamplePlan, source: ImageSource) -> tuple[RgbImage, NDArray[np.float32]]:
    """Make the planned image and its labels.

    Returns:
        (H, W, 3) uint8 RGB, and (n, 5) float32 rows of class, cx, cy, w, h as fractions of the
        output.

    Raises:
        DatasetError: A source image is gone or damaged; names it.
    """
    image: RgbImage = np.full((plan.height, plan.width, 3), FILL, np.uint8)
    for tile in plan.tiles:
        _draw_tile(image, tile, source, MIN_BILINEAR_SCALE if plan.is_augmented else 1.0)
    if plan.hsv_gains is not None:
        image = _scale_hsv(image, plan.hsv_gains)
    return image, _place_labels(plan, source)


def _draw_tile(image: RgbImage, tile: TilePlan, source: ImageSource, min_scale: float) -> None:
    """Warp the visible part of one source image into the output, in place."""
    # A pixel belongs to the tile that its center lies in, so that neighbors meet without a seam.
    x1, y1, x2, y2 = (math.ceil(edge - 0.5) for edge in _bounds(tile))
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, image.shape[1]), min(y2, image.shape[0])
    if x1 >= x2 or y1 >= y2:
        return
    pixels, step_x, step_y = _read_at_scale(tile, source, min_scale)
    rows = []
    for (along_x, along_y, shift), start in zip(tile.matrix, (x1, y1), strict=True):
        x, y = along_x * step_x, along_y * step_y
        # OpenCV puts the center of pixel i at i, we at i + 1/2.
        rows.append((x, y, shift - start + (x + y - 1) / 2))
    drawn = cv2.warpAffine(
        pixels,
        np.array(rows),
        (x2 - x1, y2 - y1),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    part = image[y1:y2, x1:x2]
    if tile.matrix[0][1] == tile.matrix[1][0] == 0:
        part[:] = drawn
    else:
        np.copyto(part, drawn, where=_is_inside(tile, (x1, y1, x2, y2))[..., None])


def _bounds(tile: TilePlan) -> Rect:
    """The upright rectangle of the output that encloses what a tile may show."""
    x1, y1, x2, y2 = tile.source_rect
    middle_x, middle_y, half_x, half_y = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    low, high = [], []
    for along_x, along_y, shift in tile.matrix:
        middle = along_x * middle_x + along_y * middle_y + shift
        half = abs(along_x) * half_x + abs(along_y) * half_y
        low.append(middle - half)
        high.append(middle + half)
    return low[0], low[1], high[0], high[1]


def _area_factor(matrix: Matrix) -> float:
    (a, b, _), (c, d, _) = matrix
    return abs(a * d - b * c)


def _read_at_scale(
    tile: TilePlan, source: ImageSource, min_scale: float
) -> tuple[RgbImage, float, float]:
    """Decode a tile's image no larger than needed, and average it down if it is still too large.

    Returns:
        The pixels, and how many source px one of them spans along x and y.
    """
    scale = math.sqrt(_area_factor(tile.matrix))
    reduce = next((factor for factor in JPEG_REDUCTIONS if scale * factor <= 1), 1)
    pixels = source.read_image(tile.index, reduce)
    height, width = pixels.shape[:2]
    step = 1.0 if (height, width) == (tile.height, tile.width) else float(reduce)
    if scale * step >= min_scale:
        return pixels, step, step
    new_width, new_height = (max(round(side * scale * step), 1) for side in (width, height))
    shrunk = cv2.resize(pixels, (new_width, new_height), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8), step * width / new_width, step * height / new_height


def _is_inside(tile: TilePlan, window: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Which pixels of an output window have their center in the tile's part of the source."""
    x1, y1, x2, y2 = window
    inverse: list[list[float]] = np.linalg.inv([*tile.matrix, (0, 0, 1)]).tolist()
    columns = np.arange(x1, x2, dtype=np.float32) + np.float32(0.5)
    rows = np.arange(y1, y2, dtype=np.float32)[:, None] + np.float32(0.5)
    inside = np.ones((y2 - y1, x2 - x1), bool)
    for axis in (0, 1):
        along_x, along_y, shift = inverse[axis]
        place = along_x * columns + (along_y * rows + shift)
        inside &= (place >= tile.source_rect[axis]) & (place < tile.source_rect[axis + 2])
    return inside


def _place_labels(plan: SamplePlan, source: ImageSource) -> NDArray[np.float32]:
    """Labels (n, 5) of all tiles in the output, without the boxes that the plan drops."""
    found = [source.labels(tile.index) for tile in plan.tiles]
    classes = np.concatenate([classes for classes, _ in found])
    boxes = np.concatenate([boxes for _, boxes in found]).astype(np.float64)
    # Per box its tile's size, rectangle, and linear part and shift of its matrix.
    table = np.array([_tile_row(tile) for tile in plan.tiles])
    table = table.repeat([len(classes) for classes, _ in found], axis=0)  # (n, 12)
    sides, rect, linear, shift = table[:, :2], table[:, 2:6], table[:, 6:10], table[:, 10:]

    centers, halves = boxes[:, :2] * sides, boxes[:, 2:] * sides / 2
    low = np.clip(centers - halves, rect[:, :2], rect[:, 2:])
    high = np.clip(centers + halves, rect[:, :2], rect[:, 2:])
    area = (high - low).prod(axis=1) * np.abs(
        linear[:, 0] * linear[:, 3] - linear[:, 1] * linear[:, 2]
    )
    linear = linear.reshape(-1, 2, 2)
    # The upright box round a mapped box: its center is mapped, its half sides by absolute values.
    centers = (linear * ((low + high) / 2)[:, None]).sum(axis=2) + shift
    halves = (np.abs(linear) * ((high - low) / 2)[:, None]).sum(axis=2)
    output = (plan.width, plan.height)
    low, high = np.clip(centers - halves, 0, output), np.clip(centers + halves, 0, output)

    placed = np.hstack([classes[:, None], (low + high) / 2 / output, (high - low) / output])
    rows: NDArray[np.float32] = placed[_is_kept(high - low, area, plan)].astype(np.float32)
    return rows


def _tile_row(tile: TilePlan) -> tuple[float, ...]:
    (a, b, x), (c, d, y) = tile.matrix
    return (tile.width, tile.height, *tile.source_rect, a, b, c, d, x, y)


def _is_kept(
    sides_px: NDArray[np.float64], area: NDArray[np.float64], plan: SamplePlan
) -> NDArray[np.bool_]:
    """Which boxes stay, by their sides (n, 2) in the output and their area (n,) before it cut them."""
    shortest, longest = sides_px.min(axis=1), sides_px.max(axis=1)
    kept: NDArray[np.bool_] = shortest > 0
    if plan.is_augmented:
        kept &= shortest > MIN_BOX_SIDE_PX
        kept &= shortest * longest > MIN_AREA_KEPT * area
        kept &= longest < MAX_BOX_ASPECT * shortest
    return kept


def _scale_hsv(image: RgbImage, gains: tuple[float, float, float]) -> RgbImage:
    """Scale hue (on its circle), saturation and value through tables, in 8 bits."""
    scaled = _LEVELS * gains  # (256, 3)
    scaled[:, 0] %= _HUES
    table = np.minimum(scaled, 255).astype(np.uint8)[None]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.LUT(hsv, table, dst=hsv)
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=image)
    return image
