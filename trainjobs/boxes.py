"""Box formats, areas and the IoU family, for tensors of any device.

A name says format and unit: `cxcywh` is center and size, `xyxy` two corners; px, grid or norm.
"""

import math

import torch
from torch import Tensor

# Keeps divisions finite for boxes without area; the value of the published CIoU code.
_EPS = 1e-7


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners of boxes given by center and size; the unit stays.

    Args:
        boxes: (..., 4) cxcywh.

    Returns:
        (..., 4) xyxy.
    """
    center, half = boxes[..., :2], boxes[..., 2:] * 0.5
    return torch.cat((center - half, center + half), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Center and size of boxes given by their corners; the unit stays.

    Args:
        boxes: (..., 4) xyxy.

    Returns:
        (..., 4) cxcywh.
    """
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((first + second) * 0.5, second - first), dim=-1)


def area(boxes_xyxy: Tensor) -> Tensor:
    """Areas of (..., 4) boxes, (...,), in the square of their unit."""
    return _product(boxes_xyxy[..., 2:] - boxes_xyxy[..., :2])


def pairwise_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """IoU of every box of one set with every box of another.

    Args:
        first_xyxy: (N, 4), x1 <= x2 and y1 <= y2.
        second_xyxy: (K, 4), in the same unit.

    Returns:
        (N, K) in [0, 1]; 0 for two boxes without area.
    """
    low = torch.maximum(first_xyxy[:, None, :2], second_xyxy[None, :, :2])
    high = torch.minimum(first_xyxy[:, None, 2:], second_xyxy[None, :, 2:])
    overlap = _product((high - low).clamp_(min=0))
    union = area(first_xyxy)[:, None] + area(second_xyxy)[None, :] - overlap
    return torch.where(union > 0, overlap / union, 0.0)


def ciou(pred_xyxy: Tensor, true_xyxy: Tensor) -> Tensor:
    """Complete IoU of matched box pairs, in (-1.5, 1].

    Args:
        pred_xyxy: (N, 4) float32, x1 <= x2 and y1 <= y2, in any one unit.
        true_xyxy: (N, 4), same order and unit as pred_xyxy.

    Returns:
        (N,) float32. Gradients flow through everything but the trade-off weight alpha.

    Source: Zheng et al. 2020, "Distance-IoU Loss", section "Complete IoU Loss" (arXiv:1911.08287).
    """
    # One op on x and y together where possible: the sets are small, so calls cost more than math.
    pred_low, pred_high = pred_xyxy[:, :2], pred_xyxy[:, 2:]
    true_low, true_high = true_xyxy[:, :2], true_xyxy[:, 2:]
    pred_size, true_size = pred_high - pred_low, true_high - true_low

    overlap_size = torch.minimum(pred_high, true_high) - torch.maximum(pred_low, true_low)
    overlap = _product(overlap_size.clamp(min=0))
    union = _product(pred_size) + _product(true_size) - overlap + _EPS
    iou = overlap / union

    hull_size = torch.maximum(pred_high, true_high) - torch.minimum(pred_low, true_low)
    diagonal_squared = hull_size.square().sum(dim=1) + _EPS
    # Centers are half the sum of the corners, hence the quarter.
    center_offset = pred_low + pred_high - true_low - true_high
    distance_squared = center_offset.square().sum(dim=1) * 0.25

    true_angle = torch.atan(true_size[:, 0] / (true_size[:, 1] + _EPS))
    pred_angle = torch.atan(pred_size[:, 0] / (pred_size[:, 1] + _EPS))
    shape_term = (4 / math.pi**2) * (true_angle - pred_angle).square()
    with torch.no_grad():
        alpha = shape_term / (shape_term - iou + (1 + _EPS))
    return iou - (distance_squared / diagonal_squared + shape_term * alpha)


def _product(sizes: Tensor) -> Tensor:
    """Areas (...,) of sizes (..., 2). Not `prod`, whose gradient looks for zeros on the host."""
    return sizes[..., 0] * sizes[..., 1]
