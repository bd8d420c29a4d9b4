"""The formats that labels come in. A further one is a line here."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trainjobs.data.coco_layout import coco_label_files, open_coco
from trainjobs.data.labels import LabeledSplit, SplitFiles
from trainjobs.data.voc_layout import open_voc, voc_label_files
from trainjobs.data.yolo_layout import open_yolo, yolo_label_files


class Format(NamedTuple):
    """What tells one kind of labels from another."""

    open: Callable[[SplitFiles], LabeledSplit]
    label_files: Callable[[SplitFiles], list[Path]]
    """Files whose change changes the labels of a split, whether they exist or not."""
    annotations: str
    """What `annotations` names for each split; empty: labels lie beside the images."""


FORMATS = {
    "yolo": Format(open_yolo, yolo_label_files, ""),
    "coco": Format(open_coco, coco_label_files, "a JSON file"),
    "voc": Format(open_voc, voc_label_files, "a folder of XML files"),
}
