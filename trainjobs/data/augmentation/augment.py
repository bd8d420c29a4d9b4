"""Images and boxes put through a plan: `execute` makes the pixels that a `SamplePlan` describes.

Each output pixel is resampled once, straight from a decoded image; there is no canvas in between.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from trainjobs.data.augmentation.color import change_colors
from trainjobs.data.augmentation.paste import outline_mask
from trainjobs.data.augmentation.placement import place_labels
from trainjobs.data.augmentation.sample_plan import (
    ImageSource,
    PixelRect,
    Rect,
    SamplePlan,
    TilePlan,
)
from trainjobs.data.images import RgbImage

FILL = 114
"""Gray of whatever no image covers, as in YOLOv5."""

# Bilinear sampling reads 2 x 2 pixels, so shrinking by more than 2 would skip pixels.
MIN_BILINEAR_SCALE = 0.5

_FLIPS = {(False, False): None, (True, False): 1, (False, True): 0, (True, True): -1}
"""OpenCV's code of a mirroring along x, along y."""


def execute(plan: SamplePlan, source: ImageSource) -> tuple[RgbImage, NDArray[np.float32]]:
    """Make the planned image and its labels.

    Returns:
        (H, W, 3) uint8 RGB, a view of planes (3, H, W), and (n, 5) float32 rows of class, cx, cy,
        w, h as fractions of the output.

    Raises:
        DatasetError: A source image is gone or damaged; names it.
    """
    planes = change_colors(_draw(plan, source), plan.color)
    for x1, y1, x2, y2 in plan.holes:
        planes[:, y1:y2, x1:x2] = FILL
    return planes.transpose(1, 2, 0), place_labels(plan, source)


def _draw(plan: SamplePlan, source: ImageSource) -> RgbImage:
    image: RgbImage = np.full((plan.height, plan.width, 3), FILL, np.uint8)
    min_scale = MIN_BILINEAR_SCALE if plan.is_augmented else 1.0
    for tile in plan.tiles:
        if tile.window[0] >= tile.window[2]:
            continue
        if tile.crop is not None:
            _resize_tile(image, tile, tile.crop, source, min_scale)
        else:
            _warp_tile(image, tile, source, min_scale)
    for paste in plan.pastes:
        _warp_tile(image, paste.tile, source, min_scale, outline_mask(paste))
    if plan.mixed is not None:
        other = _draw(plan.mixed, source)
        cv2.addWeighted(image, 1 - plan.mixed_share, other, plan.mixed_share, 0, dst=image)
    return image


