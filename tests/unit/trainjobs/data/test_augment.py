"""Plans put into effect: pixels and boxes agree."""

import dataclasses

import cv2
import numpy as np
import pytest

from trainjobs.config import AugmentConfig
from trainjobs.data.augmentation.augment import FILL, execute
from trainjobs.data.augmentation.mosaic import TrainingImages, plan_training_sample
from trainjobs.data.augmentation.sample_plan import (
    SamplePlan,
    TilePlan,
    eval_shapes,
    plan_letterbox,
)
from trainjobs.data.images import decode_image

STILL = AugmentConfig(translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, flip_horizontal=0)
"""Every random change off but the mosaic."""


class Images:
    """Images in memory, each with boxes_cxcywh_norm of class 0, 1, ..."""

    def __init__(self, images: list[np.ndarray], boxes: list[list[list[float]]]) -> None:
        self.images, self.boxes = images, boxes
        self.sizes = np.array([image.shape[:2] for image in images], np.int32)

    def read_image(self, index: int, reduce: int = 1) -> np.ndarray:
        return self.images[index]

    def labels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        boxes = np.array(self.boxes[index], np.float32).reshape(-1, 4)
        return np.arange(len(boxes)), boxes

    def outlines(self, index: int) -> None:
        return None


class Jpegs(Images):
    """The same, stored as JPEGs that decode at a reduced size."""

    def read_image(self, index: int, reduce: int = 1) -> np.ndarray:
        data = cv2.imencode(".jpg", self.images[index], [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
        return decode_image(data.tobytes(), "jpeg", reduce)[..., ::-1]


def flat(height: int, width: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def one_tile(matrix: tuple, size: int = 100, rect: tuple | None = None, **options) -> SamplePlan:
    tile = TilePlan(
        index=0,
        height=100,
        width=100,
        matrix=matrix,
        source_rect=rect or (0.0, 0.0, 100.0, 100.0),
        window=(0, 0, size, size),
    )
    return SamplePlan(height=size, width=size, tiles=(tile,), **options)


def plan(source: Images, position: int, config: AugmentConfig, size: int, **options) -> SamplePlan:
    count = len(source.sizes)
    return plan_training_sample(
        seed=0,
        epoch=0,
        position=position,
        index=position % count,
        images=TrainingImages(
            size=lambda image: tuple(source.sizes[image].tolist()),
            near=lambda _: range(1000),
            at=lambda places: [place % count for place in places],
            labels=source,
        ),
        image_size=size,
        config=config,
        mosaic=options.get("mosaic", True),
        shape=options.get("shape"),
    )


def test_a_plan_that_changes_nothing_gives_the_image_and_its_boxes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    source = Images([pixels], [[[0.5, 0.25, 0.5, 0.125]]])
    image, labels = execute(one_tile(((1, 0, 0), (0, 1, 0))), source)
    assert (image == pixels).all()
    assert labels.tolist() == [[0, 0.5, 0.25, 0.5, 0.125]]


def test_a_letterbox_is_centered_on_gray() -> None:
    source = Images([flat(50, 100, 9)], [[[0.5, 0.5, 1.0, 1.0]]])
    image, labels = execute(
        plan_letterbox(0, 50, 100, image_size=64, out_height=64, out_width=64), source
    )
    assert (image[:16] == FILL).all()
    assert (image[16:48] == 9).all()
    assert (image[48:] == FILL).all()
    assert labels.tolist() == [[0, 0.5, 0.5, 1.0, 0.5]]


@pytest.mark.parametrize(("height", "width"), [(20, 10), (500, 333)])
def test_a_letterbox_scales_the_longest_side_to_the_image_size(height: int, width: int) -> None:
    letterbox = plan_letterbox(0, height, width, image_size=64, out_height=96, out_width=96)
    matrix = np.array(letterbox.tiles[0].matrix)
    assert matrix[1, 1] * height == 64
    assert matrix[0, 0] * width == round(64 * width / height)
    assert matrix[1, 2] == 16


def test_a_letterbox_shrinks_by_averaging() -> None:
    stripes = np.zeros((90, 90, 3), np.uint8)
    stripes[:, ::3] = 255  # a bilinear sample every 3 px would see black or white alone
    image, _ = execute(
        plan_letterbox(0, 90, 90, image_size=30, out_height=30, out_width=30),
        Images([stripes], [[]]),
    )
    assert (image == 85).all()


def test_a_reduced_jpeg_gives_the_picture_of_the_full_one() -> None:
    y, x = np.mgrid[:241, :322]
    waves = 127 + 60 * np.sin(x / 25) + 60 * np.cos(y / 18)
    pixels = np.repeat(waves[..., None], 3, axis=2).astype(np.uint8)
    letterbox = plan_letterbox(0, 241, 322, image_size=64, out_height=64, out_width=64)
    full, _ = execute(letterbox, Images([pixels], [[]]))
    reduced, _ = execute(letterbox, Jpegs([pixels], [[]]))
    assert np.abs(full.astype(int) - reduced).max() <= 3  # JPEG's loss; half a px would be 15


@pytest.mark.parametrize("degrees", [0, 10])
def test_a_reduced_jpeg_gives_the_training_sample_of_the_full_one(degrees: float) -> None:
    y, x = np.mgrid[:241, :322]
    waves = 127 + 60 * np.sin(x / 25) + 60 * np.cos(y / 18)
    pixels = np.repeat(waves[..., None], 3, axis=2).astype(np.uint8)
    config = AugmentConfig(degrees=degrees, hsv_h=0, hsv_s=0, hsv_v=0)
    sample = plan(Images([pixels], [[]]), 1, config, 64)
    assert {tile.reduce for tile in sample.tiles} == {4}
    full, _ = execute(sample, Images([pixels], [[]]))
    reduced, _ = execute(sample, Jpegs([pixels], [[]]))
    # Averaging 4 x 4 px first; two images that meet within a px differ by up to 240.
    assert np.quantile(np.abs(full.astype(int) - reduced), 0.98) <= 6


def test_mosaic_tiles_meet_without_gap_or_mixture() -> None:
    levels = [10, 60, 160, 220]
    source = Images([flat(64, 64, level) for level in levels], [[]] * 4)
    for position in range(8):
        image, _ = execute(plan(source, position, STILL, 64), source)
        assert set(np.unique(image)) <= set(levels)


@pytest.mark.parametrize("degrees", [0, 30])
def test_mosaic_tiles_show_nothing_but_themselves_and_gray(degrees: float) -> None:
    levels = [10, 60, 160, 220]
    source = Images([flat(48, 64, level) for level in levels], [[]] * 4)
    config = AugmentConfig(degrees=degrees, shear=degrees / 6, hsv_h=0, hsv_s=0, hsv_v=0)
    for position in range(8):
        image, _ = execute(plan(source, position, config, 64), source)
        assert set(np.unique(image)) <= {*levels, FILL}


def make_marked(height: int, width: int) -> Images:
    """Black images with one white rectangle each, which is the box."""
    images, boxes = [], []
    for number in range(4):
        image = flat(height, width, 0)
        x, y = width // 4 + 3 * number, height // 3
        image[y : y + height // 4, x : x + width // 3] = 255
        images.append(image)
        box = [x / width, y / height, (width // 3) / width, (height // 4) / height]
        boxes.append([[box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]]])
    return Images(images, boxes)


@pytest.mark.parametrize("position", range(12))
@pytest.mark.parametrize("shape", [(128, 128), (96, 128), (128, 160)])
@pytest.mark.parametrize(
    "warp", [{}, {"degrees": 20, "shear": 5}, {"degrees": 10, "perspective": 0.002}]
)
def test_pixels_and_boxes_go_to_the_same_place(
    warp: dict[str, float], shape: tuple[int, int], position: int
) -> None:
    source = make_marked(180, 240)
    config = AugmentConfig(flip_vertical=0.5, hsv_h=0, hsv_s=0, hsv_v=0, **warp)
    sample = plan(source, position, config, 128, mosaic=False, shape=shape)
    image, labels = execute(sample, source)
    assert image.shape[:2] == shape
    y, x = np.nonzero(image[..., 0] > 127 + FILL // 2)
    if not len(labels):
        assert len(x) < 0.1 * 80 * 60
        return
    cx, cy, w, h = labels[0, 1:] * (*shape[::-1], *shape[::-1])
    found = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    # A rotated rectangle is thinnest at the corners that touch its box.
    assert np.allclose(found, [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], atol=2.5)


@pytest.mark.parametrize("nine", [0, 1])
@pytest.mark.parametrize("position", range(6))
def test_a_mosaics_bright_places_are_its_boxes(position: int, nine: float) -> None:
    source = make_marked(180, 240)
    config = AugmentConfig(mosaic_nine=nine, hsv_h=0, hsv_s=0, hsv_v=0)
    image, labels = execute(plan(source, position, config, 256), source)
    boxes = np.zeros((256, 256), bool)
    for x, y, w, h in labels[:, 1:] * 256:
        x1, y1, x2, y2 = np.rint([x - w / 2, y - h / 2, x + w / 2, y + h / 2]).astype(int)
        boxes[y1:y2, x1:x2] = True
    bright = image[..., 0] > (255 + FILL) / 2
    # Small rests of a box keep no label; edges are blurred by a px or two.
    assert len(labels) > 0
    assert not (boxes & ~cv2.dilate(bright.astype(np.uint8), np.ones((5, 5))).astype(bool)).any()


@pytest.mark.parametrize("mosaic", [True, False])
def test_a_mirrored_image_gives_mirrored_boxes(mosaic: bool) -> None:
    source = make_marked(90, 120)
    plain = AugmentConfig(flip_horizontal=0)
    mirrored = AugmentConfig(flip_horizontal=1)
    for position in range(6):
        image, labels = execute(plan(source, position, plain, 64, mosaic=mosaic), source)
        image2, labels2 = execute(plan(source, position, mirrored, 64, mosaic=mosaic), source)
        labels[:, 1] = 1 - labels[:, 1]
        assert np.allclose(labels, labels2, atol=1e-6)
        # OpenCV interpolates in fixed point: a few levels at the rectangles' edges.
        assert np.abs(image[:, ::-1].astype(int) - image2).max() <= 16


def test_boxes_are_cut_at_the_tile_and_at_the_output() -> None:
    box = [0.5, 0.5, 0.8, 0.8]  # 10 to 90 px
    source = Images([flat(100, 100, 0)], [[box]])
    shifted = one_tile(((1, 0, 40), (0, 1, 0)))
    assert np.allclose(execute(shifted, source)[1], [[0, 0.75, 0.5, 0.5, 0.8]])
    cut = one_tile(((1, 0, 0), (0, 1, 0)), rect=(0.0, 0.0, 100.0, 50.0))
    assert np.allclose(execute(cut, source)[1], [[0, 0.5, 0.3, 0.8, 0.4]])


def test_a_box_beside_the_part_that_shows_is_dropped_however_it_is_turned() -> None:
    source = Images([flat(100, 100, 0)], [[[0.8, 0.5, 0.2, 0.8]]])
    turned = one_tile(((0.7, 0.7, 0), (-0.7, 0.7, 50)), rect=(0.0, 0.0, 50.0, 100.0))
    assert len(execute(turned, source)[1]) == 0


@pytest.mark.parametrize(
    ("box", "shift_px", "is_kept"),
    [
        ([0.5, 0.5, 0.02, 0.2], 0, False),  # 2 px wide
        ([0.5, 0.5, 0.021, 0.2], 0, True),
        ([0.5, 0.5, 1.0, 0.2], 89, True),  # 11 % left
        ([0.5, 0.5, 1.0, 0.2], 91, False),  # 9 % left
    ],
)
def test_boxes_of_which_too_little_is_left_are_dropped(
    box: list[float], shift_px: float, is_kept: bool
) -> None:
    source = Images([flat(100, 100, 0)], [[box]])
    matrix = ((1, 0, shift_px), (0, 1, 0))
    assert len(execute(one_tile(matrix, is_augmented=True), source)[1]) == is_kept
    assert len(execute(one_tile(matrix), source)[1]) == 1


def test_slivers_are_dropped() -> None:
    source = Images([flat(100, 100, 0)], [[[0.5, 0.5, 1.0, 0.01]]])
    stretched = ((10, 0, 0), (0, 9, 0))  # 1000 x 9 px
    assert len(execute(one_tile(stretched, size=1000, is_augmented=True), source)[1]) == 0


def test_labels_stay_within_the_image() -> None:
    source = make_marked(90, 120)
    config = AugmentConfig(degrees=45, scale=0.9, shear=10)
    for position in range(20):
        labels = execute(plan(source, position, config, 64), source)[1]
        assert labels.dtype == np.float32
        assert (labels[:, 1:3] - labels[:, 3:] / 2 >= -1e-6).all()
        assert (labels[:, 1:3] + labels[:, 3:] / 2 <= 1 + 1e-6).all()


def test_a_mixup_averages_pixels_and_keeps_the_boxes_of_both() -> None:
    source = Images([flat(100, 100, 200), flat(100, 100, 100)], [[[0.5, 0.5, 0.5, 0.5]]] * 2)
    one = one_tile(((1, 0, 0), (0, 1, 0)))
    tile = dataclasses.replace(one.tiles[0], index=1)
    other = dataclasses.replace(one, tiles=(tile,))
    image, labels = execute(dataclasses.replace(one, mixed=other, mixed_share=0.25), source)
    assert (image == 175).all()
    assert len(labels) == 2


@pytest.mark.parametrize(("hole_px", "is_kept"), [(29, True), (31, False)])
def test_a_box_mostly_under_a_hole_is_dropped(hole_px: int, is_kept: bool) -> None:
    source = Images([flat(100, 100, 9)], [[[0.25, 0.25, 0.5, 0.5]]])
    holed = one_tile(((1, 0, 0), (0, 1, 0)), holes=((0, 0, hole_px, 100),))
    image, labels = execute(holed, source)
    assert (image[:, :hole_px] == FILL).all() and (image[:, hole_px:] == 9).all()
    assert len(labels) == is_kept  # 58 and 62 % of the box


def test_background_images_give_no_labels_but_the_right_shape() -> None:
    source = Images([flat(40, 40, 0)], [[]])
    assert execute(plan(source, 0, AugmentConfig(), 32), source)[1].shape == (0, 5)


def test_batches_of_evaluation_have_every_image_once_and_fit_the_stride() -> None:
    sizes = np.random.default_rng(0).integers(20, 900, (23, 2)).astype(np.int32)
    batches = eval_shapes(sizes, image_size=640, stride=32, batch=4)
    indices = [index for members, _ in batches for index in members]
    assert sorted(indices) == list(range(23))
    assert [len(members) for members, _ in batches] == [4, 4, 4, 4, 4, 3]
    assert all(side % 32 == 0 for _, shape in batches for side in shape)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([[480, 640], [480, 640]], (512, 672)),  # ceil(15 + 0.5), ceil(20 + 0.5)
        ([[640, 480]], (672, 512)),
        ([[480, 640], [640, 480]], (672, 672)),  # room for both
        ([[320, 640], [480, 640]], (512, 672)),  # room for the taller one
    ],
)
def test_a_batch_is_as_large_as_its_images_need(sizes: list, shape: tuple[int, int]) -> None:
    batches = eval_shapes(np.array(sizes, np.int32), image_size=640, stride=32, batch=2)
    assert batches[0][1] == shape
