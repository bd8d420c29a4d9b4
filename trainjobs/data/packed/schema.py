"""What a shard holds: an Arrow IPC file with one record batch, a row per image.

Images are stored as the bytes of their files (JPEG, PNG ...), labels beside them. docs/data.md says
it for whoever writes shards with another program; `FORMAT_VERSION` changes with a column's meaning.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from trainjobs.data.columns import bytes_column, numbers_column, offsets_column

FORMAT_VERSION = 1
METADATA_KEY = b"trainjobs"

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("classes", pa.list_(pa.int32())),
        ("boxes_cxcywh_norm", pa.list_(pa.list_(pa.float32(), 4))),
        ("polygons_norm", pa.list_(pa.list_(pa.float32()))),
        ("areas_px", pa.list_(pa.float32())),
        ("crowd", pa.list_(pa.uint8())),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One image of a split and its labels; each list of labels has an entry per box."""

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
    polygons_norm: list[list[float]] = field(default_factory=list)
    """Outline of each box's object, x1 y1 x2 y2 ..., likewise; [] for one that has none. Empty: no
    box has one."""
    areas_px: list[float] = field(default_factory=list)
    """Area of each box's object, as its source states it. Empty: the boxes' own."""
    crowd: list[bool] = field(default_factory=list)
    """Whether each box stands for many objects; such are not trained on, and a detection in them is
    not judged. Empty: none does."""

    def all_polygons(self) -> list[list[float]]:
        """`polygons_norm`, one per box."""
        return self.polygons_norm or [[] for _ in self.classes]

    def all_areas(self) -> list[float]:
        """`areas_px`, one per box."""
        pixels = self.height * self.width
        return self.areas_px or [w * h * pixels for _, _, w, h in self.boxes_cxcywh_norm]

    def all_crowd(self) -> list[bool]:
        """`crowd`, one per box."""
        return self.crowd or [False] * len(self.classes)


def encode_shard(
    records: Sequence[ImageRecord], images: Sequence[bytes], names: Sequence[str]
) -> bytes:
    """The bytes of a shard's file.

    Args:
        records: of its images, in their order.
        images: their files' bytes.
        names: class names by class id.
    """
    metadata = {"format_version": FORMAT_VERSION, "names": list(names)}
    schema = COLUMNS.with_metadata({METADATA_KEY: json.dumps(metadata).encode()})
    per_image = offsets_column(record.classes for record in records)
    boxes = numbers_column(_flat(box for r in records for box in r.boxes_cxcywh_norm), np.float32)
    polygons = [polygon for record in records for polygon in record.all_polygons()]
    points = pa.ListArray.from_arrays(
        offsets_column(polygons), numbers_column(_flat(polygons), np.float32)
    )

    def per_box(values: Iterable[Sequence[float]], dtype: type[np.generic]) -> Any:
        return pa.ListArray.from_arrays(per_image, numbers_column(_flat(values), dtype))

    columns = [
        bytes_column([record.id.encode() for record in records], pa.string()),
        bytes_column(images, pa.binary()),
        numbers_column([record.height for record in records], np.int32),
        numbers_column([record.width for record in records], np.int32),
        per_box((record.classes for record in records), np.int32),
        pa.ListArray.from_arrays(per_image, pa.FixedSizeListArray.from_arrays(boxes, 4)),
        pa.ListArray.from_arrays(per_image, points),
        per_box((record.all_areas() for record in records), np.float32),
        per_box((record.all_crowd() for record in records), np.uint8),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return bytes(sink.getvalue())


def _flat(lists: Iterable[Sequence[float]]) -> list[float]:
    return list(chain.from_iterable(lists))