def _resize_tile(
    image: RgbImage, tile: TilePlan, crop: PixelRect, source: ImageSource, min_scale: float
) -> None:
    """Fill a window of the output with a part of one source image, in place.

    `resize` reads the same places as `warpAffine`, in a quarter of its time.
    """
    pixels = source.read_image(tile.index, tile.reduce)
    step = 1 if pixels.shape[:2] == (tile.height, tile.width) else tile.reduce
    x1, y1, x2, y2 = (edge // step for edge in crop)
    part = pixels[y1:y2, x1:x2]
    x1, y1, x2, y2 = tile.window
    window = image[y1:y2, x1:x2]
    shrinks = window.size < min_scale**2 * part.size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    flip = _FLIPS[tile.matrix[0][0] < 0, tile.matrix[1][1] < 0]
    size = (x2 - x1, y2 - y1)
    if flip is None:
        cv2.resize(part, size, dst=window, interpolation=method)
    else:
        cv2.flip(cv2.resize(part, size, interpolation=method), flip, dst=window)


def _warp_tile(
    image: RgbImage,
    tile: TilePlan,
    source: ImageSource,
    min_scale: float,
    mask: NDArray[np.uint8] | None = None,
) -> None:
    """Warp the visible part of one source image into the output, in place; where a mask of the tile's
    window is, there alone."""
    to_output = np.array([*tile.matrix, tile.depth])
    # A pixel belongs to the tile that its center lies in, so that neighbors meet without a seam.
    window = overlap(bounds(tile.source_rect, to_output), tile.window)
    x1, y1, x2, y2 = window
    if x1 >= x2 or y1 >= y2:
        return
    pixels, step_x, step_y = _read_at_scale(tile, source, middle_scale(tile, to_output), min_scale)
    # OpenCV puts the center of pixel i at i, we at i + 1/2.
    from_pixel = np.array([[step_x, 0, step_x / 2], [0, step_y, step_y / 2], [0, 0, 1]])
    to_pixel = np.array([[1, 0, -x1 - 0.5], [0, 1, -y1 - 0.5], [0, 0, 1]])
    matrix = to_pixel @ to_output @ from_pixel
    size, border = (x2 - x1, y2 - y1), cv2.BORDER_REPLICATE
    if tile.has_perspective:
        drawn = cv2.warpPerspective(pixels, matrix, size, borderMode=border)
    else:
        drawn = cv2.warpAffine(pixels, matrix[:2], size, borderMode=border)
    part = image[y1:y2, x1:x2]
    shown = None
    if to_output[0, 1] != 0 or to_output[1, 0] != 0 or tile.has_perspective:
        shown = _is_inside(tile, np.linalg.inv(to_output), window)
    if mask is not None:
        left, top = tile.window[:2]
        covered = mask[y1 - top : y2 - top, x1 - left : x2 - left] > 0
        shown = covered if shown is None else shown & covered
    if shown is None:
        part[:] = drawn
    else:
        np.copyto(part, drawn, where=shown[..., None])


def bounds(rect: Rect, matrix: NDArray[np.float64]) -> PixelRect:
    """The pixels whose centers lie in the upright rectangle round a mapped one."""
    x1, y1, x2, y2 = rect
    corners = matrix @ np.array([[x1, x2, x1, x2], [y1, y1, y2, y2], [1, 1, 1, 1]])
    x, y = (corners[:2] / corners[2]).tolist()
    left, top, right, bottom = (math.ceil(edge - 0.5) for edge in (min(x), min(y), max(x), max(y)))
    return left, top, right, bottom


def overlap(one: PixelRect, other: PixelRect) -> PixelRect:
    """What two rectangles share; without area if they do not meet."""
    return (
        max(one[0], other[0]),
        max(one[1], other[1]),
        min(one[2], other[2]),
        min(one[3], other[3]),
    )


def middle_scale(tile: TilePlan, to_output: NDArray[np.float64]) -> float:
    """Output px to a source px in the middle of what may show, as the root of the areas' ratio."""
    x1, y1, x2, y2 = tile.source_rect
    depth = float(to_output[2] @ ((x1 + x2) / 2, (y1 + y2) / 2, 1))
    return math.sqrt(abs(float(np.linalg.det(to_output)) / depth**3))


def _read_at_scale(
    tile: TilePlan, source: ImageSource, scale: float, min_scale: float
) -> tuple[RgbImage, float, float]:
    """Decode a tile's image, and average it down if it is still much larger than it will show.

    Returns:
        The pixels, and how many source px one of them spans along x and y.
    """
    pixels = source.read_image(tile.index, tile.reduce)
    height, width = pixels.shape[:2]
    step = 1.0 if (height, width) == (tile.height, tile.width) else float(tile.reduce)
    if scale * step >= min_scale:
        return pixels, step, step
    new_width, new_height = (max(round(side * scale * step), 1) for side in (width, height))
    shrunk = cv2.resize(pixels, (new_width, new_height), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8), step * width / new_width, step * height / new_height


def _is_inside(
    tile: TilePlan, to_source: NDArray[np.float64], window: PixelRect
) -> NDArray[np.bool_]:
    """Which pixels of an output window have their center in the tile's part of the source."""
    x1, y1, x2, y2 = window
    columns = np.arange(x1, x2, dtype=np.float32) + np.float32(0.5)
    rows = np.arange(y1, y2, dtype=np.float32)[:, None] + np.float32(0.5)
    x, y, z = (
        np.float32(along_x) * columns + (np.float32(along_y) * rows + np.float32(shift))
        for along_x, along_y, shift in to_source
    )
    left, top, right, bottom = map(np.float32, tile.source_rect)
    # Compared without a division; z is positive wherever the picture lies before the camera.
    inside: NDArray[np.bool_] = (
        (x >= left * z) & (x < right * z) & (y >= top * z) & (y < bottom * z)
    )
    return inside
