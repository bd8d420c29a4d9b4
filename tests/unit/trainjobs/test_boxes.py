"""Laws of the box formats and the IoU family."""

import math

import pytest
import torch
from torch import Tensor

from trainjobs.boxes import area, ciou, cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh

# A few float32 roundings.
TOLERANCE = 1e-5


def random_boxes_xyxy(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(count, 2, generator=generator) * 10
    sizes = torch.rand(count, 2, generator=generator) * 4 + 0.1
    return cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1))


def test_corners_of_a_centered_box() -> None:
    boxes = torch.tensor([[5.0, 3.0, 4.0, 2.0]])
    assert cxcywh_to_xyxy(boxes).tolist() == [[3.0, 2.0, 7.0, 4.0]]


def test_box_formats_are_inverse_for_any_leading_shape() -> None:
    boxes = random_boxes_xyxy(24, 0).view(2, 3, 4, 4)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def test_area_is_width_times_height() -> None:
    assert area(torch.tensor([[1.0, 2.0, 4.0, 7.0]])).tolist() == [15.0]


def test_iou_of_half_overlapping_squares_is_a_third() -> None:
    first, second = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])
    assert pairwise_iou(first, second).item() == pytest.approx(1 / 3)


def test_iou_is_symmetric_within_zero_and_one() -> None:
    first, second = random_boxes_xyxy(20, 1), random_boxes_xyxy(30, 2)
    iou = pairwise_iou(first, second)
    torch.testing.assert_close(iou, pairwise_iou(second, first).T)
    assert iou.min() == 0 and iou.max() <= 1


def test_iou_of_boxes_without_area_is_zero() -> None:
    point = torch.tensor([[1.0, 1, 1, 1]])
    assert pairwise_iou(point, point).tolist() == [[0.0]]


def test_ciou_of_a_box_with_itself_is_one() -> None:
    boxes = random_boxes_xyxy(50, 3)
    torch.testing.assert_close(ciou(boxes, boxes), torch.ones(50), atol=TOLERANCE, rtol=0)


def test_ciou_of_shifted_squares_is_iou_less_the_center_distance() -> None:
    # Equal shapes: no aspect term. Centers 1 apart, hull 3 x 2 with squared diagonal 13.
    value = ciou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
    assert value.item() == pytest.approx(1 / 3 - 1 / 13, abs=TOLERANCE)


def test_ciou_of_concentric_boxes_is_iou_less_the_shape_term() -> None:
    # 2 x 2 inside 4 x 1: overlap 2, union 6, and the angles of w / h differ by atan 4 - atan 1.
    value = ciou(torch.tensor([[-1.0, -1, 1, 1]]), torch.tensor([[-2.0, -0.5, 2, 0.5]]))
    shape = 4 / math.pi**2 * (math.atan(4) - math.atan(1)) ** 2
    expected = 1 / 3 - shape * shape / (shape - 1 / 3 + 1)
    assert value.item() == pytest.approx(expected, abs=TOLERANCE)


def test_ciou_is_symmetric_and_above_its_lower_limit() -> None:
    first, second = random_boxes_xyxy(200, 4), random_boxes_xyxy(200, 5)
    values = ciou(first, second)
    torch.testing.assert_close(values, ciou(second, first), atol=TOLERANCE, rtol=0)
    assert values.min() > -1.5 and values.max() <= 1


def test_ciou_does_not_change_with_the_unit() -> None:
    first, second = random_boxes_xyxy(50, 6), random_boxes_xyxy(50, 7)
    torch.testing.assert_close(
        ciou(first, second), ciou(first * 32, second * 32), atol=TOLERANCE, rtol=0
    )


def test_the_gradient_of_ciou_treats_alpha_as_a_constant() -> None:
    # Concentric boxes of one area: growing w moves IoU and shape; alpha is held at its value.
    true = torch.tensor([[-2.0, -0.5, 2, 0.5]])
    pred = torch.tensor([[-1.0, -1, 1, 1]], requires_grad=True)
    ciou(pred, true).sum().backward()
    assert pred.grad is not None
    iou, angle = 1 / 3, math.atan(4) - math.atan(1)
    shape = 4 / math.pi**2 * angle**2
    alpha = shape / (shape - iou + 1)
    # x2 moves the width by 1: overlap 2 + d, union 6 - d + 2d; the width / height ratio is 1 + d/2,
    # whose angle grows by d/4. The center distance grows with d squared only.
    iou_slope = (1 * 6 - 2 * 1) / 36
    shape_slope = -8 / math.pi**2 * angle / 4
    expected = iou_slope - alpha * shape_slope
    assert pred.grad[0, 2].item() == pytest.approx(expected, abs=TOLERANCE)


def test_ciou_and_its_gradient_are_finite_for_boxes_without_area() -> None:
    pred = torch.zeros(1, 4, requires_grad=True)
    value = ciou(pred, torch.tensor([[1.0, 1, 1, 1]]))
    value.sum().backward()
    assert pred.grad is not None
    assert value.isfinite().all() and pred.grad.isfinite().all()
