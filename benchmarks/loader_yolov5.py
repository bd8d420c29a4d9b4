"""YOLOv5's side of `benchmarks.loader`: its loader, called in its environment and its process."""

import sys
from collections.abc import Iterator
from functools import partial
from importlib import resources
from pathlib import Path

import torch
import yaml
from yolov5.utils.dataloaders import create_dataloader

from benchmarks.loader_clock import cpu_ms_per_image, serve

BATCH_SIZE = 16


def _batch_sizes(images: Path, image_size: int) -> Iterator[int]:
    recipe = resources.files("yolov5") / "data" / "hyps" / "hyp.scratch-low.yaml"
    loader, _ = create_dataloader(
        str(images),
        image_size,
        BATCH_SIZE,
        32,
        hyp=yaml.safe_load(recipe.read_text()),
        augment=True,
        workers=0,  # in this process: nothing is spent on passing images on
        shuffle=True,
    )
    while True:
        for batch in loader:
            yield len(batch[0])


def _measure(images: Path, what: str) -> float:
    return cpu_ms_per_image(_batch_sizes(images, int(what)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(partial(_measure, Path(sys.argv[1]).parent / "images" / "train"))
