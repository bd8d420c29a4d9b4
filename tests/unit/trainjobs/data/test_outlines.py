"""Outlines: boxes round what shows of objects; objects pasted mirrored where they hide little."""

import dataclasses
import math

import numpy as np
import pytest

from trainjobs.config import AugmentConfig
from trainjobs.data.augmentation.augment import execute
from trainjobs.data.augmentation.mosaic import TrainingImages, plan_training_sample
from trainjobs.data.augmentation.outlines import visible_bounds, visible_outline
from trainjobs.data.augmentation.paste import MAX_COVER, outline_mask
from trainjobs.data.augmentation.placement import place_labels
from trainjobs.data.augmentation.sample_plan import SamplePlan, TilePlan

SIDE = 100
TRIANGLE = [(0.2, 0.2), (0.6, 0.2), (0.2, 0.8)]
UPRIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
QUARTER_TURN = ((0.0, -1.0, 100.0), (1.0, 0.0, 0.0))
Outline = list[tuple[float, float]]


class Objects:
    """Images of one color each, with objects; the outline of some is missing."""

    def __init__(self, *images: list[Outline], are_outlined: bool = True) -> None:
        self.images, self.are_outlined = images, are_outlined

    def read_image(self, index: int, reduce: int = 1) -> np.ndarray:
        """A color ramp, so that a pixel tells where it is from."""
        ramp = np.arange(SIDE, dtype=np.uint8) * 2
        red, green = np.meshgrid(ramp, ramp)
        return np.stack([red, green, np.full_like(red, 40 * index)], axis=2)

    def labels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        corners = [np.array(outline) for outline in self.images[index]]
        low = np.array([c.min(axis=0) for c in corners]).reshape(-1, 2)
        high = np.array([c.max(axis=0) for c in corners]).reshape(-1, 2)
        boxes = np.hstack([(low + high) / 2, high - low]).astype(np.float32)
        return np.arange(len(boxes)), boxes

    def outlines(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        if not self.are_outlined or not self.images[index]:
            return None
        points = np.array([p for outline in self.images[index] for p in outline], np.float32)
        return points, np.array([len(o) for o in self.images[index]], np.int32)


def tile_of(matrix: tuple, **changes) -> TilePlan:
    settings = {
        "index": 0,
        "height": SIDE,
        "width": SIDE,
        "matrix": matrix,
        "source_rect": (0.0, 0.0, 100.0, 100.0),
        "window": (0, 0, 100, 100),
    }
    return TilePlan(**settings | changes)


def plan_of(tile: TilePlan, **changes) -> SamplePlan:
    settings = {"height": SIDE, "width": SIDE, "tiles": (tile,), "is_augmented": True}
    return SamplePlan(**settings | changes)


def bounds(tile: TilePlan, *outlines: Outline) -> list[list[float]]:
    points = np.array([p for outline in outlines for p in outline], np.float32)
    low, high = visible_bounds(tile, points, np.array([len(o) for o in outlines], np.int32))
    return np.round(np.vstack([low, high]).T, 4).tolist()


def turned(degrees: float, zoom: float = 1.0) -> tuple:
    cos, sin = (zoom * f(math.radians(degrees)) for f in (math.cos, math.sin))
    return ((cos, -sin, 50 - 50 * (cos - sin)), (sin, cos, 50 - 50 * (sin + cos)))


def random_outlines(rng: np.random.Generator, count: int) -> list[Outline]:
    """Stars of five to nine corners, in any place."""
    outlines = []
    for _ in range(count):
        angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(5, 10)))
        radius, center = rng.uniform(0.05, 0.3, (len(angles), 1)), rng.uniform(0.1, 0.9, 2)
        points = center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        outlines.append([(x, y) for x, y in np.clip(points, 0, 1).tolist()])
    return outlines


def test_a_quarter_turn_gives_the_turned_triangles_own_bounds() -> None:
    assert bounds(tile_of(QUARTER_TURN), TRIANGLE) == [[20, 20, 80, 60]]


