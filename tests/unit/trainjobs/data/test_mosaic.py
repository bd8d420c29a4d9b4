"""Plans of training samples: functions of (seed, epoch, position), within their ranges."""

import dataclasses
import pickle

import numpy as np
import pytest

from trainjobs.config import AugmentConfig
from trainjobs.data.augmentation.mosaic import TrainingImages, plan_training_sample
from trainjobs.data.augmentation.random_warp import NEAREST
from trainjobs.data.augmentation.sample_plan import SamplePlan
from trainjobs.data.ordering.nearby import round_about

SIZES = np.array([[60, 80], [80, 60], [64, 64], [30, 90], [100, 50]], np.int32)
STILL = AugmentConfig(translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, flip_horizontal=0)


class NoLabels:
    """Images without an object."""

    def labels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(0, np.int64), np.zeros((0, 4), np.float32)

    def outlines(self, index: int) -> None:
        return None


def sized(sizes: np.ndarray, window: int = 1000) -> TrainingImages:
    return TrainingImages(
        size=lambda image: tuple(sizes[image].tolist()),
        near=lambda position: round_about(position, 1000, window),
        at=lambda places: [at % 5 for at in places],
        labels=NoLabels(),
    )


IMAGES = sized(SIZES)
SNAP = 1.0
"""Px by which a tile may move to fill whole pixels: half an output px, and half a source px."""


def plan(position: int = 0, config: AugmentConfig | None = None, **changes) -> SamplePlan:
    arguments = {"seed": 1, "epoch": 2, "index": 0, "mosaic": True, "images": IMAGES} | changes
    return plan_training_sample(
        position=position,
        image_size=64,
        config=config or AugmentConfig(),
        **arguments,
    )


def test_a_plan_is_a_function_of_its_arguments() -> None:
    assert plan(3) == plan(3)
    assert pickle.loads(pickle.dumps(plan(3))) == plan(3)


def test_seed_epoch_and_position_each_change_the_plan() -> None:
    plans = [plan(), plan(1), plan(seed=2), plan(epoch=3)]
    assert len({repr(each) for each in plans}) == 4


def test_the_largest_seed_is_accepted() -> None:
    assert plan(seed=2**32 - 1) != plan()


def test_a_mosaic_has_four_tiles_of_which_one_is_the_image() -> None:
    for position in range(20):
        indices = [tile.index for tile in plan(position, index=3).tiles]
        assert len(indices) == 4
        assert 3 in indices


@pytest.mark.parametrize("window", [1000, 10])
def test_partners_come_evenly_from_their_window_and_every_place(window: int) -> None:
    images = sized(SIZES, window)
    tiles = [plan(position, index=2, images=images).tiles for position in range(200)]
    partners = np.bincount([tile.index for four in tiles for tile in four])
    # 200 fixed ones, and 600 partners: 120 of each, 5 standard deviations of 9.8.
    assert np.abs(partners - [120, 120, 320, 120, 120]).max() < 50
    for place in range(4):
        assert any(four[place].index == 2 for four in tiles)


def test_no_partner_lies_outside_of_the_window() -> None:
    seen: list[int] = []

    def watch(places: list[int]) -> list[int]:
        seen.extend(places)
        return [0] * len(places)

    config = AugmentConfig(mixup=1, mosaic_nine=0.5)
    images = dataclasses.replace(sized(SIZES, window=8), at=watch)
    for position in range(16, 24):
        plan(position, config, images=images)
    assert set(seen) == set(range(12, 27))


def test_the_last_epochs_have_no_mosaic() -> None:
    assert [tile.index for tile in plan(mosaic=False, index=3).tiles] == [3]


def test_the_probability_of_a_mosaic_is_kept() -> None:
    config = AugmentConfig(mosaic=0.25)
    share = np.mean([len(plan(position, config).tiles) == 4 for position in range(400)])
    assert abs(share - 0.25) < 0.1  # 4.6 standard deviations


