"""A classifier's answers over a split, gathered over ranks and measured. Plain numpy but for that."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainjobs.distributed import broadcast_object, gather_lists

NUM_KEPT = 5
"""Best classes of an image that are kept: what top-5 asks for."""
ROWS_AT_ONCE = 1024
"""Embeddings compared with all others at a time; N of them take 8 N * 1024 bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a classifier says of some images."""

    images: NDArray[np.int64]
    """(N,) index in the split."""
    labels: NDArray[np.int64]
    """(N,) their class."""
    classes: NDArray[np.int64]
    """(N, K) the classes found, best first; K is at most 5."""
    scores: NDArray[np.float32]
    """(N, K) their shares of the softmax, or of the nearest images a cosine."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassEvaluation:
    """One measurement of a split. Rank 0 holds it all; the others hold the metrics alone."""

    metrics: dict[str, float]
    """top1 and top5: share of images whose class is the best, or among the best min(5, classes)."""
    answers: Answers | None = None


def best_classes(
    outputs: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `count` highest outputs of each row (N, C), highest first; the lower class wins a tie."""
    classes = np.argsort(-outputs, axis=1, kind="stable")[:, :count]
    return classes, np.take_along_axis(outputs, classes, axis=1)


def nearest_others(
    embeddings: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `count` other rows nearest to each of (N, E), nearest first, and the cosines to them."""
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    found, cosines = [], []
    for start in range(0, len(unit), ROWS_AT_ONCE):
        block = unit[start : start + ROWS_AT_ONCE] @ unit.T
        rows = np.arange(len(block))
        block[rows, start + rows] = -np.inf  # not an image with itself
        order, values = best_classes(block, count)
        found.append(order)
        cosines.append(values)
    return np.concatenate(found), np.concatenate(cosines).astype(np.float32)


def measure_classes(answers: Answers) -> dict[str, float]:
    """top1 and top5 of the answers to a whole split."""
    hits = answers.classes == answers.labels[:, None]
    # The only image of a split has no neighbor, and so no answer.
    return {"top1": float(hits[:, :1].any(axis=1).mean()), "top5": float(hits.any(axis=1).mean())}


def evaluate_answers(mine: Sequence[Answers]) -> ClassEvaluation:
    """Measure what all ranks found together; called on every rank."""
    evaluation = ClassEvaluation({})
    if found := gather_lists(list(mine)):  # rank 0 alone
        answers = join_answers(found)
        evaluation = ClassEvaluation(measure_classes(answers), answers)
    return ClassEvaluation(broadcast_object(evaluation.metrics), evaluation.answers)


def evaluate_embeddings(
    mine: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]],
) -> ClassEvaluation:
    """Measure embeddings by their nearest neighbors among all others; called on every rank.

    An image is given the class of the image nearest to it, so top1 is recall@1, and top5 recall@5.

    Args:
        mine: images (n,), labels (n,) and embeddings (n, E) of each of this rank's batches.
    """
    evaluation = ClassEvaluation({})
    if found := gather_lists(list(mine)):  # rank 0 alone
        images, labels, embeddings = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(images)
        images, labels, embeddings = images[order], labels[order], embeddings[order]
        neighbors, cosines = nearest_others(embeddings, min(NUM_KEPT, len(images) - 1))
        answers = Answers(images, labels, labels[neighbors], cosines)
        metrics = measure_classes(answers)
        evaluation = ClassEvaluation(metrics | {"recall_at_1": metrics["top1"]}, answers)
    return ClassEvaluation(broadcast_object(evaluation.metrics), evaluation.answers)


def join_answers(parts: Sequence[Answers]) -> Answers:
    """Answers to all of a split, in the order of its images."""
    images, labels, classes, scores = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("images", "labels", "classes", "scores")
    )
    order = np.argsort(images)
    return Answers(images[order], labels[order], classes[order], scores[order])


def count_confusions(answers: Answers, num_classes: int) -> NDArray[np.int64]:
    """(C, C) images by class found (rows) and true class (columns)."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (answers.classes[:, 0], answers.labels), 1)
    return matrix


def class_accuracies(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C,) share of each class's images that were found; NaN for a class without images."""
    totals = matrix.sum(axis=0)
    accuracies: NDArray[np.float64] = np.where(
        totals > 0, np.diag(matrix) / np.maximum(totals, 1), np.nan
    )
    return accuracies


def surest_mistakes(answers: Answers, count: int) -> NDArray[np.int64]:
    """Rows of the wrong answers that were given with the highest scores, the surest first."""
    wrong = np.flatnonzero(answers.classes[:, 0] != answers.labels)
    order = np.argsort(-answers.scores[wrong, 0], kind="stable")
    chosen: NDArray[np.int64] = wrong[order[:count]]
    return chosen
