"""What the end of an epoch keeps training from: writing its files, and measuring a detector.

    python -m benchmarks.epoch_end [--model yolov5x] [--ranks 1 2 4 8]

Files: training waits for a copy of the whole state instead of for the files, which a thread writes.
Figures: ranks share the classes. What was found is random, as much as a detector early in training
finds in COCO's 5,000 images for validation; a third of the boxes is of one class, as there.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import SGD

from trainjobs.checkpoint import TrainState, save_checkpoint, save_weights
from trainjobs.detector.model import build_yolov5
from trainjobs.evaluation.detections import Detections, Truth, share_classes
from trainjobs.evaluation.evaluate import measure_part, summarize
from trainjobs.host_copy import HostCopy
from trainjobs.optim.ema import ModelEma

NUM_CLASSES, NUM_IMAGES = 80, 5000
COMMON_SHARE = 0.3
"""Of the boxes, those of the most common class (person has 30 % of COCO's)."""
MAX_TRUTHS, MAX_FOUND = 15, 300
TICK_S = 0.0005


def whole_state(name: str) -> dict[str, Any]:
    """What a checkpoint of this detector holds, on the device that it is trained on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_yolov5(name, NUM_CLASSES).to(device)
    ema = ModelEma(model, decay=0.9999, warmup_steps=2000)
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {
        "model": model.state_dict(),
        "ema": ema.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": {},
    }


def write_files(copied: HostCopy) -> None:
    """As `EpochWriter` does on a local disk."""
    with tempfile.TemporaryDirectory() as folder:
        tensors = copied.read()
        save_weights(Path(folder, "weights"), tensors["ema"], {})
        Path(folder, "checkpoint").mkdir()
        save_checkpoint(Path(folder, "checkpoint"), TrainState(), tensors)


def measure_files(name: str) -> None:
    """Print how long the copy takes, how long the files, and the longest pause that these cause."""
    state = whole_state(name)
    HostCopy(state).read()  # the first one also gets the memory
    started = time.perf_counter()
    copied = HostCopy(state)
    copied.read()
    copy_s = time.perf_counter() - started
    writer = threading.Thread(target=write_files, args=(copied,))
    started = last = time.perf_counter()
    longest_s = 0.0
    writer.start()
    while writer.is_alive():
        time.sleep(TICK_S)
        now = time.perf_counter()
        longest_s, last = max(longest_s, now - last), now
    write_s = time.perf_counter() - started
    print(
        f"{name}: files {write_s:.2f} s, copy {copy_s:.2f} s ({write_s / copy_s:.1f} times less); "
        f"longest pause of other threads while files are written {longest_s:.2f} s"
    )


def random_scene() -> tuple[list[Truth], list[Detections]]:
    """Labeled boxes, and detections of which some are near them."""
    rng = np.random.default_rng(0)
    truths, detections = [], []
    for image in range(NUM_IMAGES):
        boxes, classes = _random_boxes(rng, int(rng.integers(MAX_TRUTHS)))
        truths.append(Truth(image, 640, 640, boxes, classes))
        others, other_classes = _random_boxes(rng, int(rng.integers(MAX_FOUND // 6, MAX_FOUND)))
        near = boxes + rng.normal(0, 4, boxes.shape).astype(np.float32)
        found = np.concatenate([near, others])
        scores = rng.random(len(found)).astype(np.float32)
        detections.append(
            Detections(image, found, scores, np.concatenate([classes, other_classes]))
        )
    return truths, detections


def _random_boxes(rng: np.random.Generator, count: int) -> tuple[Any, Any]:
    corners = rng.uniform(0, 500, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 140, (count, 2))], axis=1)
    classes = rng.integers(NUM_CLASSES, size=count)
    classes[rng.random(count) < COMMON_SHARE] = 0
    return boxes.astype(np.float32), classes


def measure_figures(ranks: list[int]) -> None:
    """Print how long the rank with the most to do is busy, for numbers of ranks."""
    truths, detections = random_scene()
    alone_s, expected = 0.0, {}
    for num_ranks in ranks:
        parts, longest_s = [], 0.0
        for classes in share_classes(truths, detections, NUM_CLASSES, num_ranks):
            started = time.perf_counter()
            parts.append(measure_part(truths, detections, classes))
            longest_s = max(longest_s, time.perf_counter() - started)
        metrics = summarize(parts, truths, detections).metrics
        alone_s, expected = alone_s or longest_s, expected or metrics
        same = "the same figures" if metrics == expected else f"OTHER FIGURES: {metrics}"
        print(
            f"{num_ranks} ranks: {longest_s:.2f} s, {alone_s / longest_s:.1f} times less than with "
            f"{ranks[0]}; {same}"
        )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["yolov5s", "yolov5x"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4, 8])
    options = parser.parse_args()
    for name in options.model:
        measure_files(name)
    measure_figures(options.ranks)


if __name__ == "__main__":
    main()
