"""A source's images and labels -> shards and their index.

A shard is made by itself, from a list of images, so shards can be made anywhere and in any order:
the same source gives the same bytes. The index comes last; without it there is no dataset.
"""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from cluster.storage import RunPaths
from trainjobs.data.formats.class_names import DEFAULT_COLUMNS
from trainjobs.data.formats.stored import StoredImage
from trainjobs.data.images import shrink_image
from trainjobs.data.packed.index import INDEX, DatasetIndex, ShardEntry, SplitEntry, dump_index
from trainjobs.data.packed.schema import FORMAT_VERSION, ImageRecord, encode_shard
from trainjobs.data.scanning import OpenSplit, QuarantineRow
from trainjobs.data.sources import DatasetSpec, source_files

QUARANTINE = "quarantine.csv"
"""Beside the index: what was left out."""
SHARD_BYTES = 64 * 2**20
"""Of images, about: large enough to read at full speed, small enough to fetch while training."""
MIX_STREAM = 0x5041434B
"""Keeps the order in which images are packed apart from the orders in which they are trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """Which images go into a shard."""

    split: str
    file: str
    images: tuple[StoredImage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedShard:
    """What came of a shard."""

    split: str
    entry: ShardEntry
    """Without an image if none could be used: then there is no file."""
    num_background: int
    num_boxes: tuple[int, ...]
    """Boxes of each class."""
    num_skipped: int
    largest_px: tuple[int, int]
    identity: int
    """Sum, mod 2^256, of the digests of its images: the same however they are spread over shards."""
    quarantine: tuple[QuarantineRow, ...]


def plan_shards(
    split: str, images: Sequence[StoredImage], shard_bytes: int = SHARD_BYTES
) -> list[ShardPlan]:
    """Cut a split's images into shards of about `shard_bytes`.

    What fills more than one shard is mixed first, the same way each time: a source is often sorted by
    class or by scene, and training then meets some shards at a time. Images of a file that must be
    read together stay together, else each shard would read all of it.
    """
    sizes = [_num_bytes(image) for image in images]
    blocks = _blocks(images)
    order: Iterable[int] = range(len(blocks))
    if sum(sizes) > shard_bytes:
        order = np.random.Generator(np.random.Philox(key=[0, MIX_STREAM])).permutation(len(blocks))
    shards: list[list[StoredImage]] = [[]]
    filled = 0
    for number in (number for block in order for number in blocks[block]):
        if shards[-1] and filled + sizes[number] > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(images[number])
        filled += sizes[number]
    return [
        ShardPlan(split=split, file=f"{split}-{number:05d}.arrow", images=tuple(members))
        for number, members in enumerate(shards)
    ]


def pack_shard(
    plan: ShardPlan, source: OpenSplit, max_side: int | None = None
) -> tuple[bytes, PackedShard]:
    """The bytes of one shard's file, and what it holds.

    Args:
        plan: its images.
        source: the split that they are of.
        max_side: px; larger images are shrunk to it and stored as JPEG. None: all are stored as
            they are.

    Raises:
        DatasetError: the source as a whole cannot be used, because of a class that has no name say.
    """
    spec, scanned = source.spec, source.scan(plan.images)
    items = [
        (source.labeled.fetch(image), record)
        for image, record in zip(scanned.images, scanned.records, strict=True)
    ]
    if max_side is not None:
        items = [shrunk(data, record, max_side) for data, record in items]
    records, images = [record for _, record in items], [data for data, _ in items]
    file = encode_shard(records, images, spec.names) if records else b""
    num_boxes = np.bincount(
        [class_id for record in records for class_id in record.classes], minlength=len(spec.names)
    )
    packed = PackedShard(
        split=plan.split,
        entry=ShardEntry(
            file=plan.file,
            num_images=len(records),
            num_bytes=len(file),
            sha256=hashlib.sha256(file).hexdigest(),
        ),
        num_background=sum(not record.classes for record in records),
        num_boxes=tuple(num_boxes.tolist()),
        num_skipped=scanned.num_skipped,
        largest_px=(
            max((r.height for r in records), default=0),
            max((r.width for r in records), default=0),
        ),
        identity=sum(map(_identity, records, images)) % 2**256,
        quarantine=tuple(scanned.quarantine),
    )
    return file, packed


def shrunk(data: bytes, record: ImageRecord, max_side: int) -> tuple[bytes, ImageRecord]:
    """An image file and its record with no side longer than `max_side` px."""
    longest = max(record.height, record.width)
    if longest <= max_side:
        return data, record
    scale = max_side / longest
    height, width = (max(round(side * scale), 1) for side in (record.height, record.width))
    areas = [area * height * width / (record.height * record.width) for area in record.areas_px]
    smaller = dataclasses.replace(record, height=height, width=width, areas_px=areas)
    return shrink_image(data, record.id, height, width), smaller


def build_index(names: Sequence[str], packed: Sequence[PackedShard]) -> DatasetIndex:
    """The index of a dataset whose shards are all there."""
    splits: dict[str, SplitEntry] = {}
    identity = hashlib.sha256(repr(tuple(names)).encode())
    for split in dict.fromkeys(shard.split for shard in packed):
        shards = [shard for shard in packed if shard.split == split]
        total = sum(shard.identity for shard in shards) % 2**256
        identity.update(f"{split} {total:064x}".encode())
        splits[split] = SplitEntry(
            shards=tuple(shard.entry for shard in shards if shard.entry.num_images),
            num_background=sum(shard.num_background for shard in shards),
            num_boxes=tuple(map(sum, zip(*(shard.num_boxes for shard in shards), strict=True))),
            num_skipped=sum(shard.num_skipped for shard in shards),
            largest_px=(
                max(shard.largest_px[0] for shard in shards),
                max(shard.largest_px[1] for shard in shards),
            ),
        )
    return DatasetIndex(
        format_version=FORMAT_VERSION,
        names=tuple(names),
        fingerprint=identity.hexdigest(),
        splits=splits,
    )


def pack_strays(source: OpenSplit) -> PackedShard:
    """What a split's labels speak of that is not there: no shard, but part of the account."""
    strays = source.strays()
    return PackedShard(
        split=source.split,
        entry=ShardEntry(file="", num_images=0, num_bytes=0, sha256=""),
        num_background=0,
        num_boxes=(0,) * len(source.spec.names),
        num_skipped=strays.num_skipped,
        largest_px=(0, 0),
        identity=0,
        quarantine=tuple(strays.quarantine),
    )


