"""Training batches of decoded images: what is drawn for each image, and the pixels that come of it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trainjobs.config import AugmentConfig
from trainjobs.data.augmentation.augment import FILL
from trainjobs.data.device.decoded_batches import (
    HOLE_SIDE,
    Crops,
    DecodedBatches,
    cut_images,
    plan_crops,
    whole_image_targets,
)
from trainjobs.data.device.decoded_split import DecodedSplit
from trainjobs.data.ordering.sampler import SampleRef

SIDE, NUM_IMAGES, SEED = 16, 12, 5
DRAWS = 2000
SPREAD = 4 * (0.25 / DRAWS) ** 0.5
"""Four standard deviations, at most, of a share of so many draws."""
PLAIN = AugmentConfig(translate=0, flip_horizontal=0)
ALL = AugmentConfig(translate=0.25, flip_horizontal=0.5, cutout=0.5)


@pytest.fixture(scope="module")
def decoded() -> DecodedSplit:
    generator = torch.Generator().manual_seed(0)
    # Below FILL, so that a hole can be told from the image.
    images = torch.randint(0, FILL, (NUM_IMAGES, SIDE, SIDE, 3), generator=generator)
    return DecodedSplit(images.to(torch.uint8), torch.arange(NUM_IMAGES) % 4)


def refs_at(positions: range, epoch: int = 1) -> list[SampleRef]:
    return [SampleRef(epoch, at, at * 7 % NUM_IMAGES) for at in positions]


def images_of(
    decoded: DecodedSplit, batches: list[list[SampleRef]], augment: AugmentConfig, seed: int = SEED
) -> Tensor:
    found = list(DecodedBatches(decoded, batches, augment, seed=seed))
    return torch.cat([batch["images"] for batch in found])


def crops_of(augment: AugmentConfig, *, epoch: int = 1, size: int = SIDE) -> Crops:
    return plan_crops(refs_at(range(DRAWS), epoch), augment, image_size=size, seed=SEED)


def cut_one(image: Tensor, *crop: int, has_holes: bool = False) -> Tensor:
    """(S, S) of an image (S, S) and down, right, flip, hole_top, hole_left."""
    table = torch.tensor([[0], *([number] for number in crop)])
    found = cut_images(image[None, :, :, None].expand(1, -1, -1, 3), table, has_holes=has_holes)
    return found[0, 1]


def test_how_positions_are_cut_into_batches_does_not_matter(decoded: DecodedSplit) -> None:
    together = images_of(decoded, [refs_at(range(12))], ALL)
    for cut in (1, 5, 11):
        parts = [refs_at(range(cut)), refs_at(range(cut, 12))]
        assert torch.equal(images_of(decoded, parts, ALL), together)
        turned = images_of(decoded, parts[::-1], ALL)
        assert torch.equal(turned.roll(cut, 0), together)


def test_seed_epoch_and_position_decide_and_nothing_else(decoded: DecodedSplit) -> None:
    def made(epoch: int, start: int, seed: int) -> Tensor:
        refs = [SampleRef(epoch, start + at, 3) for at in range(8)]
        return images_of(decoded, [refs], ALL, seed)

    expected = made(1, 0, 5)
    assert torch.equal(made(1, 0, 5), expected)
    for other in ((2, 0, 5), (1, 1, 5), (1, 0, 6)):
        assert not torch.equal(made(*other), expected)
    # One position's image is the same change to whatever image stands there.
    assert torch.equal(made(1, 0, 5)[1:], made(1, 1, 5)[:-1])


def test_with_everything_0_images_come_as_they_are(decoded: DecodedSplit) -> None:
    refs = refs_at(range(9))
    (batch,) = DecodedBatches(decoded, [refs], PLAIN, seed=SEED)
    order = [ref.image for ref in refs]
    assert batch["images"].shape == (9, 3, SIDE, SIDE) and batch["images"].dtype == torch.uint8
    assert torch.equal(batch["images"], decoded.images[order].permute(0, 3, 1, 2))
    assert torch.equal(batch["targets"][:, 1].long(), decoded.classes[order])


def test_images_are_laid_out_channels_last_whatever_is_done(decoded: DecodedSplit) -> None:
    images = images_of(decoded, [refs_at(range(4))], ALL)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_target_is_the_whole_image() -> None:
    expected = [[0, 2, 0.5, 0.5, 1, 1], [1, 0, 0.5, 0.5, 1, 1]]
    assert whole_image_targets(torch.tensor([2, 0])).tolist() == expected


@pytest.mark.parametrize(
    ("down", "right", "rows", "columns"),
    [
        (0, 0, "abcd", "0123"),
        (1, 0, "bcdc", "0123"),
        (-1, 0, "babc", "0123"),
        (0, 2, "abcd", "2321"),
        (3, -3, "dcba", "3210"),
    ],
)
def test_a_shift_shows_whole_px_and_mirrors_the_edge(
    down: int, right: int, rows: str, columns: str
) -> None:
    image = torch.arange(16, dtype=torch.uint8).view(4, 4)
    expected = [["abcd".index(row) * 4 + int(column) for column in columns] for row in rows]
    assert cut_one(image, down, right, 0, 4, 0).tolist() == expected


def test_a_flip_mirrors_columns_of_the_part_that_shows() -> None:
    image = torch.arange(16, dtype=torch.uint8).view(4, 4)
    assert cut_one(image, 0, 0, 1, 4, 0).tolist() == image.flip(1).tolist()
    shifted = cut_one(image, 1, 1, 0, 4, 0)
    assert cut_one(image, 1, 1, 1, 4, 0).tolist() == shifted.flip(1).tolist()


@pytest.mark.parametrize(
    ("top", "left", "rows", "columns"),
    [(2, 5, (2, 8), (5, 11)), (-3, 12, (0, 3), (12, 16)), (16, 0, (0, 0), (0, 0))],
)
def test_a_hole_paints_one_square_of_three_eighths_of_the_side(
    top: int, left: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    assert round(HOLE_SIDE * SIDE) == 6
    found = cut_one(torch.zeros(SIDE, SIDE, dtype=torch.uint8), 0, 0, 0, top, left, has_holes=True)
    expected = torch.zeros_like(found)
    expected[slice(*rows), slice(*columns)] = FILL
    assert torch.equal(found, expected)


def test_shifts_are_all_px_within_bounds_each_as_often() -> None:
    crops = crops_of(AugmentConfig(translate=0.125), size=32)
    for shifts in (crops.down, crops.right):
        values, counts = np.unique(shifts, return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert np.abs(counts / DRAWS - 1 / 9).max() < SPREAD
    assert abs(np.corrcoef(crops.down, crops.right)[0, 1]) < 4 / DRAWS**0.5


def test_the_largest_shift_that_can_be_set_finds_px_to_show() -> None:
    crops = crops_of(AugmentConfig(translate=0.9))
    image = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
    for down, right in (
        (crops.down.min(), crops.right.min()),
        (crops.down.max(), crops.right.max()),
    ):
        assert abs(down) == abs(right) == round(0.9 * SIDE) < SIDE
        cut_one(image, int(down), int(right), 0, SIDE, 0)


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
def test_flips_and_holes_come_as_often_as_asked(probability: float) -> None:
    crops = crops_of(AugmentConfig(flip_horizontal=probability, cutout=probability))
    spread = SPREAD if 0 < probability < 1 else 0
    assert abs(crops.flip.mean() - probability) <= spread
    assert abs((crops.hole_top < SIDE).mean() - probability) <= spread


def test_a_holes_middle_is_any_px() -> None:
    crops = crops_of(AugmentConfig(cutout=1.0))
    for corner in (crops.hole_top, crops.hole_left):
        assert set((corner + 3).tolist()) == set(range(SIDE))


def test_shifts_flips_and_holes_are_drawn_apart() -> None:
    crops = crops_of(AugmentConfig(translate=0.5, cutout=1.0))
    rows = np.stack([crops.down, crops.right, crops.flip, crops.hole_top, crops.hole_left])
    assert np.abs(np.corrcoef(rows) - np.eye(5)).max() < 4.5 / DRAWS**0.5


def test_alternating_flips_turn_every_epoch_from_a_random_start() -> None:
    alternate = AugmentConfig(alternate_flip=True, flip_horizontal=0)

    def flips(epoch: int, shift: int = 0) -> np.ndarray:
        refs = [SampleRef(epoch, image + shift, image) for image in range(DRAWS)]
        return plan_crops(refs, alternate, image_size=SIDE, seed=SEED).flip

    first = flips(0)
    assert set(first.tolist()) == {0, 1} and abs(first.mean() - 0.5) < SPREAD
    for epoch in range(1, 5):
        # Whatever the place in the epoch's order, as that changes from one to the next.
        assert flips(epoch, shift=13 * epoch).tolist() == (first ^ (epoch & 1)).tolist()
