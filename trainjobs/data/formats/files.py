"""The files that a dataset names: images of a folder or a list, paths, and what a file holds."""

import os
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import DatasetError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the files in a folder that count as images."""

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095  # Linux: NAME_MAX, PATH_MAX less its final zero


def list_images(entry: Path, root: Path) -> list[Path]:
    """Images that a folder (searched in depth, sorted) or a text file (one path a line) names.

    Args:
        entry: Absolute path of a folder or a text file.
        root: Root of the dataset. In a text file, `./x` is relative to the file's own folder; `x`
            too, or to the root where it is not found there.

    Raises:
        DatasetError: No such folder or file, or it names no image.
    """
    if entry.is_dir():
        images = sorted(_find_images(entry))
    elif entry.is_file():
        images = _read_list(entry, root)
    else:
        raise DatasetError(str(entry), "no such folder or file")
    if not images:
        raise DatasetError(str(entry), f"names no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def has_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it."""
    return next(_find_images(folder), None) is not None


def _find_images(entry: Path) -> Iterator[Path]:
    for folder, names in _walk(entry):
        for name in names:
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield Path(folder, name)


def _walk(entry: Path) -> Iterator[tuple[str, list[str]]]:
    """Folders and the names of their files; links are followed, unless they lead back up."""
    for folder, below, names in os.walk(entry, followlinks=True):
        here = Path(folder).resolve()
        below[:] = [
            name
            for name in below
            if not (link := Path(folder, name)).is_symlink()
            or not here.is_relative_to(link.resolve())
        ]
        yield folder, names


def _read_list(file: Path, root: Path) -> list[Path]:
    images = []
    for row, raw in enumerate(read_text(file).splitlines(), start=1):
        line = raw.strip()
        if not line:
            continue
        image = normal_path(file.parent, line, file, row)
        if not line.startswith("./") and not image.exists():
            other = normal_path(root, line, file, row)
            image = other if other.exists() else image
        if not image.name:
            raise DatasetError(str(file), f"{line!r} is no image", row)
        images.append(image)
    return images


def normal_path(folder: Path, path: str, file: Path | None = None, row: int | None = None) -> Path:
    """Absolute path without `..`; links stay, for labels lie beside the link.

    Args:
        folder: What `path` is relative to.
        path: May lie anywhere: a dataset's files do.
        file: That names it, and the row, for errors.

    Raises:
        DatasetError: No file can have such a name.
    """
    home = os.path.expanduser(path)  # noqa: PTH111  pathlib's raises for a user that is unknown
    found = Path(os.path.normpath(folder.absolute() / home))
    longest = max(len(os.fsencode(part)) for part in found.parts)
    if "\0" in path or longest > MAX_NAME_BYTES or len(os.fsencode(found)) > MAX_PATH_BYTES:
        raise DatasetError(str(file or folder), f"no file can be named {path[:60]!r}", row)
    return found


def read_text(file: Path) -> str:
    """Text of a file.

    Raises:
        DatasetError: It cannot be read or is not UTF-8.
    """
    try:
        return read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(str(file), "is not UTF-8 text") from error


def read_bytes(file: Path) -> bytes:
    """Content of a file.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        if file.exists() and not file.is_file():  # reading a pipe would not end
            raise DatasetError(str(file), "is no regular file")
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(str(file), error.strerror or str(error)) from error


def is_utf8(name: str) -> bool:
    """Whether a file's name can be written to a text file."""
    try:
        name.encode()
    except UnicodeEncodeError:  # Python holds a name's undecodable bytes as lone surrogates
        return False
    return True


def relative_name(file: Path, root: Path) -> str:
    """Path of a file below the root; absolute if it lies elsewhere."""
    return str(file.relative_to(root) if file.is_relative_to(root) else file)
