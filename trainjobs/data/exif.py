"""The orientation in an image file's EXIF block: how pixels as stored are to be shown.

Source: Exif 2.32 (CIPA DC-008), section 4.6.4, tag 0x0112.
"""

import struct

import cv2
import numpy as np

UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_ENTRY_BYTES = 12


def read_orientation(data: bytes) -> int:
    """EXIF orientation of an image file's bytes, 1 to 8; 1 where it says nothing."""
    _, kinds, blocks = cv2.imdecodeWithMetadata(
        np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8
    )
    for kind, block in zip(kinds, blocks, strict=True):
        if kind == cv2.IMAGE_METADATA_EXIF:
            return exif_orientation(np.asarray(block, np.uint8).tobytes())
    return UPRIGHT


def exif_orientation(tiff: bytes) -> int:
    """Orientation that an EXIF block's TIFF data states, 1 to 8; 1 where it says nothing."""
    try:
        return _find_tag(tiff)
    except struct.error:
        return UPRIGHT


def _find_tag(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF block."""
    order = "<" if tiff.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for number in range(count):
        at = start + 2 + number * _ENTRY_BYTES
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
        if tag == _ORIENTATION_TAG:
            return int(value)
    return UPRIGHT
