"""Where a run keeps its files: a folder that all nodes share, or a URI (`s3://...`) via pyarrow.fs.

`RunPaths` is the only way a run's files are written: each appears whole or not at all.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType

from cluster.errors import ConfigError, StorageError

_OBJECT_STORES = ("s3", "gcs", "abfs")  # have no folders to make
_PARTIAL = ".partial"
STORAGE_VARIABLE = "TRAINJOBS_STORAGE"


def resolve_storage(
    request: str | None, *, environ: Mapping[str, str], cwd: Path, in_job: bool
) -> str:
    """Where the runs go, as an absolute path or a URI.

    Args:
        request: What the user gave (`resources.storage`), or None.
        environ: The environment variables of the command.
        cwd: The command's working directory.
        in_job: Whether a Ray job runs the command; its working directory is then a throw-away copy.

    Raises:
        ConfigError: A URI of an unknown kind, or a relative path inside a submitted job.
    """
    if request is None:
        request = environ.get(STORAGE_VARIABLE) or "~/runs" if in_job else "runs"
    if is_uri(request):
        if urlsplit(request).scheme == "file":
            return os.path.normpath(unquote(urlsplit(request).path))
        _open_uri(request)
        return request
    path = Path(request).expanduser()
    if in_job and not path.is_absolute():
        raise ConfigError(
            f"resources.storage is {request!r}, relative to the job's throw-away copy of the working "
            f"directory ({cwd}): give an absolute path or a URI, or set {STORAGE_VARIABLE}"
        )
    return os.path.normpath(cwd / path)


def is_uri(storage: str) -> bool:
    """Whether a storage is a URI rather than a local path."""
    return "://" in storage


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The folder of one run. `relative` below is a path in it, with `/`; "" is the folder itself."""

    storage: str
    """Absolute path or URI, as `resolve_storage` gives it."""
    run_name: str

    def location(self, relative: str = "") -> str:
        """Absolute path or URI of a file, as it goes into results."""
        if not self.is_remote:
            return str(Path(self.storage, self.run_name, relative))
        place, question, query = self.storage.partition("?")  # an endpoint may follow the path
        return _joined(place, self.run_name, relative) + question + query

    @property
    def is_remote(self) -> bool:
        """Whether files go through pyarrow.fs instead of the local file system."""
        return is_uri(self.storage)

    def local(self, relative: str = "") -> Path:
        """Local path of a file; its folder exists afterwards. For what is appended to (train.log).

        Raises:
            StorageError: The storage is a URI, or the folder cannot be made.
        """
        if self.is_remote:
            raise StorageError(f"{self.storage} has no local files")
        path = Path(self.location(relative))
        with self._errors("cannot be written", relative):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a file whole or not at all; an older one of that name stays until then.

        Raises:
            StorageError: It could not be written.
        """
        with self._open_whole(relative) as stream:
            stream.write(data)

    def write_text(self, relative: str, text: str) -> None:
        """`write_bytes` of UTF-8."""
        self.write_bytes(relative, text.encode("utf-8"))

    def copy_from(self, source: str | Path, relative: str) -> None:
        """Copy a local file here, whole or not at all.

        Raises:
            StorageError: It could not be read or written.
        """
        with (
            self._errors(f"cannot be copied from {source}", relative),
            Path(source).open("rb") as read,
            self._open_whole(relative) as stream,
        ):
            shutil.copyfileobj(read, stream, length=1 << 22)

    def read_bytes(self, relative: str) -> bytes:
        """Content of a file.

        Raises:
            StorageError: It is missing or cannot be read.
        """
        with self._errors("cannot be read", relative):
            if not self.is_remote:
                return Path(self.location(relative)).read_bytes()
            filesystem, path = self._remote(relative)
            with filesystem.open_input_stream(path) as stream:
                return bytes(stream.read())

    def read_text(self, relative: str) -> str:
        """`read_bytes` as UTF-8."""
        try:
            return self.read_bytes(relative).decode("utf-8")
        except UnicodeDecodeError as error:
            raise StorageError(f"{self.location(relative)} is not UTF-8 text") from error

    def exists(self, relative: str = "") -> bool:
        """Whether a file or folder is there.

        Raises:
            StorageError: The storage does not answer.
        """
        with self._errors("cannot be looked at", relative):
            if not self.is_remote:
                return Path(self.location(relative)).exists()
            filesystem, path = self._remote(relative)
            return bool(filesystem.get_file_info(path).type != FileType.NotFound)

    def list_names(self, relative: str = "") -> tuple[str, ...]:
        """Sorted names of the files and folders in a folder; none if there is no such folder.

        Raises:
            StorageError: The storage does not answer.
        """
        with self._errors("cannot be listed", relative):
            if self.is_remote:
                filesystem, path = self._remote(relative)
                found = filesystem.get_file_info(FileSelector(path, allow_not_found=True))
                names = [info.base_name for info in found]
            else:
                folder = Path(self.location(relative))
                names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return tuple(sorted(name for name in names if not name.endswith(_PARTIAL)))

    def delete(self, relative: str) -> None:
        """Delete a file if it is there.

        Raises:
            StorageError: It is there and cannot be deleted.
        """
        with self._errors("cannot be deleted", relative):
            if not self.is_remote:
                Path(self.location(relative)).unlink(missing_ok=True)
            elif self.exists(relative):
                filesystem, path = self._remote(relative)
                filesystem.delete_file(path)

    def delete_folder(self) -> None:
        """Delete the folder and everything in it, if it is there.

        Raises:
            StorageError: It is there and cannot be deleted.
        """
        with self._errors("cannot be deleted", ""):
            if not self.exists():
                return
            if self.is_remote:
                filesystem, path = self._remote("")
                filesystem.delete_dir(path)
            else:
                shutil.rmtree(self.location())

    def _remote(self, relative: str) -> tuple[FileSystem, str]:
        filesystem, base = _open_uri(self.storage)
        return filesystem, _joined(base, self.run_name, relative)

    @contextmanager
    def _open_whole(self, relative: str) -> Iterator[IO[bytes]]:
        with self._errors("cannot be written", relative):
            if self.is_remote:
                with self._open_remote(relative) as stream:
                    yield stream
                return
            path = self.local(relative)
            partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{_PARTIAL}")
            try:
                with partial.open("wb") as stream:
                    yield stream
                    stream.flush()
                    os.fsync(stream.fileno())
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)

    @contextmanager
    def _open_remote(self, relative: str) -> Iterator[IO[bytes]]:
        # Object stores show an object when its stream is closed, and closing cannot be avoided.
        filesystem, path = self._remote(relative)
        if filesystem.type_name not in _OBJECT_STORES:
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        try:
            with filesystem.open_output_stream(path) as stream:
                yield stream
        except BaseException:
            with suppress(OSError, ArrowException):
                filesystem.delete_file(path)
            raise

    @contextmanager
    def _errors(self, problem: str, relative: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ArrowException) as error:
            raise StorageError(f"{self.location(relative)} {problem}: {error}") from error


def _joined(*parts: str) -> str:
    return "/".join(part.rstrip("/") for part in parts if part)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse to sync a folder
            os.fsync(handle)
    finally:
        os.close(handle)


@cache
def _open_uri(uri: str) -> tuple[FileSystem, str]:
    try:
        filesystem, path = FileSystem.from_uri(uri)
        if not path.strip("/"):
            raise OSError("it names no bucket")
    except (OSError, ArrowException) as error:
        raise ConfigError(
            f"resources.storage {uri!r} cannot be opened: {error}; give a path, or a URI such as "
            "s3://bucket/folder"
        ) from error
    return filesystem, path
