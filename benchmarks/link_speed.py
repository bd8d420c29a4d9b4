"""What the speed of the links means for data-parallel training: arithmetic, nothing is measured.

    python -m benchmarks.link_speed

prints tables of docs/operations.md. In each step N ranks in a ring send 2 (N - 1) / N of the gradients
each. That costs no time as long as a backward pass hides it.
"""

from functools import cache

import torch

from trainjobs.detector.model import build_yolov5
from trainjobs.preview import count_parameters

MODELS = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")
NUM_CLASSES = 80  # COCO's
BYTES_PER_PARAMETER = 4
"""Gradients are float32, in mixed precision too."""
LINKS_GBIT = (1, 10, 25, 100, 200, 400)
LINE_RATE = 0.8
"""Share of a link that a collective gets. A guess: `python -m cluster doctor` measures yours."""
FEW, MANY = 2, 16
BACKWARD_FRACTION = 2 / 3
"""Of a micro-batch's time: a backward pass has twice the products of a forward pass."""


@cache
def num_parameters(model: str) -> int:
    """Parameters of a model with COCO's classes."""
    with torch.device("meta"):
        return count_parameters(build_yolov5(model, NUM_CLASSES))


def moved_bytes(parameters: int, ranks: int) -> float:
    """Bytes that each rank of a ring sends, and receives, in a step."""
    return 2 * (ranks - 1) / ranks * BYTES_PER_PARAMETER * parameters


def all_reduce_ms(parameters: int, ranks: int, link_gbit: float) -> float:
    """Milliseconds that this takes."""
    return 1000 * moved_bytes(parameters, ranks) * 8 / (LINE_RATE * link_gbit * 1e9)


def bytes_table() -> str:
    """What each model's step moves."""
    head = ["model", "parameters", "gradients", *(f"sent, N = {n}" for n in (FEW, MANY))]
    rows = []
    for model in MODELS:
        parameters = num_parameters(model)
        sizes = (
            BYTES_PER_PARAMETER * parameters,
            *(moved_bytes(parameters, n) for n in (FEW, MANY)),
        )
        rows.append([model, f"{parameters:,}", *(f"{size / 1e6:.1f} MB" for size in sizes)])
    return _table(head, rows)


def times_table(ranks: int) -> str:
    """A step's all-reduce in ms, and behind it the micro-batch in ms that hides it."""
    rows = []
    for model in MODELS:
        parameters = num_parameters(model)
        times = [all_reduce_ms(parameters, ranks, link) for link in LINKS_GBIT]
        rows.append([model, *(f"{ms:.1f} / {ms / BACKWARD_FRACTION:.1f}" for ms in times)])
    return _table(["model", *(f"{link} Gbit/s" for link in LINKS_GBIT)], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("| --- ", "|---")


if __name__ == "__main__":
    print(bytes_table(), times_table(MANY), sep="\n\n")
