"""Pictures of a run: its curves, its confusions, its detections. Written as PNG without a display.

Only matplotlib's objects are used, never pyplot, whose figures are shared by all threads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from trainjobs.data.packed.shards import Split
from trainjobs.evaluation.confusion import confusion_matrix
from trainjobs.evaluation.evaluate import Evaluation
from trainjobs.evaluation.plot_style import DPI, FAINT, INK, class_color, plain_axes, plain_text
from trainjobs.evaluation.samples import plot_samples
from trainjobs.evaluation.yolov5_map import CONFIDENCES, RECALLS, Yolov5Metrics

MAX_NAMED_CLASSES = 12  # with more, a legend hides the curves
MAX_LABELED_CLASSES = 120  # with more, labels lie on each other
MAX_LABEL = 24  # characters
MAX_COUNTED_CLASSES = 25  # with more, numbers in the cells cannot be read
NUM_SAMPLES = 8
BOOKKEEPING = ("epoch", "optimizer_steps", "images_seen", "lr", "images_per_second", "epoch_s")


def draw_evaluation(evaluation: Evaluation, split: Split, folder: Path) -> None:
    """Write precision_recall.png, confusion.png and samples.png of one evaluation.

    Raises:
        DatasetError: an image of the split cannot be read.
    """
    truths, detections, names = evaluation.truths, evaluation.detections, split.names
    if evaluation.curves is not None:
        plot_precision_recall(evaluation.curves, names, folder / "precision_recall.png")
    matrix = confusion_matrix(truths, detections, len(names))
    plot_confusion(matrix, names, folder / "confusion.png")
    truth_of = {truth.image_id: truth for truth in truths}
    found_in = {found.image_id: found for found in detections}
    shared = sorted(truth_of.keys() & found_in.keys())
    if shared:
        spread = np.linspace(0, len(shared) - 1, min(NUM_SAMPLES, len(shared))).round()
        chosen = [shared[int(place)] for place in spread]
        plot_samples(
            [split.read_image(index) for index in chosen],
            [truth_of[index] for index in chosen],
            [found_in[index] for index in chosen],
            names,
            folder / "samples.png",
        )


def plot_history(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Losses, metrics and learning rate over epochs.

    Args:
        rows: of metrics.csv; a metric may be missing where an epoch was not evaluated.
        path: PNG to write.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    metrics = [key for key in columns if not key.startswith("train_") and key not in BOOKKEEPING]
    losses = [
        key
        for key in columns
        if key.startswith("train_") and key.removeprefix("train_") not in metrics
    ]
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    left, middle, right = (_axes(figure, 130 + number, "epoch") for number in (1, 2, 3))
    left.set_title("training loss")
    middle.set_title("validation")
    right.set_title("learning rate")
    for position, key in enumerate(losses):
        label = key.removeprefix("train_").replace("loss", "total")
        _curve(
            left, rows, key, color=INK if label == "total" else class_color(position), label=label
        )
    for position, key in enumerate(metrics):
        _curve(middle, rows, key, color=class_color(position), label=key)
        if f"train_{key}" in columns:
            label = f"{key}, training"
            _curve(middle, rows, f"train_{key}", color=class_color(position), label=label, ls=":")
    _curve(right, rows, "lr", color=INK, label="lr")
    if left.dataLim.y0 >= 0:  # a loss of one's own may be negative
        left.set_ylim(bottom=0)
    middle.set_ylim(0, 1)
    right.set_ylim(bottom=0)
    for axes, keys in ((left, losses), (middle, metrics)):
        if keys:
            axes.legend(frameon=False)
    for axes in (left, middle, right):
        axes.set_xlim(0.5, max([1.0, *_points(rows, "epoch")[0]]) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if any(_points(rows, key)[1] for key in metrics[:1]):
        _mark_best(middle, rows, metrics[0])
    figure.savefig(path, dpi=DPI)


def plot_precision_recall(metrics: Yolov5Metrics, names: Sequence[str], path: Path) -> None:
    """Precision over recall, and F1 over confidence, at IoU 0.5, by class and in the mean."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = _axes(figure, 121, "recall"), _axes(figure, 122, "confidence")
    left.set_title(f"precision over recall, IoU 0.5, mean AP {metrics.map50:.3f}")
    left.set_ylabel("precision")
    right.set_title(f"best mean F1 {metrics.f1:.3f} at confidence {metrics.confidence:.3f}")
    right.set_ylabel("F1")
    occurs = np.flatnonzero(metrics.num_truths)
    named = len(occurs) <= MAX_NAMED_CLASSES
    for index in occurs.tolist():
        color, width = (class_color(index), 1.4) if named else (FAINT, 0.6)
        label = f"{names[index]}  {metrics.ap[index, 0]:.3f}" if named else None
        left.plot(RECALLS, metrics.precision_at_recall[index], label=label, color=color, lw=width)
        right.plot(CONFIDENCES, metrics.f1_at_confidence[index], color=color, lw=width)
    if len(occurs):
        envelope, f1 = (
            curves[occurs].mean(axis=0)
            for curves in (metrics.precision_at_recall, metrics.f1_at_confidence)
        )
        left.plot(RECALLS, envelope, label="mean", color=INK, lw=2.6)
        right.plot(CONFIDENCES, f1, color=INK, lw=2.6)
        right.axvline(metrics.confidence, color=INK, lw=1, ls=":")
        left.legend(frameon=False, loc="lower left")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    figure.savefig(path, dpi=DPI)


