"""Pickles that hold dicts, lists, numbers, byte strings and numpy arrays of bytes, read without running anything.

A pickle names functions to be called. Three names are known here, and they stand for classes of this
module that only keep what they are given; numpy's own, which trust their input, are never called.
"""

import io
import math
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BadPickleError(ValueError):
    """A pickle is damaged, or names something that is not data."""


class _PickledType:
    """Stands for `numpy.dtype`."""

    def __init__(self, *arguments: object) -> None:
        self.code = arguments[0] if arguments else None

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which mean nothing for bytes."""


class _PickledArray:
    """Stands for `numpy.ndarray` and for the function that makes an empty one."""

    def __init__(self, *_arguments: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledType,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Knows no other name."""

    def find_class(self, module: str, name: str) -> Any:
        """The class that stands for a name."""
        if (module, name) not in _KNOWN:
            raise BadPickleError(f"it names {module[:60]}.{name[:60]}, which is no array")
        return _KNOWN[module, name]

    def persistent_load(self, _pid: object) -> Any:
        """Nothing lies elsewhere."""
        raise BadPickleError("it refers to something outside of it")


def load_arrays(data: bytes) -> Any:
    """What a pickle of Python 2 holds; its strings are byte strings.

    Raises:
        BadPickleError: It is damaged, or holds something else than data.
    """
    unpickler = _ArrayUnpickler(io.BytesIO(data), encoding="bytes")
    try:
        content = unpickler.load()
    except BadPickleError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to lead to
        raise BadPickleError(f"it is no whole pickle ({error!r:.100})") from error
    if isinstance(content, dict):
        return {key: _to_array(value) for key, value in content.items()}
    return content


def _to_array(value: Any) -> Any:
    return _build_array(value.state) if isinstance(value, _PickledArray) else value


def _build_array(state: Any) -> NDArray[np.uint8]:
    """From the version, shape, type, order and bytes that numpy writes (`ndarray.__reduce__`)."""
    try:
        _, shape, kind, is_fortran, data = state
        if not (isinstance(kind, _PickledType) and kind.code in (b"u1", "u1")):
            raise BadPickleError("an array must be of bytes (u1)")
        if not (isinstance(data, bytes) and math.prod(shape) == len(data)):
            raise BadPickleError(f"an array's bytes do not fill its shape {shape!r:.60}")
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")
    except (TypeError, ValueError) as error:
        raise BadPickleError(f"an array is damaged ({error})") from error
