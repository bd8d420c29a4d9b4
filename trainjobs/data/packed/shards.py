"""Packed splits, read: memory-mapped shards, images decoded from them on demand.

A split counts its images through its shards. Nothing is copied but what is asked for; the page cache
of a node is shared by all processes that read.
"""

import hashlib
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.errors import DatasetError
from trainjobs.data.columns import to_numpy
from trainjobs.data.images import RgbImage, decode_image
from trainjobs.data.packed.index import ShardEntry, SplitEntry
from trainjobs.data.packed.schema import COLUMNS, FORMAT_VERSION, METADATA_KEY

MAX_OPEN_SHARDS = 64
"""Of a split in a process; mapped files that a cache has deleted take disk until they are closed."""

OPEN_ATTEMPTS = 3

MIN_OUTLINE_NUMBERS = 6
"""Of the list of an outline: x and y of three points."""

Fetch = Callable[[ShardEntry], Path]
"""Where a shard lies on this node; it is fetched first if need be."""


class Shard:
    """One Arrow file, memory-mapped."""

    def __init__(self, file: Path, num_images: int, num_classes: int) -> None:
        """Open and check all of it but the images' bytes.

        Args:
            file: on this node.
            num_images: that the index says it has.
            num_classes: of the dataset.

        Raises:
            DatasetError: it is damaged or of another format.
            FileNotFoundError: it is gone.
        """
        self.file = file
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(file)))
            if reader.num_record_batches != 1:
                raise DatasetError(str(file), "must have one record batch")
            self._batch = reader.get_batch(0)
            _check_schema(reader.schema, str(file))
            self._batch.validate(full=True)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException, ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DatasetError(str(file), f"is no whole shard ({reason})") from error
        self._check(num_images, num_classes)

    def _check(self, num_images: int, num_classes: int) -> None:
        if len(self) != num_images:
            reason = f"has {len(self)} images, the index says {num_images}"
            raise DatasetError(str(self.file), reason)
        offsets = self._offsets("classes")
        for name in ("boxes_cxcywh_norm", "polygons_norm", "areas_px", "crowd"):
            if not np.array_equal(self._offsets(name), offsets):
                raise DatasetError(str(self.file), f"{name} has not one entry per class")
        boxes, sides, classes = self._boxes, self.sizes, self._classes
        if not ((classes >= 0) & (classes < num_classes)).all():
            raise DatasetError(str(self.file), f"classes must be from 0 to {num_classes - 1}")
        if not (sides > 0).all():
            raise DatasetError(str(self.file), "height and width must be positive")
        if not (np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()):
            raise DatasetError(str(self.file), "boxes must be finite and have an area")
        counts = np.diff(to_numpy(self._batch.column("polygons_norm").values.offsets, np.int32))
        if (counts % 2 != 0).any() or ((counts > 0) & (counts < MIN_OUTLINE_NUMBERS)).any():
            raise DatasetError(str(self.file), "an outline must have three points or none")
        if not np.isfinite(self._points).all():
            raise DatasetError(str(self.file), "outlines must be finite")

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(N, 2) height and width in px of each image, upright."""
        columns = [to_numpy(self._batch.column(name), np.int32) for name in ("height", "width")]
        return np.stack(columns, axis=1)

    def id(self, row: int) -> str:
        """What the image was called in its source."""
        name: str = self._batch.column("id")[row].as_py()
        return name

    def image(self, row: int) -> memoryview:
        """The image file's bytes, where they lie in the mapped shard."""
        return memoryview(self._batch.column("image")[row].as_buffer()).cast("B")

    def labels(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes (n,) and boxes_cxcywh_norm (n, 4) of all its boxes, in the order of the source."""
        rows = self._rows(row)
        return self._classes[rows].astype(np.int64), self._boxes[rows].copy()

    def outlines(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
        """Points (m, 2), as fractions, of the outlines of all boxes' objects, one after the other.

        Returns:
            They, and how many points each box has (n,), 0 for none; None if no box of the shard has
            any.
        """
        if not len(self._points):
            return None
        rows = self._rows(row)
        ends = self._outline_ends[rows.start : rows.stop + 1]
        return self._points[ends[0] : ends[-1]], np.diff(ends)

    def areas_px(self, row: int) -> NDArray[np.float32]:
        """(n,) area of each box's object."""
        values = to_numpy(self._batch.column("areas_px").values, np.float32)
        return values[self._rows(row)].copy()

    def crowd(self, row: int) -> NDArray[np.bool_]:
        """(n,) whether each box stands for many objects."""
        return self._crowd[self._rows(row)].astype(np.bool_)

    def _rows(self, row: int) -> slice:
        return slice(int(self._box_offsets[row]), int(self._box_offsets[row + 1]))

    def _offsets(self, name: str) -> NDArray[np.int32]:
        return to_numpy(self._batch.column(name).offsets, np.int32)

    @cached_property
    def _box_offsets(self) -> NDArray[np.int32]:
        return self._offsets("classes")

    @cached_property
    def _classes(self) -> NDArray[np.int32]:
        return to_numpy(self._batch.column("classes").values, np.int32)

    @cached_property
    def _boxes(self) -> NDArray[np.float32]:
        values = self._batch.column("boxes_cxcywh_norm").values.values
        return to_numpy(values, np.float32).reshape(-1, 4)

    @cached_property
    def _points(self) -> NDArray[np.float32]:
        values = self._batch.column("polygons_norm").values.values
        return to_numpy(values, np.float32).reshape(-1, 2)

    @cached_property
    def _outline_ends(self) -> NDArray[np.int32]:
        return to_numpy(self._batch.column("polygons_norm").values.offsets, np.int32) // 2

    @cached_property
    def _crowd(self) -> NDArray[np.uint8]:
        return to_numpy(self._batch.column("crowd").values, np.uint8)


class Split:
    """Images of one split with their labels. Safe to use from several threads."""

    def __init__(
        self,
        entry: SplitEntry,
        names: tuple[str, ...],
        fetch: Fetch,
        *,
        is_remote: bool = False,
    ) -> None:
        """Nothing is opened yet.

        Args:
            entry: Of the index.
            names: Class names by class id.
            fetch: Where shards lie.
            is_remote: Whether that takes time, so that it is worth while to ask for them before.
        """
        self._entry, self._fetch = entry, fetch
        self.names = names
        """Class names by class id."""
        self.shard_sizes = tuple(shard.num_images for shard in entry.shards)
        """Images in each shard."""
        self.fetched_bytes = tuple(shard.num_bytes * is_remote for shard in entry.shards)
        """Bytes of each shard that have to be fetched to this node; 0: none."""
        self._starts = [0, *accumulate(self.shard_sizes)]
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def digest(self) -> str:
        """Of the images, their labels and their order, which the dataset's fingerprint does not say."""
        sums = [shard.sha256 for shard in self._entry.shards]
        return hashlib.sha256(repr((self.names, sums)).encode()).hexdigest()

    def fetch(self, number: int) -> None:
        """Bring a shard to this node, if that can be done; what is wrong shows when it is needed."""
        with suppress(DatasetError):
            self._fetch(self._entry.shards[number])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width in px of an image, upright."""
        shard, row = self._find(index)
        height, width = shard.sizes[row].tolist()
        return height, width

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(N, 2) height and width in px of every image; all shards are looked into."""
        return np.concatenate(
            [self._shard(number).sizes for number in range(len(self.shard_sizes))]
        )

    def id(self, index: int) -> str:
        """What an image was called in its source."""
        shard, row = self._find(index)
        return shard.id(row)

    def labels(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes (n,) and boxes_cxcywh_norm (n, 4) to train on: of single objects, not crowds."""
        shard, row = self._find(index)
        classes, boxes = shard.labels(row)
        crowd = shard.crowd(row)
        return (classes[~crowd], boxes[~crowd]) if crowd.any() else (classes, boxes)

    def label(self, index: int) -> int:
        """The class of an image that has one, for a classifier.

        Raises:
            DatasetError: it has no box, or several; names it and its shard.
        """
        classes, _ = self.labels(index)
        if len(classes) != 1:
            shard, row = self._find(index)
            reason = f"{len(classes)} boxes; a classifier needs images of one class, so of one box"
            raise DatasetError(f"{shard.file}: {shard.id(row)}", f"has {reason}")
        return int(classes[0])

    def outlines(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
        """Points (m, 2), as fractions, round the objects of `labels`; see `ImageSource`."""
        shard, row = self._find(index)
        found = shard.outlines(row)
        if found is None:
            return None
        points, counts = found
        crowd = shard.crowd(row)
        return (points[~crowd.repeat(counts)], counts[~crowd]) if crowd.any() else found

    def shard_of(self, index: int) -> tuple[Shard, int]:
        """The shard that holds an image, and its row there: for all that is known of its boxes."""
        return self._find(index)

    def read_image(self, index: int, reduce: int = 1) -> RgbImage:
        """Decode one image; a JPEG may come at ceil(side / reduce) (see `images.decode_image`).

        Returns:
            (H, W, 3).

        Raises:
            DatasetError: its shard is gone or damaged; names both.
        """
        shard, row = self._find(index)
        return decode_image(shard.image(row), f"{shard.file}: {shard.id(row)}", reduce)

    def encoded(self, index: int) -> memoryview:
        """The bytes of an image's file, where they lie in the mapped shard."""
        shard, row = self._find(index)
        return shard.image(row)

    def _find(self, index: int) -> tuple[Shard, int]:
        number = bisect_right(self._starts, index) - 1
        return self._shard(number), index - self._starts[number]

    def _shard(self, number: int) -> Shard:
        with self._lock:
            shard = self._open.get(number)
            if shard is not None:
                self._open.move_to_end(number)
                return shard
        shard = self._open_shard(self._entry.shards[number])
        with self._lock:
            self._open[number] = shard
            while len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        return shard

    def _open_shard(self, entry: ShardEntry) -> Shard:
        for _ in range(OPEN_ATTEMPTS):
            # A full cache may drop the file between these two.
            with suppress(FileNotFoundError):
                return Shard(self._fetch(entry), entry.num_images, len(self.names))
        reason = "left the node's cache before it could be opened; raise data.cache_gib"
        raise DatasetError(entry.file, reason)


def _check_schema(schema: Any, source: str) -> None:
    content = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        reason = f"has format_version {version!r}, this is format {FORMAT_VERSION}; pack anew"
        raise DatasetError(source, reason)
    if not schema.equals(COLUMNS):
        raise DatasetError(source, f"has other columns than {', '.join(COLUMNS.names)}")
