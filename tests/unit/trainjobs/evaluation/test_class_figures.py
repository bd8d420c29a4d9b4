"""Figures of a classifier's answers and pictures of them, on values that can be checked by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.classified_images import write_folders
from tests.unit.trainjobs.evaluation.test_confusion_plots import image_size
from trainjobs.config import DataConfig
from trainjobs.data.packed.shards import Split
from trainjobs.data.prepare import prepare_dataset
from trainjobs.evaluation.classification import (
    Answers,
    best_classes,
    class_accuracies,
    count_confusions,
    evaluate_answers,
    evaluate_embeddings,
    nearest_others,
    surest_mistakes,
)
from trainjobs.evaluation.classification_plots import draw_classification

EMBEDDINGS = np.array([[1, 0], [2, 0.2], [0, 3], [0.1, 1], [-1, 0]], np.float32)
"""0 and 1 are near each other, so are 2 and 3; the last is nearest to 2."""


def make_answers(labels: list[int], outputs: object) -> Answers:
    classes, scores = best_classes(np.asarray(outputs, np.float32), 5)
    return Answers(np.arange(len(labels)), np.array(labels), classes, scores)


def measure(labels: list[int], outputs: object) -> dict[str, float]:
    return evaluate_answers([make_answers(labels, outputs)]).metrics


def test_top1_counts_the_best_class_and_top5_the_best_five() -> None:
    # The label's scores are the 1st, 5th, 6th and 2nd of six.
    outputs = [[6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]]
    assert measure([0, 4, 5, 4], outputs) == {"top1": 0.25, "top5": 0.75}


def test_with_fewer_than_five_classes_top5_is_all_of_them() -> None:
    assert measure([0, 1, 2], [[3, 2, 1]] * 3) == {"top1": pytest.approx(1 / 3), "top5": 1.0}


def test_the_lower_class_wins_a_tie() -> None:
    classes, scores = best_classes(np.array([[1, 2, 2, 1]], np.float32), 3)
    assert classes.tolist() == [[1, 2, 0]] and scores.tolist() == [[2, 2, 1]]


def test_answers_are_in_the_order_of_images_whoever_gave_them() -> None:
    whole = make_answers([0, 1, 2, 0], np.eye(4)[[0, 1, 1, 2]])
    names = ("images", "labels", "classes", "scores")
    parts = [
        Answers(*(getattr(whole, name)[rows] for name in names)) for rows in ([2, 3], [0], [1])
    ]
    found = evaluate_answers(parts).answers
    assert found is not None
    assert all(np.array_equal(getattr(found, name), getattr(whole, name)) for name in names)


def test_the_neighbors_of_an_embedding_are_those_at_the_least_angle_without_itself() -> None:
    neighbors, cosines = nearest_others(EMBEDDINGS, 2)
    assert neighbors.tolist() == [[1, 3], [0, 3], [3, 1], [2, 1], [2, 3]]
    assert cosines[0, 0] == pytest.approx(2 / np.hypot(2, 0.2)) and (np.diff(cosines) <= 0).all()


def test_embeddings_more_than_are_compared_at_once_have_the_same_neighbors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, _ = nearest_others(EMBEDDINGS, 3)
    monkeypatch.setattr("trainjobs.evaluation.classification.ROWS_AT_ONCE", 2)
    assert nearest_others(EMBEDDINGS, 3)[0].tolist() == expected.tolist()


def test_recall_at_1_is_the_share_of_images_whose_neighbor_is_of_their_class() -> None:
    part = (np.arange(5), np.array([0, 0, 1, 0, 1]), EMBEDDINGS)
    # Neighbors 1, 0, 3, 2, 2: right for 0, 1 and 4. Of the four others, all find one of their class.
    expected = {"top1": 0.6, "top5": 1.0, "recall_at_1": 0.6}
    assert evaluate_embeddings([part]).metrics == pytest.approx(expected)


def test_embeddings_are_measured_alike_however_images_are_cut_into_batches() -> None:
    labels = np.array([0, 0, 1, 0, 1])
    parts = [
        (rows, labels[rows], EMBEDDINGS[rows]) for rows in (np.array([4, 2]), np.array([3, 0, 1]))
    ]
    whole = evaluate_embeddings([(np.arange(5), labels, EMBEDDINGS)])
    assert evaluate_embeddings(parts).metrics == whole.metrics


def test_the_only_image_of_a_split_has_no_neighbor_and_so_no_right_answer() -> None:
    part = (np.array([0]), np.array([1]), EMBEDDINGS[:1])
    assert evaluate_embeddings([part]).metrics == {"top1": 0.0, "top5": 0.0, "recall_at_1": 0.0}


def test_confusions_count_classes_found_in_rows_and_true_ones_in_columns() -> None:
    answers = make_answers([0, 0, 1], np.eye(3)[[0, 1, 1]])
    matrix = count_confusions(answers, 3)
    assert matrix.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    accuracies = class_accuracies(matrix)
    assert accuracies[:2].tolist() == [0.5, 1.0] and np.isnan(accuracies[2])


def test_the_surest_mistakes_come_first_and_right_answers_never() -> None:
    answers = make_answers([0, 0, 0, 0], [[9, 0], [0, 1], [0, 3], [0, 2]])
    assert surest_mistakes(answers, 2).tolist() == [2, 3]
    assert surest_mistakes(answers, 9).tolist() == [2, 3, 1]


def make_split(folder: Path, names: list[str]) -> Split:
    """An image of each class."""
    source = write_folders(folder / "images", {"train": names, "val": names}, num_images=1)
    return prepare_dataset(str(source), folder / "cache", DataConfig(), 0).open("val")


def draw(split: Split, folder: Path, num_wrong: int) -> dict[str, Path]:
    """The pictures by name; the first images are taken for the class after theirs."""
    folder.mkdir()
    labels = np.arange(len(split))
    found = np.where(labels < num_wrong, (labels + 1) % len(split), labels)
    draw_classification(make_answers(labels.tolist(), np.eye(len(split))[found]), split, folder)
    return {file.stem: file for file in folder.iterdir()}


@pytest.mark.parametrize(("num_classes", "num_wrong"), [(100, 100), (3, 1)])
def test_confusions_accuracies_and_mistakes_are_drawn_for_any_number_of_classes(
    tmp_path: Path, num_classes: int, num_wrong: int
) -> None:
    names = [f"{number:02d} of a long name that does not fit" for number in range(num_classes)]
    pictures = draw(make_split(tmp_path, names), tmp_path / "plots", num_wrong)
    assert pictures.keys() == {"confusion", "class_accuracy", "mistakes"}
    assert all(image_size(file) for file in pictures.values())


def test_names_that_a_font_or_a_formula_cannot_show_are_drawn(tmp_path: Path) -> None:
    split = make_split(tmp_path, ["$\\frac{", "caf\u00e9 \u732b", "cash $ and $x^$"])
    assert len(draw(split, tmp_path / "plots", 3)) == 3


def test_without_a_mistake_none_is_drawn(tmp_path: Path) -> None:
    pictures = draw(make_split(tmp_path, ["a", "b"]), tmp_path / "plots", 0)
    assert pictures.keys() == {"confusion", "class_accuracy"}


def test_the_pictures_that_were_mistaken_are_shown(tmp_path: Path) -> None:
    split = make_split(tmp_path, ["a", "b"])
    shown = cv2.imread(str(draw(split, tmp_path / "plots", 1)["mistakes"]))
    assert shown is not None
    color = split.read_image(0)[0, 0, ::-1].astype(int)
    assert (np.abs(shown.astype(int) - color).max(axis=2) <= 1).sum() > 5000