def test_an_eighth_turn_gives_less_than_the_turned_box() -> None:
    source, plan = Objects([TRIANGLE]), plan_of(tile_of(turned(45)))
    with_outline = place_labels(plan, source)
    without = place_labels(plan, Objects([TRIANGLE], are_outlined=False))
    assert (with_outline[0, 3:] < without[0, 3:] - 0.1).any()
    corners = (np.array(TRIANGLE) * SIDE) @ np.array(turned(45))[:, :2].T
    sides = np.ptp(corners, axis=0) / SIDE
    assert np.allclose(with_outline[0, 3:], sides, atol=1e-5)


@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_an_outline_that_is_its_box_gives_the_boxs_result(degrees: float) -> None:
    rng = np.random.default_rng(0)
    squares = []
    for x, y, w, h in rng.uniform(0.05, 0.45, (9, 4)).tolist():
        squares.append([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
    plan = plan_of(tile_of(turned(degrees, zoom=1.7)))
    found = place_labels(plan, Objects(squares))
    expected = place_labels(plan, Objects(squares, are_outlined=False))
    named = {row[0]: row for row in found}
    for row in expected:  # by the box less is kept: 1 % of an outline is enough
        assert np.allclose(named[row[0]], row, atol=1e-4)


def test_bounds_are_those_of_the_pixels_that_show() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        (outline,) = random_outlines(rng, 1)
        tile = tile_of(
            turned(rng.uniform(0, 360), rng.uniform(0.5, 2)),
            source_rect=(10.0, 0.0, 90.0, 75.0),
            window=(15, 5, 80, 100),
        )
        ((left, top, right, bottom),) = bounds(tile, outline)
        y, x = np.mgrid[:1000, :1000] / 10 + 0.05  # tenths of a px
        inverse = np.linalg.inv(np.array([*tile.matrix, (0, 0, 1)]))
        source_x, source_y = np.tensordot(inverse[:2], np.stack([x, y, np.ones_like(x)]), axes=1)
        shows = inside_of(outline, source_x / SIDE, source_y / SIDE)
        shows &= (source_x > 10) & (source_x < 90) & (source_y > 0) & (source_y < 75)
        shows &= (x > 15) & (x < 80) & (y > 5)
        if not shows.any():
            assert max(right - left, bottom - top) < 2  # a sliver between the samples, or nothing
            continue
        seen = [x[shows].min(), y[shows].min(), x[shows].max(), y[shows].max()]
        # A sharp corner may reach on between the samples; a bound within what shows would be wrong.
        assert left <= seen[0] and top <= seen[1] and right >= seen[2] and bottom >= seen[3]
        assert np.abs(np.subtract(seen, [left, top, right, bottom])).max() < 3


def inside_of(outline: Outline, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By the even-odd rule."""
    inside = np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(outline, [*outline[1:], outline[0]], strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def test_a_mirrored_tile_mirrors_the_outline() -> None:
    rng = np.random.default_rng(2)
    for outline in random_outlines(rng, 10):
        (a, b, c), row = turned(20)
        points = np.array(outline, np.float32)
        one = visible_outline(tile_of(((a, b, c), row)), points)
        other = visible_outline(tile_of(((-a, -b, SIDE - c), row)), points)
        assert np.allclose([(SIDE - x, y) for x, y in one], other)


def test_without_augmentation_boxes_are_the_labels() -> None:
    plan = plan_of(tile_of(turned(45)), is_augmented=False)
    same = place_labels(plan, Objects([TRIANGLE], are_outlined=False))
    assert (place_labels(plan, Objects([TRIANGLE])) == same).all()


def sample(source: Objects, position: int, **settings) -> SamplePlan:
    count = len(source.images)
    return plan_training_sample(
        seed=0,
        epoch=0,
        position=position,
        index=position % count,
        images=TrainingImages(
            size=lambda _: (SIDE, SIDE),
            near=lambda _: range(100),
            at=lambda places: [place % count for place in places],
            labels=source,
        ),
        image_size=SIDE,
        config=AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0, **settings),
        mosaic=True,
    )


def make_source(seed: int = 3) -> Objects:
    rng = np.random.default_rng(seed)
    return Objects(*(random_outlines(rng, 4) for _ in range(5)))


def test_pasting_moves_no_other_number_and_is_a_function_of_the_key() -> None:
    source = make_source()
    for position in range(20):
        plain = sample(source, position, mixup=0.5, cutout=0.5)
        pasted = sample(source, position, mixup=0.5, cutout=0.5, copy_paste=0.7)
        assert dataclasses.replace(pasted, pastes=()) == plain
        assert pasted == sample(source, position, mixup=0.5, cutout=0.5, copy_paste=0.7)


def test_the_probability_of_a_paste_is_that_of_an_object() -> None:
    source = Objects(*[[[(0.4, 0.4), (0.45, 0.4), (0.4, 0.45)]]] * 5)  # small: they hide nothing
    plans = [sample(source, position, copy_paste=0.3, mosaic=0) for position in range(300)]
    # A zoom may move an object out of sight, or make it too small; mostly it is there.
    share = np.mean([len(plan.pastes) for plan in plans])
    assert 0.15 < share < 0.35


def test_pastes_hide_little_of_any_box_and_lie_round_changed_pixels() -> None:
    source, apart = make_source(), []
    for position in range(60):
        plan = sample(source, position, copy_paste=1.0)
        before = dataclasses.replace(plan, pastes=())
        drawn, rows = execute(plan, source)
        plain, plain_rows = execute(before, source)
        assert (rows[: len(plain_rows)] == plain_rows).all()
        changed = (drawn != plain).any(axis=2)
        covered = np.zeros_like(changed)
        boxes = [centered(row) for row in plain_rows]
        for paste, row in zip(plan.pastes, rows[len(plain_rows) :], strict=True):
            assert all(share_covered(box, paste.box) < MAX_COVER for box in boxes)
            assert np.allclose(centered(row), paste.box, atol=1e-4) and row[0] == paste.class_id
            boxes.append(paste.box)
            x1, y1, x2, y2 = paste.tile.window
            mask = outline_mask(paste) > 0
            covered[y1:y2, x1:x2] |= mask
            inside = changed[y1:y2, x1:x2]
            # What was there may be the same color by chance, at few pixels.
            assert inside[mask].mean() > 0.9
            ys, xs = np.nonzero(mask)
            seen = [x1 + xs.min(), y1 + ys.min(), x1 + xs.max() + 1, y1 + ys.max() + 1]
            out_of_box = np.subtract(seen, paste.box) * (-1, -1, 1, 1)
            assert out_of_box.max() < 1.6
            apart.append(np.abs(out_of_box).max())
        assert not changed[~covered].any()
    assert len(apart) > 60
    assert np.median(apart) < 1  # a sharp corner covers no pixel at its end; most are not


def centered(row: np.ndarray) -> tuple[float, ...]:
    x, y, w, h = (row[1:] * SIDE).tolist()
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def share_covered(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = max(min(box[2], other[2]) - max(box[0], other[0]), 0)
    height = max(min(box[3], other[3]) - max(box[1], other[1]), 0)
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))


def test_a_pasted_pixel_is_the_mirrored_one() -> None:
    source = Objects([[(0.05, 0.3), (0.35, 0.3), (0.35, 0.7), (0.05, 0.7)]])
    plan = sample(source, 0, copy_paste=1.0, mosaic=0, translate=0, scale=0, flip_horizontal=0)
    (paste,) = plan.pastes
    drawn, _ = execute(plan, source)
    x1, y1, x2, y2 = paste.tile.window
    assert (x1, y1, x2, y2) == (65, 30, 95, 70)
    assert np.abs(drawn[y1:y2, x1:x2].astype(int) - drawn[y1:y2, 5:35][:, ::-1]).max() <= 1
