"""Where the images of a source lie: each in a file of its own, or many in the rows of one file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import DatasetError
from trainjobs.data.formats.files import read_bytes, relative_name


class BadImageError(DatasetError):
    """A fault of one image, for which it is left out."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image of a source."""

    file: Path
    """Absolute."""
    row: int | None = None
    """In a file of many images, counted from 0. None: the file is the image."""
    block: int = 0
    """Part of such a file that is read at once."""
    num_bytes: int | None = None
    """About, of such a row. None: as many as the file has."""

    def name(self, root: Path) -> str:
        """What the image is called: its path below the root, and its row."""
        name = relative_name(self.file, root)
        return name if self.row is None else f"{name}#{self.row}"


def store_files(files: Iterable[Path]) -> list[StoredImage]:
    """Images that are files."""
    return [StoredImage(file) for file in files]


def fetch_file(image: StoredImage) -> bytes:
    """The bytes of an image that is a file.

    Raises:
        BadImageError: It cannot be read.
    """
    try:
        return read_bytes(image.file)
    except DatasetError as error:
        raise BadImageError(error.path, error.reason) from error
