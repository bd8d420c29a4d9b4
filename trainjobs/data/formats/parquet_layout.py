"""Datasets for classification in Parquet files: which files a split has, and the class of each row."""

from glob import glob
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.errors import DatasetError
from trainjobs.data.formats.class_names import ClassSource, FoundClasses, unknown_class
from trainjobs.data.formats.labels import LabeledSplit, Labels, SplitFiles, label_whole_image
from trainjobs.data.formats.parquet_files import (
    build_fetch,
    list_rows,
    read_label_column,
    stated_names,
)
from trainjobs.data.formats.stored import StoredImage

MAX_UNNAMED_CLASSES = 2**16
"""Of integer labels without names. A larger label is a hash or an id, and no class."""


def expand_parquet(entry: Path) -> list[Path]:
    """Files that an entry names: a file, a folder of them (not in depth), or a pattern; sorted.

    Raises:
        DatasetError: There are none.
    """
    if entry.is_file():
        return [entry]
    if entry.is_dir():
        found = sorted(entry.glob("*.parquet"))
    else:
        found = sorted(map(Path, glob(str(entry))))  # noqa: PTH207 - the pattern is absolute
    if not found:
        raise DatasetError(str(entry), "no such Parquet file, folder of them, or pattern")
    return found


def find_parquet_classes(source: ClassSource) -> FoundClasses:
    """The names in the metadata of the files, else the labels of train, unless the source has names.

    Raises:
        DatasetError: A file cannot be read; files have different names; a label is null, negative, or
            too large to be a class.
    """
    if source.names:
        return FoundClasses(source.names)
    files = [file for split in source.splits.values() for file in split]
    names = stated_names(files[0], source.columns)
    for file in files[1:]:
        if stated_names(file, source.columns) != names:
            reason = f"has other class names than {files[0]}; give `names` in a data.yaml"
            raise DatasetError(str(file), reason)
    return FoundClasses(names or _names_of_labels(source))


def _names_of_labels(source: ClassSource) -> tuple[str, ...]:
    texts, num_classes = set(), 0
    for file in source.splits["train"]:
        labels = read_label_column(file, source.columns)
        if isinstance(labels, list):
            texts |= set(labels)
        elif len(labels):
            highest = int(labels.max())
            if highest >= MAX_UNNAMED_CLASSES:
                reason = f"label {highest} is too large for a class; or give `names` in a data.yaml"
                raise DatasetError(str(file), reason, int(labels.argmax()))
            num_classes = max(num_classes, highest + 1)
    return tuple(sorted(texts)) or tuple(str(class_id) for class_id in range(num_classes))


def open_parquet(files: SplitFiles) -> LabeledSplit:
    """A split whose images are rows; all its labels are read and checked here.

    Raises:
        DatasetError: A file cannot be read or has other columns; a label is null or has no name.
    """
    class_ids = {file: _class_ids(file, files) for file in files.images}
    images = [image for file in files.images for image in list_rows(file, files.columns)]
    if not images:
        raise DatasetError(str(files.images[0]), "has no row")

    def read(image: StoredImage, _height: int, _width: int) -> Labels:
        assert image.row is not None
        return label_whole_image(int(class_ids[image.file][image.row]))

    return LabeledSplit(images=images, read=read, fetch=build_fetch(images, files.columns))


def _class_ids(file: Path, files: SplitFiles) -> NDArray[np.int32]:
    """Class of each row."""
    labels, names = read_label_column(file, files.columns), files.names
    if isinstance(labels, list):
        known = {name: class_id for class_id, name in enumerate(names)}
        for row, label in enumerate(labels):
            if label not in known:
                raise DatasetError(str(file), unknown_class(label, names), row)
        return np.array([known[label] for label in labels], np.int32)
    if len(labels) and labels.max() >= len(names):
        reason = f"label {labels.max()} must be from 0 to {len(names) - 1} ({len(names)} names)"
        raise DatasetError(str(file), reason, int(labels.argmax()))
    return labels.astype(np.int32)
