"""A split whose images are decoded once per node, and kept where the model is.

The pixels are a file in the node's cache that all its processes map: the page cache holds them once,
whatever the number of ranks. A GPU gets a copy of its own.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainjobs.data.augmentation.augment import execute
from trainjobs.data.augmentation.sample_plan import plan_letterbox
from trainjobs.data.cached_folders import CachedFolders
from trainjobs.data.images import decoding_threads
from trainjobs.data.packed.joined import TrainingSplit

VERSION = 1
"""Changes with whatever changes the pixels; part of the name under which they are cached."""
IMAGES, CLASSES = "images.npy", "classes.npy"
IMAGES_AT_ONCE = 256
"""That a thread decodes before it asks for more."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedSplit:
    """All images of a split, each with its class."""

    images: Tensor
    """(N, S, S, 3) uint8, letterboxed."""
    classes: Tensor
    """(N,) int64."""


def decoded_bytes(num_images: int, image_size: int) -> int:
    """Of the pixels of so many images."""
    return num_images * image_size**2 * 3


def load_decoded(
    split: TrainingSplit, *, image_size: int, folders: CachedFolders, device: torch.device
) -> DecodedSplit:
    """Decode a split if no process of this node has done so yet, and map or copy the pixels.

    Args:
        split: Images with one box each.
        image_size: Px of the side of the square that each image is fitted into.
        folders: Of this node, that hold what was decoded.
        device: That a copy is made on, unless it is a CPU.

    Raises:
        DatasetError: an image is damaged, or not of one class; names it.
        StorageError: the cache cannot be written to, or its disk is full.
    """
    name = f"decoded-v{VERSION}-{split.digest[:16]}-{image_size}px"
    folder = folders.get(name, lambda new: _decode(split, image_size, new))
    # Copy-on-write, for torch warns of memory that cannot be written to; nobody writes, so that
    # the pages stay those of the file.
    arrays = (np.load(folder / name, mmap_mode="c") for name in (IMAGES, CLASSES))
    images, classes = (torch.from_numpy(array).to(device) for array in arrays)
    return DecodedSplit(images, classes)


def _decode(split: TrainingSplit, image_size: int, folder: Path) -> None:
    shape = (len(split), image_size, image_size, 3)
    images = np.lib.format.open_memmap(folder / IMAGES, "w+", np.uint8, shape)
    with (folder / IMAGES).open("r+b") as file:
        # Says so if the disk is full. A page that is written to and finds no room ends the process.
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    classes = np.empty(len(split), np.int64)

    def decode(indices: Iterable[int]) -> None:
        for index in indices:
            images[index] = _letterboxed(split, index, image_size)
            classes[index] = split.label(index)

    starts = range(0, len(split), IMAGES_AT_ONCE)
    some = range(min(IMAGES_AT_ONCE, len(split)))
    threads = decoding_threads(len(split.encoded(index)) for index in some)
    with ThreadPoolExecutor(threads) as pool:
        parts = (range(start, min(start + IMAGES_AT_ONCE, len(split))) for start in starts)
        for _ in pool.map(decode, parts):
            pass  # raises what a thread raised
    images.flush()
    np.save(folder / CLASSES, classes)


def _letterboxed(split: TrainingSplit, index: int, image_size: int) -> NDArray[np.uint8]:
    height, width = split.size(index)
    plan = plan_letterbox(
        index,
        height,
        width,
        image_size=image_size,
        out_height=image_size,
        out_width=image_size,
    )
    return execute(plan, split)[0]
