import dataclasses
import pickle

import numpy as np

from trainjobs.config import AugmentConfig
from trainjobs.data.augment import SamplePlan
from trainjobs.data.mosaic import plan_training_sample

SIZES = np.array([[60, 80], [80, 60], [64, 64], [30, 90], [100, 50]], np.int32)
STILL = AugmentConfig(translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, flip_horizontal=0)


def plan(position: int = 0, config: AugmentConfig | None = None, **changes) -> SamplePlan:
    arguments = {"seed": 1, "epoch": 2, "index": 0, "mosaic": True} | changes
    return plan_training_sample(
        position=position,
        sizes=SIZES,
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


def test_partners_come_from_the_whole_dataset_and_every_place() -> None:
    tiles = [plan(position, index=2).tiles for position in range(200)]
    partners = np.bincount([tile.index for four in tiles for tile in four])
    # 200 fixed ones, and 600 partners: 120 of each, 5 standard deviations of 9.8.
    assert np.abs(partners - [120, 120, 320, 120, 120]).max() < 50
    for place in range(4):
        assert any(four[place].index == 2 for four in tiles)


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
            assert scale == scale_y == 64 / max(tile.height, tile.width)
            right, bottom = x + scale * tile.width, y + scale * tile.height
            corners.append((x if place % 2 else right, y if place >= 2 else bottom))
        assert np.allclose(corners, corners[0])
        # The center lies in [S/2, 3S/2] of the canvas, of which the middle S is shown.
        assert 0 <= min(corners[0]) <= max(corners[0]) <= 64


def test_a_single_image_is_letterboxed_into_the_middle() -> None:
    (tile,) = plan(config=STILL, mosaic=False).tiles  # 60 x 80 px
    assert np.allclose(tile.matrix, [[0.8, 0, 0], [0, 0.8, 8]])
    assert tile.source_rect == (0, 0, 80, 60)


def test_what_lies_off_the_canvas_does_not_show() -> None:
    for position in range(20):
        for tile in plan(position, STILL).tiles:
            (scale, _, x), (_, _, y) = tile.matrix
            x1, y1, x2, y2 = tile.source_rect
            assert -1e-9 <= x1 < x2 <= tile.width + 1e-9
            assert -1e-9 <= y1 < y2 <= tile.height + 1e-9
            canvas = np.array([scale * x1 + x, scale * y1 + y, scale * x2 + x, scale * y2 + y]) + 32
            assert canvas.min() >= -1e-9
            assert canvas.max() <= 128 + 1e-9


def test_zoom_and_shift_stay_in_their_ranges() -> None:
    config = dataclasses.replace(STILL, scale=0.5, translate=0.1)
    zooms, shifts = [], []
    for position in range(300):
        (tile,) = plan(position, config, index=2, mosaic=False).tiles  # 64 x 64 px
        (zoom, _, x), (_, _, y) = tile.matrix
        zooms.append(zoom)
        shifts += [(x + zoom * 32) / 64 - 0.5, (y + zoom * 32) / 64 - 0.5]
    assert 0.5 <= min(zooms) < 0.55
    assert 1.45 < max(zooms) <= 1.5
    assert -0.1 <= min(shifts) < -0.095
    assert 0.095 < max(shifts) <= 0.1


def test_flips_happen_as_often_as_asked() -> None:
    config = dataclasses.replace(STILL, flip_horizontal=0.5, flip_vertical=0.25)
    matrices = [plan(position, config).tiles[0].matrix for position in range(400)]
    assert abs(np.mean([matrix[0][0] < 0 for matrix in matrices]) - 0.5) < 0.1
    assert abs(np.mean([matrix[1][1] < 0 for matrix in matrices]) - 0.25) < 0.1


def test_color_gains_stay_in_their_ranges_and_are_absent_when_off() -> None:
    gains = np.array([plan(position).hsv_gains for position in range(200)])
    reach = np.abs(gains - 1).max(axis=0)
    assert (reach <= [0.015, 0.7, 0.4]).all()
    assert (reach > [0.014, 0.65, 0.37]).all()
    assert plan(config=STILL).hsv_gains is None