def test_four_images_meet_in_one_corner_and_keep_their_aspect() -> None:
    for position in range(10):
        corners = []
        for place, tile in enumerate(plan(position, STILL).tiles):
            (scale, _, x), (_, scale_y, y) = tile.matrix
            if tile.window[0] == tile.window[2]:
                continue  # none of it shows
            wanted = 64 / max(tile.height, tile.width)
            shown = np.subtract(tile.window[2:], tile.window[:2])
            assert abs(scale - wanted) * shown[0] / scale <= 2 * SNAP
            assert abs(scale_y - wanted) * shown[1] / scale_y <= 2 * SNAP
            right, bottom = x + scale * tile.width, y + scale_y * tile.height
            corners.append((x if place % 2 else right, y if place >= 2 else bottom))
        assert np.allclose(corners, corners[0], atol=2 * SNAP)
        # The center lies in [S/2, 3S/2] of the canvas, of which the middle S is shown.
        assert 0 <= min(corners[0]) <= max(corners[0]) <= 64


def test_a_single_image_is_letterboxed_into_the_middle() -> None:
    (tile,) = plan(config=STILL, mosaic=False).tiles  # 60 x 80 px
    assert np.allclose(tile.matrix, [[0.8, 0, 0], [0, 0.8, 8]])
    assert (tile.crop, tile.window) == ((0, 0, 80, 60), (0, 8, 64, 56))
    assert tile.source_rect == (0, 0, 80, 60)


@pytest.mark.parametrize("shape", [(48, 64), (64, 96)])
def test_a_single_image_lies_in_the_middle_of_a_rectangle(shape: tuple[int, int]) -> None:
    (tile,) = plan(index=0, config=STILL, mosaic=False, shape=shape).tiles
    assert tile.matrix == ((0.8, 0, (shape[1] - 64) / 2), (0, 0.8, (shape[0] - 48) / 2))


@pytest.mark.parametrize("warp", [{}, {"degrees": 20, "shear": 5, "perspective": 0.002}])
def test_a_rectangle_turned_by_a_quarter_has_the_holes_and_shifts_of_its_own_sides(
    warp: dict[str, float],
) -> None:
    config = AugmentConfig(cutout=1, scale=0, **warp)
    for position in range(20):
        wide = plan(position, config, mosaic=False, shape=(64, 640))
        assert (wide.height, wide.width) == (64, 640)
        assert all(x2 <= 640 and y2 <= 64 for _, _, x2, y2 in wide.holes)
    assert max(hole[2] for hole in wide.holes) > 64


def test_what_lies_off_the_canvas_does_not_show() -> None:
    config = dataclasses.replace(STILL, degrees=1e-6)  # warped, so that no tile is moved
    for position in range(20):
        for tile in plan(position, config).tiles:
            (scale, _, x), (_, _, y) = tile.matrix
            x1, y1, x2, y2 = tile.source_rect
            assert -1e-9 <= x1 < x2 <= tile.width + 1e-9
            assert -1e-9 <= y1 < y2 <= tile.height + 1e-9
            canvas = np.array([scale * x1 + x, scale * y1 + y, scale * x2 + x, scale * y2 + y]) + 32
            assert canvas.min() >= -1e-3
            assert canvas.max() <= 128 + 1e-3


def test_an_upright_tile_fills_its_window_with_whole_pixels_of_its_image() -> None:
    sizes = SIZES * 16 + 3  # decoded at an eighth, which leaves ragged edges
    config = AugmentConfig(flip_vertical=0.5)
    for position in range(20):
        for tile in plan(position, config, images=sized(sizes)).tiles:
            assert tile.reduce > 1 and tile.crop is not None
            if tile.window[0] == tile.window[2]:
                continue  # none of it shows
            x1, y1, x2, y2 = tile.crop
            assert all(edge % tile.reduce == 0 for edge in tile.crop)
            assert 0 <= x1 < x2 <= tile.width and 0 <= y1 < y2 <= tile.height
            corners = np.array(tile.matrix) @ [[x1, x2], [y1, y2], [1, 1]]
            assert np.allclose(np.sort(corners), np.reshape(tile.window, (2, 2)).T)
            assert 0 <= min(tile.window) <= max(tile.window) <= 64


def test_zoom_and_shift_stay_in_their_ranges() -> None:
    config = dataclasses.replace(STILL, scale=0.5, translate=0.1)
    zooms, shifts = [], []
    for position in range(300):
        (tile,) = plan(position, config, index=2, mosaic=False).tiles  # 64 x 64 px
        (zoom, _, x), (_, _, y) = tile.matrix
        zooms.append(zoom)
        shifts += [(x + zoom * 32) / 64 - 0.5, (y + zoom * 32) / 64 - 0.5]
    slack = SNAP / 32  # of a zoom: one px in the least px that show
    assert 0.5 - slack <= min(zooms) < 0.55
    assert 1.45 < max(zooms) <= 1.5 + slack
    assert -0.1 - slack <= min(shifts) < -0.09
    assert 0.09 < max(shifts) <= 0.1 + slack


