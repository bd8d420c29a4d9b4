"""Colors: gains act as they do in HSV; what is off changes nothing."""

import cv2
import numpy as np
import pytest

from trainjobs.data.augmentation.color import change_colors, hue_rotation
from trainjobs.data.augmentation.sample_plan import ColorPlan


def make_picture(low: int = 0, high: int = 256) -> np.ndarray:
    small = np.random.default_rng(0).integers(low, high, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(small, (128, 96), interpolation=cv2.INTER_NEAREST)


def changed(picture: np.ndarray, plan: ColorPlan) -> np.ndarray:
    return change_colors(picture.copy(), plan).transpose(1, 2, 0)


def through_hsv(picture: np.ndarray, gains: tuple[float, float, float]) -> np.ndarray:
    hsv = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2HSV) * np.float32(gains)
    return 255 * cv2.cvtColor(np.minimum(hsv, [360, 1, 1]).astype(np.float32), cv2.COLOR_HSV2RGB)


def test_a_plan_that_changes_nothing_gives_the_planes_of_the_image() -> None:
    picture = make_picture()
    planes = change_colors(picture, ColorPlan())
    assert planes.flags.c_contiguous and (planes == picture.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("gains", [(1, 0.3, 1), (1, 1.7, 1), (1, 1, 0.6), (1, 1.4, 0.8)])
def test_saturation_and_value_change_as_in_hsv(gains: tuple[float, float, float]) -> None:
    picture = make_picture(130, 200)  # no saturation above 1, no value above 255
    difference = changed(picture, ColorPlan(hsv_gains=gains)) - through_hsv(picture, gains)
    assert np.abs(difference).max() <= 2  # two roundings to 8 bits


def test_a_value_beyond_white_keeps_its_hue() -> None:
    picture = np.full((4, 4, 3), (250, 200, 230), np.uint8)
    red, green, blue = changed(picture, ColorPlan(hsv_gains=(1, 1, 1.4)))[0, 0].astype(int)
    assert red == 255
    assert abs((red - green) / (red - blue) - 50 / 20) < 0.1


def test_a_turn_of_the_hue_keeps_gray_and_goes_as_far_as_in_hsv() -> None:
    gray = np.full((4, 4, 3), 90, np.uint8)
    assert (changed(gray, ColorPlan(hsv_gains=(1.4, 1, 1))) == 90).all()
    cyan = np.full((4, 4, 3), (100, 150, 150), np.uint8)  # a hue of 180 degrees
    gains = (1.02, 1, 1)
    difference = changed(cyan, ColorPlan(hsv_gains=gains)) - through_hsv(cyan, gains)
    assert np.abs(difference).max() <= 2
    assert np.allclose(hue_rotation(1.2) @ hue_rotation(0.8), np.eye(3))


def test_gray_has_equal_channels_and_blur_averages() -> None:
    gray = changed(make_picture(), ColorPlan(is_gray=True))
    assert (gray == gray[..., :1]).all()
    dot = np.zeros((9, 9, 3), np.uint8)
    dot[4, 4] = 90
    blurred = changed(dot, ColorPlan(blur_px=3))[..., 0]
    assert (blurred[3:6, 3:6] == 10).all() and blurred.sum() == 90


def test_equalizing_widens_contrast() -> None:
    picture = make_picture(100, 140)
    assert changed(picture, ColorPlan(clahe_limit=4.0)).std() > 1.3 * picture.std()