def plot_confusion(matrix: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Predicted over true class: color is the share of a true class, numbers are counts.

    Args:
        matrix: (C + 1, C + 1), rows predicted, columns true, the last of each is background.
        names: C.
        path: PNG to write.
    """
    draw_confusion(
        matrix, [*names, "background"], path, title="confusion at confidence 0.25, IoU 0.45"
    )


def draw_confusion(
    matrix: NDArray[np.int64], labels: Sequence[str], path: Path, *, title: str
) -> None:
    """Predicted over true class: color is the share of a true class, numbers are counts.

    Args:
        matrix: (L, L), rows predicted, columns true.
        labels: L.
        path: PNG to write.
        title: above it.
    """
    share = matrix / np.maximum(matrix.sum(axis=0, keepdims=True), 1)
    side = min(5.0 + 0.45 * len(labels), 14.0)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    size = float(np.clip(220 / len(labels), 5, 11))
    shown = [plain_text(label, MAX_LABEL) for label in labels]
    if len(shown) > MAX_LABELED_CLASSES:
        shown = []
    ticks = range(len(shown))
    axes.set_xticks(ticks, shown, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(ticks, shown, fontsize=size)
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    axes.set_title(title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if len(labels) <= MAX_COUNTED_CLASSES:
        for row, column in np.argwhere(matrix > 0):
            color = "white" if share[row, column] > 0.5 else INK
            count = str(matrix[row, column])
            axes.text(column, row, count, ha="center", va="center", color=color, fontsize=size)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, label="share of the true class")
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=DPI)


def _axes(figure: Figure, place: int, xlabel: str) -> Axes:
    axes = plain_axes(figure.add_subplot(place))
    axes.set_xlabel(xlabel)
    return axes


def _points(rows: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    measured = [row for row in rows if row.get(key) is not None]
    return [row["epoch"] for row in measured], [row[key] for row in measured]


def _curve(
    axes: Axes,
    rows: Sequence[Mapping[str, float]],
    key: str,
    *,
    color: str,
    label: str,
    ls: str = "-",
) -> None:
    epochs, values = _points(rows, key)
    marker = "o" if len(epochs) <= 20 else None  # a curve of few points shows them
    axes.plot(epochs, values, color=color, label=label, marker=marker, ms=3.5, ls=ls)


def _mark_best(axes: Axes, rows: Sequence[Mapping[str, float]], key: str) -> None:
    epochs, values = _points(rows, key)
    best = int(np.argmax(values))
    axes.set_title(f"validation, best {key} {values[best]:.3f} at epoch {epochs[best]:g}")
    axes.plot(epochs[best], values[best], "o", ms=9, mfc="none", mec=INK)
