"""What a JPEG's headers say of how it must be decoded; nothing is decoded."""

import struct
from typing import NamedTuple

from trainjobs.data.exif import UPRIGHT, exif_orientation

_START = b"\xff\xd8"
# Markers. Source: ITU-T T.81, table B.1; APP1 as in Exif 2.32, APP14 as Adobe writes it (T.872).
_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended and progressive frames, Huffman coded."""
_OTHER_FRAMES = set(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _EXIF, _ADOBE = 0xDA, 0xE1, 0xEE


class JpegHeader(NamedTuple):
    """Of a file's first frame."""

    height: int
    """In px, as stored."""
    width: int
    channels: int
    is_common: bool
    """8 bits a channel, Huffman coded, and gray or YCbCr."""
    orientation: int
    """EXIF's, 1 to 8; 1: as stored."""


def read_jpeg_header(data: bytes | memoryview) -> JpegHeader | None:
    """Headers up to the first frame's; None if this is no JPEG, or not a plain one.

    Source: ITU-T T.81, section B.2: segments of marker and length.
    """
    if data[:2] != _START:
        return None
    at, orientation, is_rgb = 2, UPRIGHT, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        (length,) = struct.unpack_from(">H", data, at + 2)
        content = data[at + 4 : at + 2 + length]
        if marker == _EXIF and content[:6] == b"Exif\0\0":
            orientation = exif_orientation(bytes(content[6:]))
        elif marker == _ADOBE and content[:5] == b"Adobe" and len(content) >= 12:
            is_rgb = content[11] == 0  # no color transform
        elif marker in _FRAMES | _OTHER_FRAMES and len(content) >= 6:
            bits, height, width, channels = struct.unpack_from(">BHHB", content)
            is_common = marker in _FRAMES and bits == 8 and channels in (1, 3) and not is_rgb
            return JpegHeader(height, width, channels, is_common, orientation)
        elif marker == _SCAN:
            return None
        at += 2 + length
    return None
