"""The index of one split: an Arrow IPC file with a row per image, memory-mapped where it is used.

It holds sizes and labels, not pixels: those stay in the user's files. `SCHEMA_VERSION` changes
with the meaning of a column.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from cluster.errors import DatasetError
from trainjobs.data.images import RgbImage, read_image

SCHEMA_VERSION = 2

Number = TypeVar("Number", bound=np.generic)

# Decoded images stay in memory until this many bytes are full, so that a dataset of some hundred
# images is decoded once, not four times per mosaic. There is no eviction: a random order comes back
# to an image only after all others, so a larger dataset would gain nothing from one.
DECODED_CACHE_BYTES = 256 * 2**20
DECODED_CACHE_LARGEST_BYTES = 2**20

_METADATA_KEY = b"trainjobs"
_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("classes", pa.list_(pa.int64())),
        ("boxes_cxcywh_norm", pa.list_(pa.list_(pa.float32(), 4))),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One image of a split, as it is written to the index."""

    id: str
    """Path relative to the dataset's root; absolute where the image lies outside it."""
    height: int
    """Upright height in px."""
    width: int
    """Upright width in px."""
    classes: list[int]
    """Class of each box."""
    boxes_cxcywh_norm: list[tuple[float, float, float, float]]
    """Boxes as fractions of the upright image."""


def write_split(
    file: Path, records: Sequence[ImageRecord], *, root: Path, names: Sequence[str]
) -> None:
    """Write a split's index in one record batch.

    Args:
        file: The Arrow file to make.
        records: At least one.
        root: Absolute folder that ids are relative to.
        names: Class names by class id.
    """
    metadata = {"version": SCHEMA_VERSION, "root": str(root), "names": list(names)}
    schema = _COLUMNS.with_metadata({_METADATA_KEY: json.dumps(metadata)})
    offsets = np.cumsum([0] + [len(record.classes) for record in records])
    rows = _flat(box for record in records for box in record.boxes_cxcywh_norm)
    boxes = pa.FixedSizeListArray.from_arrays(_to_arrow(rows, np.float32), 4)
    classes = _to_arrow(_flat(record.classes for record in records), np.int64)
    columns = [
        _to_arrow_text([record.id for record in records]),
        _to_arrow([record.height for record in records], np.int32),
        _to_arrow([record.width for record in records], np.int32),
        pa.ListArray.from_arrays(_to_arrow(offsets, np.int32), classes),
        pa.ListArray.from_arrays(_to_arrow(offsets, np.int32), boxes),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)


def _flat(lists: Iterable[Sequence[float]]) -> list[float]:
    return list(chain.from_iterable(lists))


def _to_arrow(values: ArrayLike, dtype: type[np.generic]) -> Any:
    """A column of numbers. `pa.array` would do, but imports pandas, which takes seconds."""
    numbers = np.ascontiguousarray(values, dtype)
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, pa.py_buffer(numbers)]
    )


def _to_arrow_text(values: Sequence[str]) -> Any:
    """A column of strings, likewise."""
    encoded = [value.encode() for value in values]
    offsets = np.cumsum([0] + [len(value) for value in encoded], dtype=np.int32)
    data = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), data)


def _to_numpy(column: Any, dtype: type[Number]) -> NDArray[Number]:
    """A view of a column of numbers; `to_numpy` imports pandas, too."""
    if not len(column):
        return np.zeros(0, dtype)
    return np.frombuffer(
        column.buffers()[1], dtype, len(column), column.offset * np.dtype(dtype).itemsize
    )


class Split:
    """Images of one split with their labels. Pickles as its file name; each process maps it anew."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._decoded: dict[tuple[int, int], RgbImage] = {}
        self._decoded_bytes = 0

    def __reduce__(self) -> tuple[type["Split"], tuple[Path]]:
        return Split, (self._file,)

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by class id."""
        return tuple(self._metadata["names"])

    @property
    def root(self) -> Path:
        """Absolute folder that ids are relative to."""
        return Path(self._metadata["root"])

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(N, 2) height and width in px of each image, upright."""
        columns = [self._batch.column(name) for name in ("height", "width")]
        return np.stack([_to_numpy(column, np.int32) for column in columns], axis=1)

    def id(self, index: int) -> str:
        """Path of an image relative to the root, or absolute where it lies outside."""
        name: str = self._batch.column("id")[index].as_py()
        return name

    def labels(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes (n,) and boxes_cxcywh_norm (n, 4) of one image, in the order of its file."""
        offsets, classes, boxes = self._labels
        rows = slice(int(offsets[index]), int(offsets[index + 1]))
        return classes[rows].copy(), boxes[rows].copy()

    def read_image(self, index: int, reduce: int = 1) -> RgbImage:
        """Decode one image; a JPEG may come at ceil(side / reduce) (see `images.decode_image`).

        Returns:
            (H, W, 3), not to be written to.

        Raises:
            DatasetError: The file is gone or damaged since it was scanned; names it.
        """
        known = self._decoded.get((index, reduce))
        if known is not None:
            return known
        pixels = read_image(self._root / self.id(index), reduce)
        pixels.flags.writeable = False
        size = pixels.nbytes
        if (
            size <= DECODED_CACHE_LARGEST_BYTES
            and self._decoded_bytes + size <= DECODED_CACHE_BYTES
        ):
            self._decoded[index, reduce] = pixels
            self._decoded_bytes += size
        return pixels

    @cached_property
    def _root(self) -> Path:
        return self.root

    @cached_property
    def _reader(self) -> Any:
        try:
            return pa.ipc.open_file(pa.memory_map(str(self._file)))
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(str(self._file), f"is no index of a split ({error})") from error

    @cached_property
    def _batch(self) -> Any:
        return self._reader.get_batch(0)

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._reader.schema.metadata[_METADATA_KEY])
        if found["version"] != SCHEMA_VERSION:
            reason = f"has format {found['version']}, this is format {SCHEMA_VERSION}; prepare anew"
            raise DatasetError(str(self._file), reason)
        return found

    @cached_property
    def _labels(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]:
        """Offsets (N + 1,), all classes and all boxes (M, 4), straight from the mapped file."""
        classes, boxes = self._batch.column("classes"), self._batch.column("boxes_cxcywh_norm")
        return (
            _to_numpy(classes.offsets, np.int32),
            _to_numpy(classes.values, np.int64),
            _to_numpy(boxes.values.values, np.float32).reshape(-1, 4),
        )
