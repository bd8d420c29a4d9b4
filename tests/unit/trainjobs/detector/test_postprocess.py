"""Decoding of raw outputs, and non-maximum suppression."""

import logging

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from trainjobs.boxes import cxcywh_to_xyxy, pairwise_iou
from trainjobs.detector import postprocess
from trainjobs.detector.postprocess import decode, non_max_suppression

ANCHORS_GRID = torch.tensor([[[1.25, 1.625], [2.0, 3.75]], [[1.875, 3.8125], [3.875, 2.8125]]])
STRIDES = (8, 16)


def make_raw(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 2, rows, columns, 5 + 3, generator=generator)
        for rows, columns in ((4, 6), (2, 3))
    ]


def make_predictions(rows: list[list[float]], num_classes: int = 2) -> Tensor:
    """(1, A, 5 + C) of sure objects from rows x1, y1, x2, y2, score, class."""
    predictions = torch.zeros(1, len(rows), 5 + num_classes)
    for prediction, (x1, y1, x2, y2, score, label) in zip(predictions[0], rows, strict=True):
        prediction[:4] = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
        prediction[4] = 1
        prediction[5 + int(label)] = score
    return predictions


def random_predictions(count: int, *, images: int = 1, num_classes: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(images, count, 2, generator=generator) * 640
    sizes = torch.rand(images, count, 2, generator=generator) * 200 + 8
    scores = torch.rand(images, count, 1 + num_classes, generator=generator)
    return torch.cat((centers, sizes, scores), dim=2)


def suppress(
    predictions: Tensor,
    *,
    confidence: float = 0.1,
    nms_iou: float = 0.5,
    max_detections: int = 300,
    multi_label: bool = True,
) -> list[Tensor]:
    return non_max_suppression(
        predictions,
        confidence=confidence,
        nms_iou=nms_iou,
        max_detections=max_detections,
        multi_label=multi_label,
    )


def test_raw_zeros_are_anchors_in_the_middle_of_their_cells() -> None:
    raw = [torch.zeros_like(level) for level in make_raw()]
    decoded = decode(raw, ANCHORS_GRID, STRIDES)
    assert decoded.shape == (2, 4 * 6 * 2 + 2 * 3 * 2, 8)
    # Level, then y, x, anchor: the second anchor of cell x = 1, y = 0, then the first of level 1.
    assert decoded[1, 3].tolist() == [12.0, 4.0, 16.0, 30.0, 0.5, 0.5, 0.5, 0.5]
    assert decoded[0, 48, :4].tolist() == [8.0, 8.0, 30.0, 61.0]


def test_decoding_follows_the_published_formula() -> None:
    raw = make_raw()
    image, anchor, row, column = 1, 0, 3, 2
    s = raw[0][image, anchor, row, column].sigmoid()
    decoded = decode(raw, ANCHORS_GRID, STRIDES)[image, (row * 6 + column) * 2 + anchor]
    torch.testing.assert_close(decoded[0], (2 * s[0] - 0.5 + column) * 8)
    torch.testing.assert_close(decoded[1], (2 * s[1] - 0.5 + row) * 8)
    torch.testing.assert_close(decoded[2:4], (2 * s[2:4]) ** 2 * torch.tensor([10.0, 13.0]))
    torch.testing.assert_close(decoded[4:], s[4:])


def test_decoding_leaves_its_input_and_its_memory_format_does_not_matter() -> None:
    raw = make_raw()
    grid_first = [m.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4) for m in raw]
    decoded = decode(grid_first, ANCHORS_GRID, STRIDES)
    torch.testing.assert_close(decoded, decode(raw, ANCHORS_GRID, STRIDES), rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(grid_first, make_raw(), strict=True))


def test_decoded_outputs_are_float32() -> None:
    raw = [level.bfloat16() for level in make_raw()]
    assert decode(raw, ANCHORS_GRID, STRIDES).dtype == torch.float32


def test_of_two_overlapping_boxes_of_a_class_the_better_stays() -> None:
    rows = [[0, 0, 10, 10, 0.6, 1], [0, 0, 10, 11, 0.9, 1], [50, 50, 60, 60, 0.3, 1]]
    (detections,) = suppress(make_predictions(rows))
    expected = torch.tensor([[0, 0, 10, 11, 0.9, 1], [50, 50, 60, 60, 0.3, 1]])
    torch.testing.assert_close(detections, expected)


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    rows = [[0, 0, 10, 10, 0.6, 0], [0, 0, 10, 10, 0.9, 1]]
    (detections,) = suppress(make_predictions(rows))
    assert detections[:, 5].tolist() == [1.0, 0.0]


