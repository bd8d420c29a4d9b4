"""A dataset read for a survey: a user's own files, or packed shards, whose checksums are verified."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.errors import DatasetError
from trainjobs.data.formats.stored import StoredImage
from trainjobs.data.images import RgbImage, decode_image, decoding_threads
from trainjobs.data.packed.index import ShardEntry
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.packed.shards import Shard, Split
from trainjobs.data.prepare import PREPARED_SPLITS, Prepared
from trainjobs.data.scanning import QuarantineRow, open_split
from trainjobs.data.sources import DatasetSpec, log_notes
from trainjobs.data.survey.findings import NOT_IN_RUNS
from trainjobs.data.survey.statistics import SplitContent

logger = logging.getLogger(__name__)

ReadPixels = Callable[[int], RgbImage]
"""Decodes a usable image of a split."""


@dataclass(kw_only=True, slots=True)
class ReadDataset:
    """All that was read."""

    names: tuple[str, ...]
    """Class names by class id."""
    contents: dict[str, SplitContent] = field(default_factory=dict)
    """By split."""
    readers: dict[str, ReadPixels] = field(default_factory=dict)
    """Likewise."""
    left_out: dict[str, Sequence[QuarantineRow]] = field(default_factory=dict)
    """Images and label rows, by split; a packed dataset lists them for all splits together."""
    faults: list[str] = field(default_factory=list)
    """Shards that are not whole."""
    unread: list[str] = field(default_factory=list)
    """Splits that a run does not look at, and why they cannot be read."""


def read_source(spec: DatasetSpec) -> ReadDataset:
    """Read all splits of a user's dataset.

    Raises:
        DatasetError: a split that a run needs cannot be read as a whole, because of a class that has
            no name say.
    """
    log_notes(spec)
    found = ReadDataset(names=spec.names)
    for split in spec.splits:
        try:
            _read_split(spec, split, found)
        except DatasetError as error:
            if split in PREPARED_SPLITS:
                raise
            found.unread.append(f"{split}: {error}; {NOT_IN_RUNS}")
    return found


def _read_split(spec: DatasetSpec, split: str, found: ReadDataset) -> None:
    source = open_split(spec, split)
    logger.info("reading %d images of %s", len(source.images), split)
    scanned, strays = source.scan(source.images), source.strays()
    fetch = source.labeled.fetch

    def digest(image: StoredImage) -> str:
        return hashlib.sha256(fetch(image)).hexdigest()

    def read_pixels(index: int) -> RgbImage:
        image = scanned.images[index]
        return decode_image(fetch(image), image.name(spec.root))

    with ThreadPoolExecutor(decoding_threads(image.num_bytes for image in scanned.images)) as pool:
        digests = list(pool.map(digest, scanned.images))
    found.contents[split] = SplitContent(
        records=scanned.records,
        digests=digests,
        num_skipped=scanned.num_skipped + strays.num_skipped,
    )
    found.readers[split] = read_pixels
    if left_out := scanned.quarantine + strays.quarantine:
        found.left_out[split] = left_out


def file_digest(file: Path) -> str:
    """SHA-256 of a file.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(str(file), error.strerror or str(error)) from error


def read_packed(prepared: Prepared) -> ReadDataset:
    """Read and verify all shards of a packed dataset; one that is not whole is a fault."""
    found = ReadDataset(names=prepared.names)
    for split, entry in prepared.index.splits.items():
        logger.info("verifying %d shards of %s", len(entry.shards), split)
        whole: list[ShardEntry] = []
        records: list[ImageRecord] = []
        digests: list[str] = []
        for shard_entry in entry.shards:
            try:
                shard = _open_verified(prepared, shard_entry)
            except DatasetError as error:
                found.faults.append(str(error))
                continue
            whole.append(shard_entry)
            for row in range(len(shard)):
                records.append(_record(shard, row))
                digests.append(hashlib.sha256(shard.image(row)).hexdigest())
        found.contents[split] = SplitContent(
            records=records, digests=digests, num_skipped=entry.num_skipped
        )
        pixels = Split(replace(entry, shards=tuple(whole)), prepared.names, prepared.fetch)
        found.readers[split] = pixels.read_image
    if prepared.quarantine:
        found.left_out[", ".join(prepared.index.splits)] = prepared.quarantine
    return found


def _open_verified(prepared: Prepared, entry: ShardEntry) -> Shard:
    file = prepared.fetch(entry)
    if file_digest(file) != entry.sha256:
        raise DatasetError(str(file), "does not have the checksum that the index states; pack anew")
    return Shard(file, entry.num_images, len(prepared.names))


def _record(shard: Shard, row: int) -> ImageRecord:
    height, width = shard.sizes[row].tolist()
    classes, boxes = shard.labels(row)
    return ImageRecord(
        id=shard.id(row),
        height=height,
        width=width,
        classes=classes.tolist(),
        boxes_cxcywh_norm=[tuple(box) for box in boxes.tolist()],
        areas_px=shard.areas_px(row).tolist(),
    )
