import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainjobs.evaluation.coco import coco_map
from trainjobs.evaluation.detections import (
    Detections,
    Truth,
    match_by_iou,
    pairwise_iou,
    share_classes,
)
from trainjobs.evaluation.evaluate import in_order, measure_part, summarize
from trainjobs.evaluation.yolov5_map import yolov5_map

FIRST, SECOND = (0, 0, 10, 10), (50, 50, 70, 70)
NOWHERE = (90, 90, 99, 99)
# COCO reads precision at recalls 0, .01, .. 1: with one of two objects found, 51 of 101 are at most
# one half.
HALF_OF_RECALLS = 51 / 101
PERFECT_YOLOV5 = 0.995  # precision falls to 0 over the last of its 100 steps


def make_truth(
    *boxes: Sequence[float], classes: Sequence[int] | None = None, image: int = 0
) -> Truth:
    rows = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Truth(image, 100, 100, rows, np.array(classes or [0] * len(rows), dtype=np.int64))


def make_found(
    *rows: tuple[Sequence[float], float], classes: Sequence[int] | None = None, image: int = 0
) -> Detections:
    boxes = np.array([box for box, _ in rows], dtype=np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in rows], dtype=np.float32)
    return Detections(image, boxes, scores, np.array(classes or [0] * len(rows), dtype=np.int64))


def random_scene(
    seed: int, copies: int = 2, num_classes: int = 3
) -> tuple[list[Truth], list[Detections]]:
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for image in range(4):
        corners = rng.uniform(0, 60, (5, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (5, 2))], axis=1)
        classes = rng.integers(0, num_classes, 5)
        truths.append(make_truth(*boxes, classes=classes.tolist(), image=image))
        near = np.repeat(boxes, copies, axis=0) + rng.normal(0, 3, (5 * copies, 4))
        labels = np.repeat(classes, copies).tolist()
        rows = list(zip(near.tolist(), rng.random(5 * copies).tolist(), strict=True))
        detections.append(make_found(*rows, classes=labels, image=image))
    return truths, detections


def test_detections_in_a_crowd_of_their_class_do_not_count() -> None:
    crowd = np.array([(40, 40, 90, 90)], np.float32)
    truth = dataclasses.replace(
        make_truth(FIRST), crowds_xyxy_px=crowd, crowd_classes=np.zeros(1, np.int64)
    )
    found = [make_found((SECOND, 0.9), ((52, 52, 60, 60), 0.8), (FIRST, 0.7))]
    assert coco_map([truth], found, 2)["map50_95"] == pytest.approx(1)
    # Without the crowd two wrong ones come first.
    assert coco_map([make_truth(FIRST)], found, 2)["map50_95"] == pytest.approx(1 / 3)
    other = dataclasses.replace(truth, crowd_classes=np.ones(1, np.int64))
    assert coco_map([other], found, 2)["map50_95"] == pytest.approx(1 / 3)


def test_equal_scores_rank_alike_on_any_number_of_ranks() -> None:
    shares = [([2, 0], (1, 1)), ([3], (1, 1)), ([1], (1, 1)), ([4], (1, 1))]
    # Only the box of image 3 is where an object is, and all are found with one confidence.
    truths = [make_truth(FIRST if image == 3 else SECOND, image=image) for image in range(5)]
    found = {image: make_found((FIRST, 0.5), image=image) for image in range(5)}
    curves = []
    for world_size in (1, 2, 3):
        gathered = [
            found[image]
            for rank in range(world_size)
            for images, _ in shares[rank::world_size]
            for image in images
        ]
        ordered = in_order(gathered, shares)
        assert [one.image_id for one in ordered] == [2, 0, 3, 1, 4]
        curves.append(yolov5_map(truths, ordered, 1).map50)
    assert len(set(curves)) == 1


def test_perfect_detections_score_one() -> None:
    truths = [make_truth(FIRST, SECOND), make_truth(FIRST, classes=[1], image=1)]
    found = [
        make_found((FIRST, 0.9), (SECOND, 0.8)),
        make_found((FIRST, 0.7), classes=[1], image=1),
    ]

    metrics = coco_map(truths, found, 2)

    assert metrics["map50_95"] == metrics["map50"] == 1.0


def test_one_of_two_objects_found_scores_half_the_recalls() -> None:
    metrics = coco_map([make_truth(FIRST, SECOND)], [make_found((FIRST, 0.9))], 1)

    assert metrics["map50_95"] == pytest.approx(HALF_OF_RECALLS)


def test_a_false_alarm_above_the_hits_costs_precision_and_below_them_nothing() -> None:
    truths = [make_truth(FIRST)]

    first = coco_map(truths, [make_found((NOWHERE, 0.9), (FIRST, 0.5))], 1)
    last = coco_map(truths, [make_found((FIRST, 0.9), (NOWHERE, 0.5))], 1)

    assert first["map50"] == pytest.approx(0.5)
    assert last["map50"] == pytest.approx(1.0)


