"""Parquet files of images: a row per image, the bytes of its file in one column, its label in another.

Images are read a row group at a time. Rows count from 0, as in other tools for such files.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

from cluster.errors import DatasetError
from trainjobs.data.columns import to_numpy
from trainjobs.data.formats.class_names import Columns
from trainjobs.data.formats.stored import BadImageError, StoredImage

KEPT_GROUPS = 2
"""Row groups whose images are held in memory: several threads read images, about in order."""


def stated_names(file: Path, columns: Columns) -> tuple[str, ...]:
    """Class names in a file's metadata: `classes`, or what Hugging Face's libraries write; or none.

    Raises:
        DatasetError: It cannot be read, or they are no names.
    """
    with _opened(file, columns) as table:
        metadata: dict[bytes, bytes] = table.schema_arrow.metadata or {}
    try:
        if b"classes" in metadata:
            names = json.loads(metadata[b"classes"])
        else:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][columns.label]["names"]
    except KeyError:
        return ()
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(str(file), f"its class names are damaged ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(str(file), f"its class names must be a list of texts, got {names!r:.60}")
    if len(set(names)) < len(names):
        raise DatasetError(str(file), f"has a class name twice: {', '.join(names)}")
    return tuple(names)


def read_label_column(file: Path, columns: Columns) -> NDArray[np.int64] | list[str]:
    """All labels of a file, integers of at least 0 or texts.

    Raises:
        DatasetError: It cannot be read; a label is null or negative.
    """
    with _opened(file, columns) as table:
        column = table.read(columns=[columns.label]).column(columns.label)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if column.null_count:
            raise DatasetError(str(file), "the label is null", column.to_pylist().index(None))
        if _is_text(column.type):
            texts: list[str] = column.to_pylist()
            return texts
        chunks = [to_numpy(chunk, np.int64) for chunk in column.cast(pa.int64()).chunks]
    numbers = np.concatenate([*chunks, np.zeros(0, np.int64)])
    if len(numbers) and numbers.min() < 0:
        reason = f"label {numbers.min()} is negative"
        raise DatasetError(str(file), reason, int(numbers.argmin()))
    return numbers


def list_rows(file: Path, columns: Columns) -> list[StoredImage]:
    """The images of a file, in blocks of a row group.

    Raises:
        DatasetError: It cannot be read.
    """
    images: list[StoredImage] = []
    with _opened(file, columns) as table:
        for number in range(table.num_row_groups):
            group = table.metadata.row_group(number)
            parts = [group.column(index) for index in range(group.num_columns)]
            total = sum(p.total_uncompressed_size for p in parts if _is_part(p, columns.image))
            rows = range(len(images), len(images) + group.num_rows)
            mean = total // max(group.num_rows, 1)
            images += [StoredImage(file, row, number, mean) for row in rows]
    return images


def build_fetch(images: Sequence[StoredImage], columns: Columns) -> Callable[[StoredImage], bytes]:
    """What reads one of some images, from the last row groups that it has read if it is there."""
    starts: dict[tuple[Path, int], int] = {}
    for image in images:
        assert image.row is not None
        starts.setdefault((image.file, image.block), image.row)
    lock = Lock()

    @lru_cache(KEPT_GROUPS)
    def load(file: Path, block: int) -> Any:
        with _opened(file, columns) as table:
            return table.read_row_group(block, columns=[columns.image]).column(0)

    def fetch(image: StoredImage) -> bytes:
        with lock:  # else each thread would read the group
            column = load(image.file, image.block)
        assert image.row is not None
        value = column[image.row - starts[image.file, image.block]].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise BadImageError(str(image.file), "the image is null", image.row)
        return bytes(data)

    return fetch


@contextmanager
def _opened(file: Path, columns: Columns) -> Iterator[ParquetFile]:
    """A file that has the columns.

    Raises:
        DatasetError: It has not, or is damaged, also where it is read by whoever opened it.
    """
    try:
        with ParquetFile(file) as table:
            _check_columns(table.schema_arrow, file, columns)
            yield table
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(str(file), f"is no whole Parquet file ({reason})") from error


def _check_columns(schema: Any, file: Path, columns: Columns) -> None:
    for key, name in columns._asdict().items():
        if schema.names.count(name) != 1:
            found = ", ".join(schema.names)
            reason = f"must have one column {name!r}, has {found}; or set `{key}` in a data.yaml"
            raise DatasetError(str(file), reason)
    image, label = (schema.field(name).type for name in columns)
    place = image.get_field_index("bytes") if pa.types.is_struct(image) else -1
    data = image.field(place).type if place >= 0 else image
    if not (pa.types.is_binary(data) or pa.types.is_large_binary(data)):
        reason = f"column {columns.image!r} must hold image files (binary), got {image}"
        raise DatasetError(str(file), reason)
    value = label.value_type if pa.types.is_dictionary(label) else label
    if not (pa.types.is_integer(value) or _is_text(value)):
        reason = f"column {columns.label!r} must hold integers or text, got {label}"
        raise DatasetError(str(file), reason)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_part(part: Any, column: str) -> bool:
    """Whether a column as stored is a column of the table, or a field of it."""
    path = part.path_in_schema
    return bool(path == column or path.startswith(f"{column}."))
