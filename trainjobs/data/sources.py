"""A user's dataset (a `data.yaml` and what it names) into records and a list of what was left out.

Nothing of the user's is written. An image that cannot be used is left out and listed; labels that
contradict the class names stop the run.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config_io import load_yaml
from cluster.errors import DatasetError
from trainjobs.data.images import read_size
from trainjobs.data.schema import ImageRecord
from trainjobs.data.yolo_layout import (
    BadLabelsError,
    Labels,
    label_path,
    list_images,
    normal_path,
    read_labels,
)

SPLITS = ("train", "val", "test")

MIN_SIDE_PX = 10
"""Smaller images are left out, as YOLOv5 does."""

MAX_SCAN_THREADS = 16  # decoding is bound by CPUs, and reading over a network by its latency


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSpec:
    """A data.yaml, read and checked; images and labels not yet."""

    file: Path
    """The data.yaml."""
    root: Path
    """Absolute folder that its paths are relative to."""
    names: tuple[str, ...]
    """Class names by class id."""
    splits: dict[str, tuple[Path, ...]]
    """Folders and list files of each split, absolute."""


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """Something left out: an image (row is None or the row at fault) or a row of a label file."""

    file: str
    row: int | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedSplit:
    """The usable images of one split and what was left out."""

    records: list[ImageRecord]
    quarantine: list[QuarantineRow]
    num_skipped: int
    """Images left out."""


def read_data_yaml(source: Path) -> DatasetSpec:
    """Read a data.yaml as YOLOv5 does, except that `path` is relative to the file's folder.

    Args:
        source: The file, or the folder that holds it.

    Raises:
        DatasetError: Something in it is missing or wrong; names the file and the key.
        ConfigError: It is not YAML, not a mapping, or has a key twice.
    """
    file = normal_path(Path.cwd(), str(source))
    if file.is_dir():
        file /= "data.yaml"
    if not file.is_file():
        raise DatasetError(str(file), "no such file; data.source is a data.yaml or its folder")
    content: dict[str, Any] = load_yaml(file)
    if content.get("format", "yolo") != "yolo":
        raise DatasetError(str(file), f"format must be yolo, got {content['format']!r}")
    root = normal_path(file.parent, str(content.get("path") or "."), file)
    names = _read_names(file, content)
    splits = {
        split: _split_entries(file, root, split, content[split])
        for split in SPLITS
        if content.get(split) is not None
    }
    for split in ("train", "val"):
        if split not in splits:
            raise DatasetError(str(file), f"has no key {split!r}: the folder or list of its images")
        for entry in splits[split]:
            if not (entry.is_dir() or entry.is_file()):
                raise DatasetError(str(file), f"{split}: no such folder or file: {entry}")
    return DatasetSpec(file=file, root=root, names=names, splits=splits)


def _read_names(file: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names, num_classes = content.get("names"), content.get("nc")
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise DatasetError(str(file), f"nc must be an integer >= 1, got {num_classes!r}")
    if names is None:
        if num_classes is None:
            raise DatasetError(str(file), "has no key 'names': the class names by class id")
        return tuple(f"class {class_id}" for class_id in range(num_classes))
    if isinstance(names, dict):
        names = _names_by_id(file, names)
    if not isinstance(names, list) or not names:
        raise DatasetError(str(file), "names must be a list, or a mapping of class id to name")
    for name in names:
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise DatasetError(str(file), f"names: {name!r} is not text; put it in quotes")
    texts = tuple(str(name) for name in names)
    repeated = sorted({name for name in texts if texts.count(name) > 1})
    if repeated:
        raise DatasetError(str(file), f"names must differ; twice or more: {', '.join(repeated)}")
    if num_classes not in (None, len(texts)):
        raise DatasetError(str(file), f"nc is {num_classes} but there are {len(texts)} names")
    return texts


def _names_by_id(file: Path, names: dict[Any, Any]) -> list[Any]:
    wanted = range(len(names))
    if any(type(key) is not int for key in names) or sorted(names) != list(wanted):
        found = ", ".join(map(str, names))
        reason = f"names must have the ids 0 to {len(names) - 1} without a gap, got {found}"
        raise DatasetError(str(file), reason)
    return [names[class_id] for class_id in wanted]


def _split_entries(file: Path, root: Path, split: str, value: object) -> tuple[Path, ...]:
    entries = value if isinstance(value, list) else [value]
    texts = [entry for entry in entries if isinstance(entry, str)]
    if not texts or len(texts) < len(entries):
        reason = f"{split} must be a folder, a text file or a list of these, got {value!r}"
        raise DatasetError(str(file), reason)
    return tuple(_find_entry(root, entry, file) for entry in texts)


def _find_entry(root: Path, entry: str, file: Path) -> Path:
    path = normal_path(root, entry, file)
    if not path.exists() and entry.startswith("../"):
        # Exports of Roboflow say ../train/images for a folder beside the data.yaml; YOLOv5 knows.
        inside = normal_path(root, entry.removeprefix("../"), file)
        if inside.exists():
            return inside
    return path


def list_split(spec: DatasetSpec, split: str) -> list[Path]:
    """Absolute paths of a split's images, in their order.

    Raises:
        DatasetError: The split is not in the data.yaml, a folder is gone, or it has no image.
    """
    if split not in spec.splits:
        raise DatasetError(str(spec.file), f"has no key {split!r}")
    return [image for entry in spec.splits[split] for image in list_images(entry, spec.root)]


def load_split(spec: DatasetSpec, split: str) -> ScannedSplit:
    """Read all images and labels of a split once.

    Raises:
        DatasetError: A class is out of range; no image is usable; or no image has labels.
    """
    images = list_split(spec, split)

    def scan(image: Path) -> tuple[ImageRecord | None, list[QuarantineRow]]:
        return _scan_image(image, spec)

    threads = min(2 * (os.cpu_count() or 1), MAX_SCAN_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        try:
            results = list(pool.map(scan, images))
        except DatasetError:
            pool.shutdown(cancel_futures=True)
            raise
    records = [record for record, _ in results if record is not None]
    quarantine = [row for _, rows in results for row in rows]
    _check_usable(spec, split, images, records, quarantine)
    return ScannedSplit(
        records=records, quarantine=quarantine, num_skipped=len(images) - len(records)
    )


def _scan_image(image: Path, spec: DatasetSpec) -> tuple[ImageRecord | None, list[QuarantineRow]]:
    name = relative_name(image, spec.root)
    if not _is_utf8(name):
        return None, [QuarantineRow(ascii(name), None, "the file's name is not UTF-8")]
    try:
        height, width = read_size(image)
    except DatasetError as error:
        return None, [QuarantineRow(name, None, error.reason)]
    if min(height, width) < MIN_SIDE_PX:
        reason = f"is {width} x {height} px; both sides must be at least {MIN_SIDE_PX}"
        return None, [QuarantineRow(name, None, reason)]
    label_file = label_path(image)
    label_name = relative_name(label_file, spec.root)
    labels = Labels()
    if label_file.exists():
        try:
            labels = read_labels(label_file, len(spec.names))
        except BadLabelsError as error:
            return None, [QuarantineRow(label_name, error.row, f"{error.reason}; image left out")]
    record = ImageRecord(
        id=name,
        height=height,
        width=width,
        classes=labels.classes,
        boxes_cxcywh_norm=labels.boxes_cxcywh_norm,
    )
    rows = [QuarantineRow(label_name, row, f"{why}; row left out") for row, why in labels.dropped]
    return record, rows


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python holds a name's undecodable bytes as lone surrogates
        return False
    return True


def relative_name(file: Path, root: Path) -> str:
    """Path of a file below the root; absolute if it lies elsewhere."""
    return str(file.relative_to(root) if file.is_relative_to(root) else file)


def _check_usable(
    spec: DatasetSpec,
    split: str,
    images: list[Path],
    records: list[ImageRecord],
    quarantine: Iterable[QuarantineRow],
) -> None:
    if not records:
        first = next(iter(quarantine))
        reason = f"{split}: none of {len(images)} images can be used; {first.file}: {first.reason}"
        raise DatasetError(str(spec.file), reason)
    if not any(record.classes for record in records):
        example = label_path(images[0])
        reason = f"{split}: none of {len(records)} images has a labeled object; looked at {example}"
        raise DatasetError(str(spec.file), reason)
