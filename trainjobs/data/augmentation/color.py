"""Changes of a whole image's colors, in 8 bits."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from trainjobs.data.augmentation.sample_plan import ColorPlan
from trainjobs.data.images import RgbImage

CLAHE_TILES = (8, 8)
"""Tiles of adaptive histogram equalization along x and y."""

_CROSS = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
"""Cross product with the gray axis, (1, 1, 1) / sqrt(3)."""


def change_colors(image: RgbImage, plan: ColorPlan) -> NDArray[np.uint8]:
    """The planned changes of an image (H, W, 3), which is written to.

    Returns:
        Planes (3, H, W): what a network reads, and faster to work on than pixels.
    """
    if plan.blur_px:
        image = np.asarray(cv2.blur(image, (plan.blur_px, plan.blur_px)), np.uint8)
    if plan.is_gray:
        image = np.repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[..., None], 3, axis=2)
    if plan.clahe_limit:
        image = _equalize(image, plan.clahe_limit)
    hue, saturation, value = plan.hsv_gains
    if hue != 1:
        cv2.transform(image, hue_rotation(hue), dst=image)
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, list(planes))
    if (saturation, value) != (1, 1):
        _scale_saturation_and_value(planes, saturation, value)
    return planes


def hue_rotation(gain: float) -> NDArray[np.float64]:
    """Turn (3, 3) of RGB about the gray axis, by (gain - 1) 180 degrees.

    Source: Rodrigues' rotation formula. YOLOv5 multiplies a hue, in degrees, by the gain, so that
    it turns by (gain - 1) times the hue, which is 180 degrees in the middle.
    """
    angle = math.pi * (gain - 1)
    turn: NDArray[np.float64] = (
        math.cos(angle) * np.eye(3) + (1 - math.cos(angle)) / 3 + math.sin(angle) * _CROSS
    )
    return turn


def _scale_saturation_and_value(planes: NDArray[np.uint8], saturation: float, value: float) -> None:
    """In place, what the gains do in HSV, in half the time of a way there and back.

    With V = max(R, G, B), a channel of a given hue is V less a part that grows with saturation and
    value. So it becomes min(v V, 255) - v s (V - channel). That differs from HSV where V is cut
    (saturation then grows by up to v) or where the saturation would exceed 1.
    """
    brightest = cv2.max(cv2.max(planes[0], planes[1]), planes[2])
    scaled, missing = cv2.convertScaleAbs(brightest, alpha=value), np.empty_like(planes[0])
    for plane in planes:
        cv2.subtract(brightest, plane, dst=missing)
        cv2.convertScaleAbs(missing, alpha=value * saturation, dst=missing)
        cv2.subtract(scaled, missing, dst=plane)


def _equalize(image: RgbImage, limit: float) -> RgbImage:
    """Adaptive histogram equalization of the lightness."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(limit, CLAHE_TILES).apply(lab[..., 0])
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)
