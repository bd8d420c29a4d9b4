"""The formats that labels come in. A further one is a line here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from trainjobs.data.formats.cifar_batches import (
    CIFAR10,
    CIFAR100,
    cifar_label_files,
    find_cifar_classes,
    one_batch,
    open_cifar,
)
from trainjobs.data.formats.class_names import ClassSource, FoundClasses
from trainjobs.data.formats.coco_layout import coco_label_files, open_coco
from trainjobs.data.formats.folder_layout import find_folder_classes, open_folders
from trainjobs.data.formats.labels import LabeledSplit, SplitFiles
from trainjobs.data.formats.parquet_layout import expand_parquet, find_parquet_classes, open_parquet
from trainjobs.data.formats.voc_layout import open_voc, voc_label_files
from trainjobs.data.formats.yolo_layout import open_yolo, yolo_label_files


class Format(NamedTuple):
    """What tells one kind of labels from another."""

    open: Callable[[SplitFiles], LabeledSplit]
    label_files: Callable[[SplitFiles], list[Path]] = lambda _files: []
    """Files whose change changes the labels of a split, whether they exist or not; besides those of
    its images."""
    annotations: str = ""
    """What `annotations` names for each split; empty: labels lie beside the images."""
    find_classes: Callable[[ClassSource], FoundClasses] | None = None
    """Where each image has a class instead of objects: the names, if a data.yaml gives none."""
    expand: Callable[[Path], list[Path]] | None = None
    """Files of many images that an entry of a split stands for. None: entries are folders and lists
    of image files."""


FORMATS = {
    "yolo": Format(open_yolo, yolo_label_files),
    "coco": Format(open_coco, coco_label_files, "a JSON file"),
    "voc": Format(open_voc, voc_label_files, "a folder of XML files"),
    "folder": Format(open_folders, find_classes=find_folder_classes),
    "parquet": Format(open_parquet, find_classes=find_parquet_classes, expand=expand_parquet),
} | {
    name: Format(
        partial(open_cifar, cifar=cifar),
        partial(cifar_label_files, cifar=cifar),
        find_classes=partial(find_cifar_classes, cifar=cifar),
        expand=one_batch,
    )
    for name, cifar in (("cifar10", CIFAR10), ("cifar100", CIFAR100))
}