def test_a_second_detection_of_an_object_is_a_false_alarm() -> None:
    truths = [make_truth(FIRST, SECOND)]
    found = [make_found((FIRST, 0.9), (FIRST, 0.8), (SECOND, 0.7))]

    # Precision 1 up to recall 0.5, then 2/3.
    assert coco_map(truths, found, 1)["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_each_iou_threshold_counts_for_a_tenth() -> None:
    # 10 x 10 against 10 x 8 shares 0.8: hits at .50 to .80, that is at 7 of 10 thresholds. The
    # exact 0.8 would be decided by rounding, so the box is a little larger.
    found = [make_found(((0, 0, 10, 8.1), 0.9))]

    assert coco_map([make_truth(FIRST)], found, 1)["map50_95"] == pytest.approx(0.7)
    expected = pytest.approx(0.7 * PERFECT_YOLOV5)
    assert yolov5_map([make_truth(FIRST)], found, 1).map50_95 == expected


def test_the_class_must_be_right() -> None:
    found = [make_found((FIRST, 0.9), classes=[1])]

    assert coco_map([make_truth(FIRST)], found, 2)["map50"] == 0.0
    assert yolov5_map([make_truth(FIRST)], found, 2).map50 == 0.0


def test_a_class_without_a_truth_is_left_out_of_the_means() -> None:
    found = [make_found((FIRST, 0.9), (NOWHERE, 0.95), classes=[0, 1])]

    coco = coco_map([make_truth(FIRST)], found, 3)
    yolov5 = yolov5_map([make_truth(FIRST)], found, 3)

    assert coco["map50"] == 1.0
    assert coco["ap_per_class"].tolist() == [1.0, -1.0, -1.0]
    assert yolov5.map50 == pytest.approx(PERFECT_YOLOV5)
    assert yolov5.ap[1:].max() == -1.0


@pytest.mark.parametrize("truths", [[], [make_truth()], [make_truth(FIRST)]])
def test_nothing_found_is_zero_and_no_error(truths: list[Truth]) -> None:
    for found in ([], [make_found()] if truths else []):
        yolov5 = yolov5_map(truths, found, 2)

        assert coco_map(truths, found, 2)["map50_95"] == 0.0
        assert (yolov5.map50_95, yolov5.precision, yolov5.recall, yolov5.f1) == (0, 0, 0, 0)


def test_coco_uses_the_best_100_detections_of_a_class_in_an_image() -> None:
    alarms = [(NOWHERE, 0.9)] * 100

    assert coco_map([make_truth(FIRST)], [make_found(*alarms, (FIRST, 0.5))], 1)["map50"] == 0.0
    assert coco_map([make_truth(FIRST)], [make_found(*alarms[1:], (FIRST, 0.5))], 1)["map50"] > 0.0


def test_a_perfect_class_scores_0_995_in_yolov5_terms() -> None:
    metrics = yolov5_map([make_truth(FIRST, SECOND)], [make_found((FIRST, 0.9), (SECOND, 0.8))], 1)

    assert metrics.map50_95 == pytest.approx(PERFECT_YOLOV5)
    assert (metrics.precision, metrics.recall, metrics.f1) == (1, 1, 1)


def test_yolov5_interpolates_precision_linearly_down_to_recall_one() -> None:
    # Precision 1 up to recall 0.5, then a line to 0 at recall 1.
    metrics = yolov5_map([make_truth(FIRST, SECOND)], [make_found((FIRST, 0.9))], 1)

    assert metrics.map50 == pytest.approx(0.5 + 0.25, abs=0.005)


def test_precision_and_recall_are_taken_where_f1_is_best() -> None:
    truths = [make_truth(FIRST, SECOND)]
    found = [make_found((FIRST, 0.9), (SECOND, 0.8), *[(NOWHERE, 0.2)] * 8)]

    metrics = yolov5_map(truths, found, 1)

    assert 0.2 < metrics.confidence < 0.8
    assert metrics.precision > 0.95  # interpolated between the scores 0.8 and 0.2
    assert metrics.recall == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_images_and_of_detections_does_not_matter(seed: int) -> None:
    truths, found = random_scene(seed)
    shuffled = [
        Detections(one.image_id, one.boxes_xyxy_px[::-1], one.scores[::-1], one.classes[::-1])
        for one in reversed(found)
    ]

    assert coco_map(truths[::-1], shuffled, 3)["map50_95"] == coco_map(truths, found, 3)["map50_95"]
    assert yolov5_map(truths[::-1], shuffled, 3).map50_95 == yolov5_map(truths, found, 3).map50_95


@pytest.mark.parametrize("seed", range(3))
def test_without_duplicates_both_figures_agree_within_a_few_points(seed: int) -> None:
    truths, found = random_scene(seed, copies=1)

    coco, yolov5 = coco_map(truths, found, 3), yolov5_map(truths, found, 3)

    # Few objects make the different interpolation between recalls visible.
    assert yolov5.map50 == pytest.approx(coco["map50"], abs=0.12)
    assert 0.05 < coco["map50_95"] < coco["map50"] < 1


@pytest.mark.parametrize("seed", range(3))
def test_coco_agrees_with_its_definition_written_out(seed: int) -> None:
    truths, found = random_scene(seed)

    metrics = coco_map(truths, found, 3)

    aps = [plain_ap(truths, found, 3, minimum=level / 100) for level in range(50, 100, 5)]
    assert metrics["map50"] == pytest.approx(aps[0])
    assert metrics["map50_95"] == pytest.approx(np.mean(aps))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_ranks_that_share_the_classes_measure_what_one_rank_does(num_ranks: int) -> None:
    truths, found = random_scene(0, num_classes=4)
    crowd = np.array([(40, 40, 90, 90)], np.float32)
    truths[0] = dataclasses.replace(
        truths[0], crowds_xyxy_px=crowd, crowd_classes=np.array([2], np.int64)
    )
    num_classes = 6  # of which two have no box
    shares = share_classes(truths, found, num_classes, num_ranks)
    assert sorted(class_id for share in shares for class_id in share) == list(range(num_classes))
    evaluation = summarize([measure_part(truths, found, s) for s in shares], truths, found)
    coco, yolov5 = coco_map(truths, found, num_classes), yolov5_map(truths, found, num_classes)
    assert 0 < evaluation.metrics["map50_95"] == coco["map50_95"]
    assert evaluation.coco is not None and evaluation.curves is not None
    for key, value in coco.items():
        assert np.array_equal(evaluation.coco[key], value), key
    for field in dataclasses.fields(yolov5):
        found_value, value = getattr(evaluation.curves, field.name), getattr(yolov5, field.name)
        assert np.array_equal(found_value, value), field.name


def test_classes_are_shared_by_their_boxes() -> None:
    truths = [make_truth(*[FIRST] * 7, classes=[0, 0, 0, 0, 1, 1, 2])]
    found = [make_found(((NOWHERE), 0.5), classes=[2])]
    assert share_classes(truths, found, 3, 2) == [[0], [1, 2]]
    assert share_classes([], [], 3, 2) == [[0, 2], [1]]


def plain_ap(
    truths: list[Truth], found: list[Detections], num_classes: int, *, minimum: float
) -> float:
    """COCO's AP at one IoU, one detection at a time: by score, each to its best free truth."""
    aps = []
    for label in range(num_classes):
        rows = [
            (score, one.image_id, box)
            for one in found
            for box, score, own in zip(one.boxes_xyxy_px, one.scores, one.classes, strict=True)
            if own == label
        ]
        free = {truth.image_id: truth.boxes_xyxy_px[truth.classes == label] for truth in truths}
        total, hits, precision, recall = sum(map(len, free.values())), 0, [], []
        for rank, (_, image, box) in enumerate(sorted(rows, key=lambda row: -row[0]), start=1):
            iou = pairwise_iou(free[image], box[None])[:, 0]
            if len(iou) and iou.max() >= minimum:
                free[image] = np.delete(free[image], iou.argmax(), axis=0)
                hits += 1
            precision.append(hits / rank)
            recall.append(hits / total)
        reached = [
            max((p for p, r in zip(precision, recall, strict=True) if r >= level), default=0.0)
            for level in np.linspace(0, 1, 101)
        ]
        aps.append(math.fsum(reached) / 101)
    return math.fsum(aps) / num_classes


corner = st.floats(0, 50, width=32)
boxes = st.tuples(corner, corner, st.floats(50.5, 100, width=32), st.floats(50.5, 100, width=32))


@settings(max_examples=30, deadline=None)
@given(st.lists(boxes, max_size=4), st.lists(boxes, max_size=4))
def test_iou_is_symmetric_and_at_most_one(
    first: list[tuple[float]], second: list[tuple[float]]
) -> None:
    left = np.array(first, dtype=np.float32).reshape(-1, 4)
    right = np.array(second, dtype=np.float32).reshape(-1, 4)

    iou = pairwise_iou(left, right)

    assert iou.shape == (len(first), len(second))
    np.testing.assert_array_equal(iou, pairwise_iou(right, left).T)
    np.testing.assert_array_equal(np.diag(pairwise_iou(left, left)), 1.0)
    assert ((iou >= 0) & (iou <= 1)).all()


def test_empty_boxes_overlap_nothing() -> None:
    empty = np.zeros((1, 4), dtype=np.float32)

    assert pairwise_iou(empty, empty).tolist() == [[0.0]]


def test_pairs_are_formed_by_falling_overlap_and_once() -> None:
    # The first detection prefers truth 0, where the second fits better: it gets truth 1.
    truth_of, overlap = match_by_iou(np.array([[0.8, 0.9, 0.7], [0.6, 0.1, 0.5]]), 0.5)

    assert truth_of.tolist() == [1, 0, -1]
    assert overlap.tolist() == [0.6, 0.9, 0.0]
