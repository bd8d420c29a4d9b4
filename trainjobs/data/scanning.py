"""Images and labels of a source into records, and a list of what was left out.

Nothing of the user's is written. An image that cannot be used is left out and listed; labels that
contradict the class names stop the run.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import DatasetError
from trainjobs.data.formats.files import is_utf8, relative_name
from trainjobs.data.formats.labels import BadLabelsError, LabeledSplit, SplitFiles
from trainjobs.data.formats.layouts import FORMATS
from trainjobs.data.formats.stored import BadImageError, StoredImage
from trainjobs.data.images import decoding_threads, read_size
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.sources import DatasetSpec, split_files

MIN_SIDE_PX = 10
"""Smaller images are left out, as YOLOv5 does."""


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """Something left out: an image (row is None or the row at fault) or a row of a label file."""

    file: str
    row: int | None
    """Of a text file; the line of a VOC object; the id of a COCO annotation; of a file of many
    images, counted from 0."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanned:
    """Usable images and what was left out."""

    images: list[StoredImage]
    """That can be used."""
    records: list[ImageRecord]
    """Of each of these."""
    quarantine: list[QuarantineRow]
    num_skipped: int
    """Images left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSplit:
    """A split whose images are listed, and whose labels can be read."""

    spec: DatasetSpec
    split: str
    files: SplitFiles
    labeled: LabeledSplit

    @property
    def images(self) -> Sequence[StoredImage]:
        """In their order."""
        return self.labeled.images

    def scan(self, images: Sequence[StoredImage]) -> Scanned:
        """Read some of its images, and their labels, once.

        Raises:
            DatasetError: A class is out of range or has no name.
        """

        def scan(image: StoredImage) -> tuple[ImageRecord | None, list[QuarantineRow]]:
            return _scan_image(image, self.labeled, self.spec.root)

        threads = decoding_threads(image.num_bytes for image in images)
        with ThreadPoolExecutor(threads) as pool:
            try:
                results = list(pool.map(scan, images))
            except DatasetError:
                pool.shutdown(cancel_futures=True)
                raise
        found = [(image, r) for image, (r, _) in zip(images, results, strict=True) if r is not None]
        return Scanned(
            images=[image for image, _ in found],
            records=[record for _, record in found],
            quarantine=[row for _, rows in results for row in rows],
            num_skipped=len(images) - len(found),
        )

    def strays(self) -> Scanned:
        """Images that labels name but that are not there, and labels that belong to no image."""
        files, labeled = self.files, self.labeled
        if files.annotations is None:
            return Scanned(images=[], records=[], quarantine=[], num_skipped=0)
        reason = f"no such image; {relative_name(files.annotations, files.root)} lists it"
        missing = [
            QuarantineRow(name if is_utf8(name) else ascii(name), None, reason)
            for name in labeled.missing
        ]
        rows = missing + _dropped_rows(files.annotations, labeled.dropped, files.root)
        num_skipped = len(labeled.missing)
        return Scanned(images=[], records=[], quarantine=rows, num_skipped=num_skipped)

    def check_usable(
        self, *, num_images: int, num_background: int, num_skipped: int, first: QuarantineRow | None
    ) -> None:
        """Raise `DatasetError` if the split has no usable image, or no labeled object.

        Args:
            num_images: Usable ones.
            num_background: Of these, without objects.
            num_skipped: Left out.
            first: Of what was left out.
        """
        example = f"; {first.file}: {first.reason}" if first else ""
        if num_images == 0:
            reason = f"{self.split}: none of {num_skipped} images can be used{example}"
            raise DatasetError(str(self.spec.file), reason)
        if num_images == num_background:
            looked_at = FORMATS[self.spec.format].label_files(self.files)[0]
            reason = (
                f"{self.split}: none of {num_images} images has a labeled object; looked at "
                f"{looked_at}{example}"
            )
            raise DatasetError(str(self.spec.file), reason)


def open_split(spec: DatasetSpec, split: str) -> OpenSplit:
    """List a split's images and find its labels.

    Raises:
        DatasetError: There are none, or labels cannot be read at all.
    """
    files = split_files(spec, split)
    labeled = FORMATS[spec.format].open(files)
    return OpenSplit(spec=spec, split=split, files=files, labeled=labeled)


def _scan_image(
    image: StoredImage, labeled: LabeledSplit, root: Path
) -> tuple[ImageRecord | None, list[QuarantineRow]]:
    name, file = image.name(root), relative_name(image.file, root)
    if not is_utf8(name):
        return None, [QuarantineRow(ascii(file), image.row, "the file's name is not UTF-8")]
    try:
        data = labeled.fetch(image)
    except BadImageError as error:
        return None, [QuarantineRow(file, image.row, error.reason)]
    try:
        height, width = read_size(data, name)
    except DatasetError as error:
        return None, [QuarantineRow(file, image.row, error.reason)]
    if min(height, width) < MIN_SIDE_PX:
        reason = f"is {width} x {height} px; both sides must be at least {MIN_SIDE_PX}"
        return None, [QuarantineRow(file, image.row, reason)]
    try:
        labels = labeled.read(image, height, width)
    except BadLabelsError as error:
        label_name = relative_name(Path(error.path), root)
        return None, [QuarantineRow(label_name, error.row, f"{error.reason}; image left out")]
    record = ImageRecord(
        id=name,
        height=height,
        width=width,
        classes=labels.classes,
        boxes_cxcywh_norm=labels.boxes_cxcywh_norm,
        polygons_norm=labels.polygons_norm if any(labels.polygons_norm) else [],
        areas_px=labels.areas_px,
        crowd=labels.crowd if any(labels.crowd) else [],
    )
    return record, _dropped_rows(labels.file, labels.dropped, root)


def _dropped_rows(
    file: Path | None, dropped: Iterable[tuple[int, str]], root: Path
) -> list[QuarantineRow]:
    """Rows of a label file that are left out."""
    name = "" if file is None else relative_name(file, root)
    return [QuarantineRow(name, row, f"{reason}; row left out") for row, reason in dropped]
