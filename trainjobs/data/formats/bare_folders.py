"""Folders of images with classes that need no data.yaml: what one would say of them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.errors import DatasetError
from trainjobs.data.formats.cifar_batches import CIFAR10, CIFAR100

VAL_NAMES = ("val", "valid", "validation")
TEST_NOTE = (
    "has no validation split: `test` is used for validation, so the best epoch is picked on it"
)
_PARQUET_NAME = re.compile(r"(train|validation|valid|val|test)(?![a-zA-Z]).*\.parquet")


def describe_folder(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The content of the data.yaml that a folder has not, and what a person should know of it.

    Raises:
        DatasetError: It is none of the kinds that are known by themselves.
    """
    found = _find_cifar(folder) or _find_parquet(folder) or _find_folders(folder)
    if found is None:
        reason = (
            "has no data.yaml, nor train/<class>/ and val/<class>/ with images, train*.parquet and "
            "val*.parquet, or the batches of CIFAR"
        )
        raise DatasetError(str(folder), reason)
    label_format, splits = found
    if "train" not in splits:
        raise DatasetError(str(folder), f"has {' and '.join(splits)} but no train")
    val = next((splits[name] for name in VAL_NAMES if name in splits), None)
    content = {"format": label_format, "train": splits["train"], "val": val}
    if val is None and "test" not in splits:
        raise DatasetError(str(folder), "has train but neither val nor test; a run needs one")
    if val is None:
        return content | {"val": splits["test"]}, (TEST_NOTE,)
    return content | {"test": splits.get("test")}, ()


_Found = tuple[str, Mapping[str, list[str]]] | None
"""A format, and absolute paths of each split."""


def _find_cifar(folder: Path) -> _Found:
    for label_format, cifar in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        for place in (folder, folder / cifar.folder):
            if all((place / name).is_file() for name in (*cifar.train, *cifar.meta)):
                splits = {"train": cifar.train, "test": cifar.test}
                return label_format, {s: [str(place / f) for f in splits[s]] for s in splits}
    return None


def _find_parquet(folder: Path) -> _Found:
    """Files in the folder, or in `data` below it, as Hugging Face lays them out."""
    for place in (folder, folder / "data"):
        splits: dict[str, list[str]] = {}
        for file in sorted(place.glob("*.parquet")):
            if match := _PARQUET_NAME.fullmatch(file.name):
                splits.setdefault(match[1], []).append(str(file))
        if splits:
            return "parquet", splits
    return None


def _find_folders(folder: Path) -> _Found:
    names = ("train", *VAL_NAMES, "test")
    splits = {name: [str(folder / name)] for name in names if (folder / name).is_dir()}
    if not splits:
        return None
    below = {path.name for name in splits for path in (folder / name).iterdir() if path.is_dir()}
    if "labels" in below and below <= {"images", "labels"}:
        reason = "looks like a YOLO dataset without its data.yaml; write one"
        raise DatasetError(str(folder), reason)
    return "folder", splits