def check_usable(sources: Sequence[OpenSplit], packed: Sequence[PackedShard]) -> None:
    """Raise `DatasetError` for a split without a usable image, or without a labeled object."""
    for source in sources:
        shards = [shard for shard in packed if shard.split == source.split]
        source.check_usable(
            num_images=sum(shard.entry.num_images for shard in shards),
            num_background=sum(shard.num_background for shard in shards),
            num_skipped=sum(shard.num_skipped for shard in shards),
            first=next((row for shard in shards for row in shard.quarantine), None),
        )


def save_index(
    files: RunPaths, sources: Sequence[OpenSplit], packed: Sequence[PackedShard]
) -> DatasetIndex:
    """Write what makes shards a dataset: the list of what was left out and, last, the index.

    Args:
        files: where the shards are.
        sources: the splits that they are of, at least one.
        packed: all shards, in their order.

    Raises:
        DatasetError: a split has no usable image, or no labeled object.
    """
    packed = [*packed, *map(pack_strays, sources)]
    check_usable(sources, packed)
    index = build_index(sources[0].spec.names, packed)
    files.write_text(QUARANTINE, quarantine_csv(row for s in packed for row in s.quarantine))
    files.write_text(INDEX, dump_index(index))
    return index


def source_key(spec: DatasetSpec, splits: Sequence[str]) -> str:
    """Changes with every file of a source on this node, whatever is in it."""
    digest = hashlib.sha256()
    facts = (spec.root, spec.names, spec.splits, spec.format, spec.annotations)
    columns = () if spec.columns == DEFAULT_COLUMNS else (spec.columns,)
    digest.update(repr((FORMAT_VERSION, *facts, *columns)).encode())
    for split in splits:
        for file in source_files(spec, split):
            digest.update(repr((str(file), _stamp(file))).encode())
    return digest.hexdigest()


def quarantine_csv(rows: Iterable[QuarantineRow]) -> str:
    """The list of what was left out, for people."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "row", "reason"))
    writer.writerows(astuple(row) for row in rows)
    return text.getvalue()


def _blocks(images: Sequence[StoredImage]) -> list[list[int]]:
    """Numbers of the images that are read together: each file, or each block of a file of many."""

    def block(number: int) -> tuple[object, ...]:
        image = images[number]
        return (number,) if image.row is None else (image.file, image.block)

    return [list(numbers) for _, numbers in groupby(range(len(images)), block)]


def _num_bytes(image: StoredImage) -> int:
    if image.num_bytes is not None:
        return image.num_bytes
    stamp = _stamp(image.file)
    return stamp[0] if stamp else 0  # it will be listed as unusable when it is read


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _identity(record: ImageRecord, image: bytes) -> int:
    name = Path(record.id).name if Path(record.id).is_absolute() else record.id
    labels = (record.classes, record.boxes_cxcywh_norm, record.all_polygons(), record.all_crowd())
    digest = hashlib.sha256(repr((name, record.height, record.width, labels)).encode())
    digest.update(image)
    return int(digest.hexdigest(), 16)