def test_flips_happen_as_often_as_asked() -> None:
    config = dataclasses.replace(STILL, flip_horizontal=0.5, flip_vertical=0.25)
    matrices = [plan(position, config).tiles[0].matrix for position in range(400)]  # signs stay
    assert abs(np.mean([matrix[0][0] < 0 for matrix in matrices]) - 0.5) < 0.1
    assert abs(np.mean([matrix[1][1] < 0 for matrix in matrices]) - 0.25) < 0.1


def test_color_gains_stay_in_their_ranges_and_are_one_when_off() -> None:
    gains = np.array([plan(position).color.hsv_gains for position in range(200)])
    reach = np.abs(gains - 1).max(axis=0)
    assert (reach <= [0.015, 0.7, 0.4]).all()
    assert (reach > [0.014, 0.65, 0.37]).all()
    assert plan(config=STILL).color.hsv_gains == (1, 1, 1)


EXTRAS = ("mosaic_nine", "mixup", "blur", "gray", "clahe", "cutout")


def test_what_is_off_by_default_is_absent() -> None:
    for position in range(50):
        sample = plan(position)
        assert len(sample.tiles) == 4 and sample.mixed is None and not sample.holes
        assert not sample.color.blur_px and not sample.color.is_gray
        assert not sample.color.clahe_limit
        assert not any(tile.has_perspective for tile in sample.tiles)


@pytest.mark.parametrize("extra", ["mixup", "blur", "gray", "clahe", "cutout"])
def test_switching_one_on_moves_no_other_number(extra: str) -> None:
    config = dataclasses.replace(AugmentConfig(), **{extra: 1.0})
    for position in range(5):
        without, with_it = plan(position), plan(position, config)
        assert with_it != without
        assert with_it.tiles == without.tiles
        assert with_it.color.hsv_gains == without.color.hsv_gains


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_happens_as_often_as_asked(extra: str) -> None:
    config = dataclasses.replace(AugmentConfig(), **{extra: 0.25})
    happened = [_has(plan(position, config), extra) for position in range(400)]
    assert abs(np.mean(happened) - 0.25) < 0.1  # 4.6 standard deviations


def _has(sample: SamplePlan, extra: str) -> bool:
    return {
        "mosaic_nine": len(sample.tiles) == 9,
        "mixup": sample.mixed is not None,
        "blur": sample.color.blur_px > 0,
        "gray": sample.color.is_gray,
        "clahe": sample.color.clahe_limit > 0,
        "cutout": len(sample.holes) > 0,
    }[extra]


def test_a_mixup_is_of_two_mosaics_of_like_weight() -> None:
    config = AugmentConfig(mixup=1)
    samples = [plan(position, config) for position in range(100)]
    assert all(len(sample.mixed.tiles) == 4 for sample in samples if sample.mixed)
    shares = [sample.mixed_share for sample in samples]
    # Beta(32, 32) has the mean 1/2 and the standard deviation 0.062.
    assert abs(np.mean(shares) - 0.5) < 0.03
    assert 0.02 < np.std(shares) < 0.1


def test_the_middle_one_of_nine_touches_its_neighbors_and_no_two_overlap() -> None:
    config = dataclasses.replace(STILL, mosaic_nine=1.0)
    for position in range(10):
        covered = np.zeros((64, 64), int)
        for tile in plan(position, config).tiles:
            x1, y1, x2, y2 = tile.window
            covered[y1:y2, x1:x2] += 1
        assert covered.max() == 1


def test_perspective_stays_before_the_horizon() -> None:
    config = AugmentConfig(perspective=0.01)  # uncut, depth would reach 1 - 1.28 at a corner
    for position in range(150):
        for tile in plan(position, config).tiles:
            g, h, k = tile.depth
            x1, y1, x2, y2 = tile.source_rect
            assert min(g * x + h * y + k for x in (x1, x2) for y in (y1, y2)) > NEAREST - 1e-9
