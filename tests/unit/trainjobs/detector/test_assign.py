"""Matching of boxes to predictions, against the recipe's words spelled out in loops."""

import math

import pytest
import torch
from torch import Tensor

from trainjobs.detector.assign import Matches, match_targets

ANCHORS_GRID = torch.tensor([[[1.0, 2.0], [3.0, 3.0]], [[2.0, 1.0], [5.0, 4.0]]])
GRID_SIZES = torch.tensor([[8.0, 6.0], [4.0, 3.0]])  # x, y

# level, image, anchor, row, column, index of the target
Pair = tuple[int, int, int, int, int, int]


def match(targets: Tensor) -> Matches:
    return match_targets(targets, ANCHORS_GRID, GRID_SIZES, anchor_threshold=4.0)


def target_at(x_cells: float, y_cells: float, w: float = 2.0, h: float = 2.0) -> Tensor:
    """A box of image 0 given in cells of level 0."""
    return torch.tensor([[0, 0, x_cells / 8, y_cells / 6, w / 8, h / 6]])


def cells_of(targets: Tensor, level: int = 0) -> list[tuple[int, int]]:
    """(column, row) of the cells that answer for the targets at a level; anchor 1 of 2."""
    return sorted(
        {(x, y) for lvl, _, a, y, x, _ in pairs_of(match(targets)) if (lvl, a) == (level, 1)}
    )


def pairs_of(matches: Matches) -> set[Pair]:
    pairs = []
    for level in range(len(GRID_SIZES)):
        columns, rows = (int(size) for size in GRID_SIZES[level])
        num_boxes = matches.is_valid.shape[1] // 6  # 2 anchors, 3 cells
        for pair in matches.is_valid[level].nonzero()[:, 0].tolist():
            rest, anchor = divmod(int(matches.prediction[level, pair]), 2)
            rest, column = divmod(rest, columns)
            image, row = divmod(rest, rows)
            target = int(matches.order[level, pair]) % num_boxes
            pairs.append((level, image, anchor, row, column, target))
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def pairs_by_loops(targets: Tensor) -> set[Pair]:
    pairs = set()
    for level, (columns, rows) in enumerate(GRID_SIZES.tolist()):
        for number, (image, _, cx, cy, w, h) in enumerate(targets.tolist()):
            x, y = cx * columns, cy * rows
            cells = [(math.floor(x), math.floor(y))]
            if x % 1 < 0.5 and x > 1:
                cells.append((math.floor(x - 0.5), math.floor(y)))
            if y % 1 < 0.5 and y > 1:
                cells.append((math.floor(x), math.floor(y - 0.5)))
            if (columns - x) % 1 < 0.5 and columns - x > 1:
                cells.append((math.floor(x + 0.5), math.floor(y)))
            if (rows - y) % 1 < 0.5 and rows - y > 1:
                cells.append((math.floor(x), math.floor(y + 0.5)))
            for anchor, (anchor_w, anchor_h) in enumerate(ANCHORS_GRID[level].tolist()):
                ratios = (w * columns / anchor_w, h * rows / anchor_h)
                if max(max(r, 1 / r) for r in ratios) < 4:
                    pairs |= {(level, int(image), anchor, j, i, number) for i, j in cells}
    return pairs


def random_targets(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 3, (count, 1), generator=generator).float()
    classes = torch.randint(0, 4, (count, 1), generator=generator).float()
    centers = torch.rand(count, 2, generator=generator)
    sizes = torch.rand(count, 2, generator=generator).square() + 0.01
    return torch.cat((image, classes, centers, sizes), dim=1)


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_of_the_recipe(seed: int) -> None:
    targets = random_targets(60, seed)
    assert pairs_of(match(targets)) == pairs_by_loops(targets)


def test_a_center_in_the_middle_third_of_a_cell_takes_the_two_nearer_neighbors() -> None:
    assert cells_of(target_at(3.4, 2.7)) == [(2, 2), (3, 2), (3, 3)]


def test_a_cell_at_the_border_has_no_neighbor_outside() -> None:
    assert cells_of(target_at(0.3, 0.2)) == [(0, 0)]
    assert cells_of(target_at(7.8, 5.6)) == [(7, 5)]


def test_a_center_at_the_middle_of_a_cell_takes_only_this_cell() -> None:
    assert cells_of(target_at(3.5, 2.5)) == [(3, 2)]


def test_a_center_on_a_corner_between_cells_counts_each_cell_once() -> None:
    matches = match(target_at(4.0, 3.0))
    assert cells_of(target_at(4.0, 3.0)) == [(3, 3), (4, 2), (4, 3)]
    assert matches.is_valid[0].sum() == 2 * 3  # both anchors


def test_a_center_on_the_far_edge_of_the_image_belongs_to_the_last_cell() -> None:
    assert cells_of(target_at(8.0, 6.0)) == [(7, 5)]


def test_a_shape_differing_by_the_threshold_does_not_match() -> None:
    # Anchor 1 of level 0 is 3 x 3 cells.
    assert cells_of(target_at(3.5, 2.5, w=12.0 - 1e-3, h=3.0)) == [(3, 2)]
    assert cells_of(target_at(3.5, 2.5, w=12.0, h=3.0)) == []
    assert cells_of(target_at(3.5, 2.5, w=3.0, h=0.75)) == []


def test_boxes_without_a_side_match_nothing() -> None:
    assert not match(target_at(3.5, 2.5, w=0.0, h=2.0)).is_valid.any()


def test_true_boxes_are_given_from_the_corner_of_their_cell() -> None:
    matches = match(target_at(3.25, 2.5, w=2.0, h=3.0))
    boxes = matches.boxes_cxcywh_grid[0][matches.is_valid[0]]
    # The cell of the center and its left neighbor, for both anchors.
    torch.testing.assert_close(
        boxes.sort(dim=0).values[:, 0], torch.tensor([0.25, 0.25, 1.25, 1.25])
    )
    torch.testing.assert_close(boxes[:, 1:], torch.tensor([[0.5, 2.0, 3.0]]).expand(4, 3))


def test_pairs_carry_the_class_and_anchor_of_their_prediction() -> None:
    matches = match(random_targets(20, 3))
    anchor = matches.prediction % 2
    for level in range(2):
        assert torch.equal(matches.anchors_grid[level], ANCHORS_GRID[level][anchor[level]])
    expected = random_targets(20, 3)[:, 1].long()[matches.order % 20]
    assert torch.equal(matches.classes, expected)


def test_mirrored_boxes_take_mirrored_cells() -> None:
    targets = random_targets(60, 9)
    mirrored = targets.clone()
    mirrored[:, 2] = 1 - mirrored[:, 2]
    flipped = {
        (level, image, anchor, row, int(GRID_SIZES[level, 0]) - 1 - column, number)
        for level, image, anchor, row, column, number in pairs_of(match(mirrored))
    }
    assert pairs_of(match(targets)) == flipped


def test_predictions_of_all_pairs_lie_in_the_batch_even_if_they_do_not_match() -> None:
    prediction = match(random_targets(60, 1)).prediction
    cells = GRID_SIZES.prod(dim=1).long()
    assert (prediction >= 0).all()
    assert (prediction < (3 * 2 * cells)[:, None]).all()  # 3 images, 2 anchors


def test_no_boxes_make_no_pairs() -> None:
    matches = match(torch.zeros(0, 6))
    assert matches.is_valid.shape == (2, 0)
    assert matches.boxes_cxcywh_grid.shape == (2, 0, 4)
