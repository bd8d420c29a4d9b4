"""Arrow columns from Python and numpy values, and back.

Arrow's own conversions import pandas, which takes seconds and which this service does not need.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

Number = TypeVar("Number", bound=np.generic)


def to_numpy(column: Any, dtype: type[Number]) -> NDArray[Number]:
    """A view of a column of numbers without nulls."""
    if not len(column):
        return np.zeros(0, dtype)
    return np.frombuffer(
        column.buffers()[1], dtype, len(column), column.offset * np.dtype(dtype).itemsize
    )


def numbers_column(values: ArrayLike, dtype: type[np.generic]) -> Any:
    """A column of numbers."""
    numbers = np.ascontiguousarray(values, dtype)
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, pa.py_buffer(numbers)]
    )


def offsets_column(lists: Iterable[Sequence[object]]) -> Any:
    """Where each list begins in a column of all their values, and where the last one ends."""
    return numbers_column(np.cumsum([0, *map(len, lists)]), np.int32)


def bytes_column(values: Sequence[bytes], kind: Any) -> Any:
    """A column of strings or byte strings, by Arrow's type `kind`."""
    data = [None, offsets_column(values).buffers()[1], pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(kind, len(values), data)
