"""What a dataset holds, in numbers: classes, sizes of boxes, images that come twice.

Pure: of records and of the digests of their files. `reading.py` reads both, the command
`python -m trainjobs.pack --check` tells them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.formats.labels import WHOLE_IMAGE
from trainjobs.data.packed.schema import ImageRecord

MEDIUM_AREA_PX, LARGE_AREA_PX = 32**2, 96**2
"""Areas from which COCO calls an object medium and large (pycocotools, `Params.setDetParams`)."""
TINY_PX = 8
"""Side of the smallest cell in which a detector looks: its finest stride."""
QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
LABEL_DIGITS = 6  # annotation tools write six


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitContent:
    """The usable images of one split."""

    records: Sequence[ImageRecord]
    digests: Sequence[str]
    """SHA-256 of each image's file."""
    num_skipped: int
    """Images left out."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BoxTable:
    """All boxes of a split, one after the other."""

    classes: NDArray[np.int64]
    """(N,)."""
    images: NDArray[np.int64]
    """(N,) index of each box's image."""
    centers_norm: NDArray[np.float64]
    """(N, 2) x and y as fractions of the image."""
    longer_px: NDArray[np.float64]
    """(N,) longer side at the image's own size."""
    areas_px: NDArray[np.float64]
    """(N,) of the objects, as the source states them."""
    image_sides_px: NDArray[np.float64]
    """(N,) longer side of each box's image."""

    def longer_at(self, image_size: int) -> NDArray[np.float64]:
        """(N,) longer side in px when the image's longer side is `image_size`."""
        return self.longer_px * image_size / self.image_sides_px


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxSizes:
    """How large the boxes of a split are. Shares are fractions of them."""

    small: float
    """Share below 32 x 32 px, at the images' own size (COCO)."""
    medium: float
    """Share from there up to 96 x 96 px."""
    large: float
    longer_side_px: tuple[float, ...]
    """At `QUANTILES`, at the images' own size."""
    num_tiny: int
    """Boxes whose longer side is under `TINY_PX` at the size of training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSurvey:
    """One split."""

    num_images: int
    """Usable ones."""
    num_skipped: int
    """Images left out."""
    num_background: int
    """Images without a box."""
    boxes_per_class: tuple[int, ...]
    images_per_class: tuple[int, ...]
    """That have a box of the class."""
    sizes: BoxSizes | None
    """None where there is no box."""

    @property
    def num_boxes(self) -> int:
        """Of all classes."""
        return sum(self.boxes_per_class)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image of a split."""

    split: str
    index: int
    """Among the usable ones."""
    id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """Images whose files are equal, byte for byte."""

    images: tuple[ImageRef, ...]
    same_labels: bool
    """Whether all have the same boxes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """A dataset."""

    names: tuple[str, ...]
    """Class names by class id."""
    image_size: int
    """Of training, in px."""
    is_classification: bool
    """Each image has one box, which is all of it."""
    splits: dict[str, SplitSurvey]
    duplicates: tuple[Repeat, ...]
    """Within a split."""
    leaks: tuple[Repeat, ...]
    """Across splits."""


def survey_dataset(
    names: Sequence[str], contents: Mapping[str, SplitContent], image_size: int
) -> Survey:
    """Count what is there.

    Args:
        names: class names by class id.
        contents: of each split.
        image_size: px to which the longer side of an image is brought for training.
    """
    duplicates, leaks = find_repeats(contents)
    records = [record for content in contents.values() for record in content.records]
    return Survey(
        names=tuple(names),
        image_size=image_size,
        is_classification=bool(records) and all(map(is_whole_image, records)),
        splits={
            split: _survey_split(content, len(names), image_size)
            for split, content in contents.items()
        },
        duplicates=tuple(duplicates),
        leaks=tuple(leaks),
    )


def is_whole_image(record: ImageRecord) -> bool:
    """Whether an image has one box, which is all of it: the way to say that it has one class."""
    return record.boxes_cxcywh_norm == [WHOLE_IMAGE]


def _survey_split(content: SplitContent, num_classes: int, image_size: int) -> SplitSurvey:
    boxes = tabulate_boxes(content.records)
    pairs = np.unique(np.stack([boxes.images, boxes.classes]), axis=1)  # (2, image and class)
    return SplitSurvey(
        num_images=len(content.records),
        num_skipped=content.num_skipped,
        num_background=sum(not record.classes for record in content.records),
        boxes_per_class=tuple(np.bincount(boxes.classes, minlength=num_classes).tolist()),
        images_per_class=tuple(np.bincount(pairs[1], minlength=num_classes).tolist()),
        sizes=_measure(boxes, image_size) if len(boxes.classes) else None,
    )


def tabulate_boxes(records: Sequence[ImageRecord]) -> BoxTable:
    """The boxes of some images."""
    counts = [len(record.classes) for record in records]
    boxes = np.array(
        [box for record in records for box in record.boxes_cxcywh_norm], np.float64
    ).reshape(-1, 4)
    sides = np.array([(record.width, record.height) for record in records]).reshape(-1, 2)
    sides = np.repeat(sides, counts, axis=0)  # (N, 2)
    return BoxTable(
        classes=np.array([c for record in records for c in record.classes], np.int64),
        images=np.repeat(np.arange(len(records)), counts),
        centers_norm=boxes[:, :2],
        longer_px=(boxes[:, 2:] * sides).max(axis=1),
        areas_px=np.array([a for record in records for a in record.all_areas()], np.float64),
        image_sides_px=sides.max(axis=1).astype(np.float64),
    )


def _measure(boxes: BoxTable, image_size: int) -> BoxSizes:
    small, large = boxes.areas_px < MEDIUM_AREA_PX, boxes.areas_px >= LARGE_AREA_PX
    return BoxSizes(
        small=float(small.mean()),
        medium=float((~small & ~large).mean()),
        large=float(large.mean()),
        longer_side_px=tuple(np.quantile(boxes.longer_px, QUANTILES).tolist()),
        num_tiny=int((boxes.longer_at(image_size) < TINY_PX).sum()),
    )


def find_repeats(contents: Mapping[str, SplitContent]) -> tuple[list[Repeat], list[Repeat]]:
    """Images of equal content: within a split, and across splits."""
    groups: dict[str, list[ImageRef]] = {}
    for split, content in contents.items():
        for index, digest in enumerate(content.digests):
            name = content.records[index].id
            groups.setdefault(digest, []).append(ImageRef(split, index, name))
    duplicates, leaks = [], []
    for refs in (refs for refs in groups.values() if len(refs) > 1):
        parts = [[ref for ref in refs if ref.split == split] for split in contents]
        duplicates += [_repeat(part, contents) for part in parts if len(part) > 1]
        if sum(map(bool, parts)) > 1:
            leaks.append(_repeat(refs, contents))
    return duplicates, leaks


def _repeat(refs: Sequence[ImageRef], contents: Mapping[str, SplitContent]) -> Repeat:
    labels = {_labels(contents[ref.split].records[ref.index]) for ref in refs}
    return Repeat(images=tuple(refs), same_labels=len(labels) == 1)


def _labels(record: ImageRecord) -> tuple[tuple[float, ...], ...]:
    """Boxes in an order that does not depend on the file's."""
    boxes = zip(record.classes, record.boxes_cxcywh_norm, strict=True)
    rows = ((label, *(round(side, LABEL_DIGITS) for side in box)) for label, box in boxes)
    return tuple(sorted(rows))
