"""Which predictions answer for which ground-truth box: YOLOv5's matching by shape and cell.

All shapes are static and nothing is read back from the device: a box that an anchor or cell does
not match stays in the tensors, marked invalid.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# The cell of the center, its left or right neighbor, its upper or lower neighbor.
CELLS_PER_BOX = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """Pairs of prediction and box for L levels; M = N boxes * anchors * CELLS_PER_BOX."""

    is_valid: Tensor
    """(L, M) bool: the pair counts."""
    prediction: Tensor
    """(L, M) int64: row of a level's outputs, flattened in the order image, y, x, anchor."""
    order: Tensor
    """(L, M) int64: of two valid pairs with one prediction, the higher order was written last."""
    boxes_cxcywh_grid: Tensor
    """(L, M, 4) true boxes in cells of their level; the center counts from the pair's cell."""
    anchors_grid: Tensor
    """(L, M, 2) widths and heights of the pairs' anchors in cells."""
    classes: Tensor
    """(L, M) int64 true classes."""


def match_targets(
    targets: Tensor, anchors_grid: Tensor, grid_sizes: Tensor, *, anchor_threshold: float
) -> Matches:
    """Match boxes to anchors of similar shape in the up to three cells nearest to the center.

    Args:
        targets: (N, 6) float32 rows of image in the batch, class, cx, cy, w, h (norm).
        anchors_grid: (L, num_anchors, 2) widths and heights in cells of their level.
        grid_sizes: (L, 2) float32, cells of each level in x and in y.
        anchor_threshold: A box matches an anchor if neither side differs by this factor.

    Returns:
        The pairs of every level, whether they match or not.

    Source: the matching of YOLOv5 v6, stated in words in its documentation ("Build Targets").
    We differ where a center lies exactly on a border between cells: YOLOv5 then lists the
    center's cell twice, which doubles its weight; here it counts once.
    """
    num_levels, num_anchors = anchors_grid.shape[:2]
    scale = grid_sizes[:, None, :]
    centers, sizes = targets[:, 2:4] * scale, targets[:, 4:6] * scale  # (L, N, 2)
    ratio = sizes[:, :, None, :] / anchors_grid[:, None, :, :]
    fits = torch.maximum(ratio, 1 / ratio).amax(dim=-1) < anchor_threshold  # (L, N, num_anchors)

    cells, is_near, order = _nearest_cells(centers, scale)
    is_valid = fits[:, :, :, None] & is_near[:, :, None, :]  # (L, N, num_anchors, cells)

    columns, rows = grid_sizes.long().unbind(dim=1)
    images = targets[:, 0].long()
    flat_cells = (images[:, None] * rows[:, None, None] + cells[..., 1]) * columns[:, None, None]
    flat_cells = flat_cells + cells[..., 0]  # (L, N, cells)
    anchor_index = torch.arange(num_anchors, device=targets.device)
    prediction = flat_cells[:, :, None, :] * num_anchors + anchor_index[:, None]

    inside = torch.cat(
        (centers[:, :, None, :] - cells, sizes[:, :, None, :].expand(-1, -1, CELLS_PER_BOX, -1)),
        dim=-1,
    )  # (L, N, cells, 4)
    shape = is_valid.shape
    pairs = shape[1] * shape[2] * shape[3]
    return Matches(
        is_valid=is_valid.reshape(num_levels, pairs),
        prediction=prediction.reshape(num_levels, pairs),
        order=order[:, :, None, :].expand(shape).reshape(num_levels, pairs),
        boxes_cxcywh_grid=inside[:, :, None].expand(*shape, 4).reshape(num_levels, pairs, 4),
        anchors_grid=anchors_grid[:, None, :, None, :]
        .expand(*shape, 2)
        .reshape(num_levels, pairs, 2),
        classes=targets[:, 1].long()[:, None, None].expand(shape).reshape(num_levels, pairs),
    )


def _nearest_cells(centers: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The center's cell and the nearer neighbor in x and in y.

    Args:
        centers: (L, N, 2) box centers in cells.
        grid: (L, 1, 2) cells in x and in y.

    Returns:
        cells (L, N, 3, 2) int64 column and row, inside the grid; is_near (L, N, 3) bool, whether
        the cell is used; order (L, N, 3) int64: cells are written neighbor by neighbor, in the
        order center, left, upper, right, lower, and the boxes of each in their own order.
    """
    # A center on the far edge belongs to the last cell.
    corner = torch.minimum(centers.floor(), grid - 1)
    fraction = centers - corner
    is_before = fraction < 0.5
    room = torch.where(is_before, centers, grid - centers)
    has_neighbor = (fraction != 0.5) & (room > 1)  # (L, N, 2)
    direction = torch.where(is_before, -1, 1)

    is_near = functional.pad(has_neighbor, (1, 0), value=True)
    steps = functional.pad(torch.diag_embed(direction), (0, 0, 1, 0))  # (L, N, 3, 2)
    cells = corner.long()[:, :, None, :] + steps
    # Neighbors that are not used still index a lookup.
    cells = torch.minimum(cells.clamp(min=0), grid.long()[:, :, None, :] - 1)

    # Left is 1, upper 2, right 3, lower 4.
    place = torch.arange(1, 3, device=centers.device) + (direction + 1)
    place = functional.pad(place, (1, 0))
    num_boxes = centers.shape[1]
    order = place * num_boxes + torch.arange(num_boxes, device=centers.device)[:, None]
    return cells, is_near, order
