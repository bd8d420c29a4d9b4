import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from trainjobs.evaluation.confusion import confusion_matrix
from trainjobs.evaluation.detections import Detections, Truth
from trainjobs.evaluation.plots import plot_confusion, plot_history, plot_precision_recall
from trainjobs.evaluation.samples import plot_samples
from trainjobs.evaluation.yolov5_map import yolov5_map

FIRST, SECOND, NOWHERE = (0, 0, 10, 10), (50, 50, 70, 70), (90, 90, 99, 99)
NAMES = ("cat", "dog")


def make_truth(*rows: tuple[tuple[int, ...], int]) -> Truth:
    boxes = np.array([box for box, _ in rows], dtype=np.float32).reshape(-1, 4)
    return Truth(0, 100, 100, boxes, np.array([label for _, label in rows], dtype=np.int64))


def make_found(*rows: tuple[tuple[int, ...], int, float]) -> Detections:
    boxes = np.array([box for box, _, _ in rows], dtype=np.float32).reshape(-1, 4)
    scores = np.array([score for *_, score in rows], dtype=np.float32)
    return Detections(0, boxes, scores, np.array([row[1] for row in rows], dtype=np.int64))


def image_size(path: Path) -> tuple[int, ...]:
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.min() < 100 < picture.max()  # something is drawn
    return picture.shape[:2]


def test_rows_are_predicted_and_columns_true_and_background_last() -> None:
    truths = [make_truth((FIRST, 0), (SECOND, 1))]
    found = [make_found((FIRST, 1, 0.9), (NOWHERE, 0, 0.8))]

    matrix = confusion_matrix(truths, found, 2)

    # A cat taken for a dog, an invented cat, a missed dog.
    assert matrix.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_detections_of_little_confidence_are_not_counted() -> None:
    matrix = confusion_matrix([make_truth((FIRST, 0))], [make_found((FIRST, 0, 0.2))], 1)

    assert matrix.tolist() == [[0, 0], [1, 0]]


def test_every_object_is_counted_once_also_in_images_without_detections() -> None:
    truths = [make_truth((FIRST, 0), (SECOND, 1), (NOWHERE, 1))]

    columns = confusion_matrix(truths, [], 2).sum(axis=0)

    assert columns.tolist() == [1, 2, 0]


@pytest.mark.parametrize("num_rows", [0, 30])
def test_history_is_drawn_from_any_number_of_epochs(tmp_path: Path, num_rows: int) -> None:
    rows: list[dict[str, float]] = [
        {"epoch": epoch, "lr": 0.01, "train_loss": 1 / epoch, "train_box": 0.5 / epoch}
        for epoch in range(1, num_rows + 1)
    ]
    for row in rows[1::2]:
        row["map50_95"] = 0.5

    plot_history(rows, tmp_path / "history.png")

    assert image_size(tmp_path / "history.png")


@pytest.mark.parametrize("sign", [1, -1])
def test_a_loss_is_drawn_from_zero_or_from_its_least_if_that_is_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: int
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    rows = [{"epoch": epoch, "lr": 0.01, "train_loss": sign * epoch} for epoch in (1, 2)]
    plot_history(rows, tmp_path / "history.png")
    low, high = drawn[0].axes[0].get_ylim()
    assert (low == 0 and high > 2) if sign > 0 else (low < -2 and high < 0)


@pytest.mark.parametrize("num_classes", [1, 40])
def test_curves_and_confusion_are_drawn_for_any_number_of_classes(
    tmp_path: Path, num_classes: int
) -> None:
    truths, found = [make_truth((FIRST, 0))], [make_found((FIRST, 0, 0.9))]
    names = [f"class {index}" for index in range(num_classes)]

    plot_precision_recall(yolov5_map(truths, found, num_classes), names, tmp_path / "pr.png")
    plot_confusion(confusion_matrix(truths, found, num_classes), names, tmp_path / "confusion.png")

    assert image_size(tmp_path / "pr.png")
    assert image_size(tmp_path / "confusion.png")


def test_curves_are_drawn_where_nothing_is_labeled(tmp_path: Path) -> None:
    plot_precision_recall(yolov5_map([], [], 2), NAMES, tmp_path / "pr.png")

    assert image_size(tmp_path / "pr.png")


def test_samples_of_any_size_are_drawn_off_the_main_thread(tmp_path: Path) -> None:
    images = [np.full((height, 1000, 3), 40, dtype=np.uint8) for height in (100, 3000, 500)]
    truths = [make_truth((FIRST, 0), (SECOND, 1))] * 3
    found = [make_found((FIRST, 1, 0.9), (NOWHERE, 0, 0.1))] * 3
    path = tmp_path / "samples.png"

    thread = threading.Thread(target=plot_samples, args=(images, truths, found, NAMES, path))
    thread.start()
    thread.join()

    height, width = image_size(path)
    assert width > height
    picture = np.asarray(cv2.imread(str(path))).astype(int)
    assert (np.ptp(picture, axis=2) > 100).sum() > 500  # colored boxes on the gray images


@pytest.mark.parametrize("names", [["$x", "a_$^"], ["\u732b", "x" * 300]])
def test_class_names_are_drawn_as_they_are_read_not_as_formulas(
    names: list[str], tmp_path: Path
) -> None:
    plot_confusion(np.eye(3, dtype=np.int64), names, tmp_path / "confusion.png")
    assert image_size(tmp_path / "confusion.png") > (100, 100)


def test_too_many_classes_to_label_are_drawn_without_labels(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(300)]
    plot_confusion(np.eye(301, dtype=np.int64), names, tmp_path / "confusion.png")
    assert image_size(tmp_path / "confusion.png") > (100, 100)
