"""The datasets that jobs generate when they are given none."""

from collections.abc import Callable
from dataclasses import dataclass

from trainjobs.data.generated.shapes import SHAPES_VERSION, generate_shapes
from trainjobs.data.generated.thumbnails import THUMBNAILS_VERSION, generate_thumbnails


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """A dataset that can be made here."""

    name: str
    """Changes with whatever changes the pictures; part of the name under which they are cached."""
    num_val: int
    """Validation images."""
    write: Callable[..., None]
    """Writes it into an empty folder, by num_train, num_val, image_size and seed."""


SHAPES = Generated(
    name=f"shapes-v{SHAPES_VERSION}",
    num_val=200,  # enough for a mAP that is steady to about 0.02
    write=generate_shapes,
)
"""For detection."""

THUMBNAILS = Generated(
    name=f"thumbnails-v{THUMBNAILS_VERSION}",
    num_val=1000,  # enough for a top-1 of 0.9 that is steady to 0.01
    write=generate_thumbnails,
)
"""For classification."""
