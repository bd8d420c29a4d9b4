"""CIFAR-10 and CIFAR-100 as their author publishes them, and torchvision stores them: pickled batches.

A file is read only if it has its published checksum, and then by `array_pickles`, which runs nothing.
Pixels are kept as PNG, without loss.

Source: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cluster.errors import DatasetError
from trainjobs.data.formats.array_pickles import BadPickleError, load_arrays
from trainjobs.data.formats.class_names import ClassSource, FoundClasses
from trainjobs.data.formats.files import read_bytes
from trainjobs.data.formats.labels import LabeledSplit, Labels, SplitFiles, label_whole_image
from trainjobs.data.formats.stored import StoredImage

SIDE_PX = 32
ROW_BYTES = 3 * SIDE_PX**2
KEPT_BATCHES = 2
"""Files whose pixels are held in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CifarFiles:
    """The files of one of the two datasets: MD5 by name."""

    title: str
    folder: str
    """That torchvision keeps them in."""
    train: Mapping[str, str]
    test: Mapping[str, str]
    meta: Mapping[str, str]
    """The one with the class names."""
    names_key: bytes
    labels_key: bytes

    @property
    def sums(self) -> dict[str, str]:
        """Of all files."""
        return {**self.train, **self.test, **self.meta}


# Source of the sums: torchvision 0.29, datasets/cifar.py.
CIFAR10 = CifarFiles(
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
    names_key=b"label_names",
    labels_key=b"labels",
)
CIFAR100 = CifarFiles(
    title="CIFAR-100",
    folder="cifar-100-python",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
    names_key=b"fine_label_names",
    labels_key=b"fine_labels",
)


def one_batch(entry: Path) -> list[Path]:
    """The file that an entry of a split is."""
    return [entry]


def cifar_label_files(files: SplitFiles, cifar: CifarFiles) -> list[Path]:
    """The file with the class names."""
    return [_meta_file(files.images[0], cifar)]


def _meta_file(batch: Path, cifar: CifarFiles) -> Path:
    return batch.with_name(next(iter(cifar.meta)))


def find_cifar_classes(source: ClassSource, cifar: CifarFiles) -> FoundClasses:
    """The names that come with the dataset, unless the source has names.

    Raises:
        DatasetError: The file that has them is not as it was published.
    """
    if source.names:
        return FoundClasses(source.names)
    file = _meta_file(source.splits["train"][0], cifar)
    names = _load(file, cifar).get(cifar.names_key)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DatasetError(str(file), f"has no list of names under {cifar.names_key!r}")
    return FoundClasses(tuple(name.decode("latin-1") for name in names))


def open_cifar(files: SplitFiles, cifar: CifarFiles) -> LabeledSplit:
    """A split whose images are the rows of batches, all of which are read here once.

    Raises:
        DatasetError: A file is not as it was published; a label has no name.
    """
    labels = {file: _load_batch(file, cifar, len(files.names))[1] for file in files.images}
    images = [
        StoredImage(file, row, num_bytes=ROW_BYTES)
        for file, found in labels.items()
        for row in range(len(found))
    ]
    lock = Lock()

    @lru_cache(KEPT_BATCHES)
    def load(file: Path) -> NDArray[np.uint8]:
        return _load_batch(file, cifar, len(files.names))[0]

    def read(image: StoredImage, _height: int, _width: int) -> Labels:
        assert image.row is not None
        return label_whole_image(labels[image.file][image.row])

    def fetch(image: StoredImage) -> bytes:
        with lock:  # else each thread would read the file
            pixels = load(image.file)
        planes = pixels[image.row].reshape(3, SIDE_PX, SIDE_PX)
        bgr = np.ascontiguousarray(planes[::-1].transpose(1, 2, 0))
        return cv2.imencode(".png", bgr)[1].tobytes()

    return LabeledSplit(images=images, read=read, fetch=fetch)


def _load_batch(
    file: Path, cifar: CifarFiles, num_classes: int
) -> tuple[NDArray[np.uint8], list[int]]:
    """Pixels (N, 3072), planes of red, green and blue, and the class of each row."""
    content = _load(file, cifar)
    pixels, labels = content.get(b"data"), content.get(cifar.labels_key)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != ROW_BYTES:
        raise DatasetError(str(file), f"data must be rows of {ROW_BYTES} bytes")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise DatasetError(str(file), f"has not one label per image under {cifar.labels_key!r}")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < num_classes:
            reason = (
                f"label {label!r:.40} must be from 0 to {num_classes - 1} ({num_classes} names)"
            )
            raise DatasetError(str(file), reason, row)
    return pixels, labels


def _load(file: Path, cifar: CifarFiles) -> dict[bytes, Any]:
    """What a file holds, once it is known to be what was published."""
    if file.name not in cifar.sums:
        raise DatasetError(str(file), f"is no file of {cifar.title}: {', '.join(cifar.sums)}")
    data = read_bytes(file)
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != cifar.sums[file.name]:
        reason = (
            f"is not the published file of {cifar.title}: its MD5 is {found}, not "
            f"{cifar.sums[file.name]}; download it anew"
        )
        raise DatasetError(str(file), reason)
    try:
        content = load_arrays(data)
    except BadPickleError as error:
        raise DatasetError(str(file), f"is not read: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(str(file), f"must hold a dict, got a {type(content).__name__}")
    return content