def test_score_is_objectness_times_class() -> None:
    predictions = make_predictions([[0, 0, 10, 10, 0.5, 0]])
    predictions[..., 4] = 0.5
    assert suppress(predictions, confidence=0.2)[0][0, 4].item() == pytest.approx(0.25)
    assert len(suppress(predictions, confidence=0.3)[0]) == 0


def test_a_box_carries_every_class_above_the_confidence_only_if_multi_label() -> None:
    predictions = make_predictions([[0, 0, 10, 10, 0.5, 0]])
    predictions[0, 0, 6] = 0.7
    assert suppress(predictions)[0][:, 5].tolist() == [1.0, 0.0]
    assert suppress(predictions, multi_label=False)[0][:, 5].tolist() == [1.0]


def test_only_the_best_detections_are_kept_best_first() -> None:
    predictions = random_predictions(200)
    everything, best = suppress(predictions)[0], suppress(predictions, max_detections=7)[0]
    assert torch.equal(best, everything[:7])
    assert torch.equal(everything[:, 4], everything[:, 4].sort(descending=True).values)


def test_kept_boxes_of_a_class_do_not_overlap_and_dropped_ones_overlap_a_better_one() -> None:
    predictions = random_predictions(300, num_classes=1)
    (kept,) = suppress(predictions, confidence=0.0)
    overlap = pairwise_iou(kept[:, :4], kept[:, :4]).fill_diagonal_(0)
    assert overlap.max() <= 0.5
    scores = predictions[0, :, 4] * predictions[0, :, 5]
    covers = pairwise_iou(cxcywh_to_xyxy(predictions[0, :, :4]), kept[:, :4]) > 0.5
    covers &= kept[None, :, 4] >= scores[:, None]
    assert covers.any(dim=1).all()  # a kept box covers itself


def test_looking_at_few_candidates_first_does_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictions = random_predictions(1500, images=2)
    few = suppress(predictions, max_detections=200)
    monkeypatch.setattr(postprocess, "_FIRST_CANDIDATES", 10**6)
    everything = suppress(predictions, max_detections=200)
    assert all(torch.equal(a, b) for a, b in zip(few, everything, strict=True))


def test_suppression_equals_one_pass_per_class() -> None:
    predictions = random_predictions(400)
    boxes = cxcywh_to_xyxy(predictions[0, :, :4])
    scores = predictions[0, :, 5:] * predictions[0, :, 4:5]
    expected = set()
    for label in range(3):
        sure = (scores[:, label] > 0.1).nonzero()[:, 0]
        kept = sure[nms(boxes[sure], scores[sure, label], 0.5)]
        expected |= {(label, scores[i, label].item()) for i in kept}
    (detections,) = suppress(predictions, max_detections=10**6)
    assert {(int(row[5]), row[4].item()) for row in detections} == expected


def test_equal_scores_keep_the_order_of_predictions() -> None:
    rows = [[20.0 * i, 0, 20.0 * i + 10, 10, 0.5, 0] for i in range(50)]
    (detections,) = suppress(make_predictions(rows))
    assert detections[:, 0].tolist() == [20.0 * i for i in range(50)]


def test_images_are_independent_and_may_be_empty() -> None:
    predictions = torch.cat(
        (make_predictions([[0, 0, 10, 10, 0.9, 0]]), torch.zeros(1, 1, 7)), dim=0
    )
    found, nothing = suppress(predictions)
    assert found.shape == (1, 6)
    assert nothing.shape == (0, 6) and nothing.dtype == torch.float32


def test_a_limit_on_candidates_that_costs_detections_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postprocess, "MAX_CANDIDATES", 20)
    with caplog.at_level(logging.WARNING):
        suppress(random_predictions(100), max_detections=10)
        assert caplog.messages == []
        suppress(random_predictions(100), max_detections=50)
    assert len(caplog.messages) == 1 and "best 20 of" in caplog.messages[0]
