"""What `doctor` asks of the services that nodes share: storage, data, the tracking server."""

import base64
import os
import secrets
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from pyarrow import ArrowException
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from cluster.errors import StorageError
from cluster.storage import RunPaths, is_uri
from cluster.storage_check import CHECK_FOLDER

PROBE_BYTES = 8 << 20
"""Of the file that each node writes to the storage."""
DATA_BYTES = 32 << 20
"""Of a dataset that are read."""
NUM_DATA_FILES = 64
HTTP_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageSpeed:
    """What a node has written to the storage, and read from it."""

    file: str
    """That it wrote; relative to the check's folder."""
    write_s: float
    read_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpeed:
    """What a node has read of a dataset."""

    num_bytes: int
    read_s: float


def use_storage(storage: str, token: str) -> StorageSpeed:
    """Read what the driver wrote, and write a file of the same size.

    Args:
        storage: absolute path or URI.
        token: name of the driver's file.

    Raises:
        StorageError: this node cannot, or does not see the file.
    """
    scratch = RunPaths(storage, CHECK_FOLDER)
    if not scratch.exists(token):
        raise StorageError(f"{storage} does not show here what the driver wrote there")
    started = time.perf_counter()
    content = scratch.read_bytes(token)
    read = time.perf_counter()
    file = f"{token}.{socket.gethostname()}.{secrets.token_hex(4)}"
    scratch.write_bytes(file, content)
    return StorageSpeed(file=file, read_s=read - started, write_s=time.perf_counter() - read)


def unseen(storage: str, files: tuple[str, ...]) -> tuple[str, ...]:
    """Which files of the check's folder this node does not see.

    Raises:
        StorageError: this node cannot read the storage.
    """
    scratch = RunPaths(storage, CHECK_FOLDER)
    return tuple(file for file in files if not scratch.exists(file))


def read_data(source: str) -> DataSpeed:
    """Read some of a dataset.

    Args:
        source: a file (with a data.yaml, what lies beside it is read too), a folder or a URI.

    Raises:
        StorageError: there is nothing, or it cannot be read.
    """
    try:
        filesystem, path = (
            FileSystem.from_uri(source) if is_uri(source) else (LocalFileSystem(), source)
        )
        found = filesystem.get_file_info(path)
        if found.type == FileType.NotFound:
            raise StorageError(f"{source} is not there")
        folder = path if found.type == FileType.Directory else path.rpartition("/")[0]
        started, num_bytes = time.perf_counter(), 0
        for info in _some_files(filesystem, folder):
            with filesystem.open_input_stream(info.path) as stream:
                num_bytes += len(stream.read(DATA_BYTES - num_bytes))
            if num_bytes >= DATA_BYTES:
                break
    except (OSError, ArrowException) as error:
        raise StorageError(f"{source} cannot be read: {error}") from error
    if not num_bytes:
        raise StorageError(f"{source} holds no files")
    return DataSpeed(num_bytes=num_bytes, read_s=time.perf_counter() - started)


def tracking_problem(uri: str) -> str:
    """What keeps this node from using an MLflow server; "" if nothing.

    Args:
        uri: http or https, with user and password or with those that MLflow takes from the
            environment.
    """
    parts = urlsplit(uri)
    user = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    place = parts.netloc.rpartition("@")[2]
    # Unlike /health, this wants who is asking.
    url = urlunsplit((parts.scheme, place, f"{parts.path.rstrip('/')}/version", "", ""))
    request = urllib.request.Request(url)
    if user:
        code = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {code}")
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as answer:
            return "" if answer.status == 200 else f"answers {answer.status}"
    except urllib.error.HTTPError as error:
        return f"answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return f"does not answer: {getattr(error, 'reason', error)}"


def open_without_token(url: str) -> bool | None:
    """Whether Ray's dashboard lists jobs to somebody without a token; None if it does not answer."""
    try:
        with urllib.request.urlopen(f"{url}/api/jobs/", timeout=HTTP_TIMEOUT_S):
            return True
    except urllib.error.HTTPError as error:
        return error.code not in (401, 403)
    except (OSError, ValueError):
        return None


def _some_files(filesystem: FileSystem, folder: str) -> Iterator[FileInfo]:
    """A few files below a folder, level by level: a bucket may hold millions."""
    folders, left = [folder], NUM_DATA_FILES
    while folders and left > 0:
        found = sorted(filesystem.get_file_info(FileSelector(folders.pop(0))), key=lambda f: f.path)
        files = [info for info in found if info.type == FileType.File and info.size]
        yield from files[:left]
        left -= len(files)
        folders += [info.path for info in found if info.type == FileType.Directory]
