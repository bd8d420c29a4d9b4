import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, StorageError
from cluster.storage import RunPaths, resolve_storage
from cluster.storage_check import CHECK_FOLDER, check_storage

CWD = Path("/home/ann")
HOME = Path.home()


@pytest.fixture(params=["local", "remote"])
def paths(request: pytest.FixtureRequest, tmp_path: Path) -> RunPaths:
    """A run in a folder, and one behind pyarrow.fs (its in-memory file system)."""
    storage = str(tmp_path) if request.param == "local" else f"mock://{tmp_path.name}/runs"
    return RunPaths(storage, "run")


@pytest.mark.parametrize(
    ("request_", "in_job", "environ", "expected"),
    [
        (None, False, {}, "/home/ann/runs"),
        (None, False, {"TRAINJOBS_STORAGE": "/shared"}, "/home/ann/runs"),
        (None, True, {}, f"{HOME}/runs"),
        (None, True, {"TRAINJOBS_STORAGE": "/shared"}, "/shared"),
        ("out/../runs", False, {}, "/home/ann/runs"),
        ("/data/runs/", True, {}, "/data/runs"),
        ("~/x", True, {}, f"{HOME}/x"),
        ("file:///a%20b/", False, {}, "/a b"),
        ("s3://bucket/runs?endpoint_override=localhost:9000", True, {}, None),
    ],
)
def test_storage_is_resolved_by_the_design(
    request_: str | None, in_job: bool, environ: dict[str, str], expected: str | None
) -> None:
    found = resolve_storage(request_, environ=environ, cwd=CWD, in_job=in_job)
    assert found == (request_ if expected is None else expected)


def test_a_relative_path_in_a_job_is_refused_because_it_would_be_thrown_away() -> None:
    with pytest.raises(ConfigError, match="throw-away copy"):
        resolve_storage("runs", environ={}, cwd=CWD, in_job=True)


@pytest.mark.parametrize("uri", ["foo://x/y", "s3://"])
def test_an_unknown_kind_of_uri_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/folder"):
        resolve_storage(uri, environ={}, cwd=CWD, in_job=False)


def test_the_query_of_a_uri_stays_behind_the_path() -> None:
    paths = RunPaths("s3://bucket/runs?region=x", "run")
    assert paths.location("plots/a.png") == "s3://bucket/runs/run/plots/a.png?region=x"


def test_what_is_written_is_read(paths: RunPaths) -> None:
    paths.write_text("weights/best.txt", "één")
    assert paths.read_text("weights/best.txt") == "één"
    assert paths.exists("weights/best.txt")
    assert paths.exists("weights")
    assert (paths.list_names(), paths.list_names("weights")) == (("weights",), ("best.txt",))


def test_what_is_not_there_is_neither_listed_nor_deleted_nor_read(paths: RunPaths) -> None:
    assert not paths.exists()
    assert paths.list_names() == ()
    paths.delete("x")
    with pytest.raises(StorageError, match="run/x cannot be read"):
        paths.read_bytes("x")


def test_a_deleted_file_is_gone(paths: RunPaths) -> None:
    paths.write_bytes("x", b"1")
    paths.delete("x")
    assert not paths.exists("x")


def test_a_deleted_folder_is_gone_with_all_that_is_in_it(paths: RunPaths) -> None:
    paths.delete_folder()  # it is not there
    paths.write_bytes("x", b"1")
    paths.write_bytes("deep/er/y", b"2")
    paths.delete_folder()
    assert not paths.exists() and not paths.exists("deep/er/y")


def test_a_copied_file_is_equal(paths: RunPaths, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(5000))
    paths.copy_from(source, "deep/er/copy")
    assert paths.read_bytes("deep/er/copy") == source.read_bytes()


def test_a_copy_of_a_missing_file_leaves_nothing(paths: RunPaths) -> None:
    with pytest.raises(StorageError, match="cannot be copied from /nowhere"):
        paths.copy_from("/nowhere", "x")
    assert not paths.exists("x")


def test_a_write_that_fails_midway_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = RunPaths(str(tmp_path), "run")
    paths.write_text("x", "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        paths.write_text("x", "new")
    assert paths.read_text("x") == "old"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["x"]


def test_only_a_local_run_has_local_files(tmp_path: Path) -> None:
    local = RunPaths(str(tmp_path), "run").local("logs/train.log")
    assert local == tmp_path / "run/logs/train.log"
    assert local.parent.is_dir()
    with pytest.raises(StorageError):
        RunPaths("mock://a/b", "run").local("train.log")


def test_run_paths_cross_processes(paths: RunPaths) -> None:
    assert pickle.loads(pickle.dumps(paths)) == paths


def test_a_good_storage_passes_the_check_and_is_left_clean(tmp_path: Path) -> None:
    storage = tmp_path / "new/runs"

    def run_everywhere(function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        return {"node-1": function(*args), "node-2": function(*args)}

    check_storage(str(storage), run_everywhere)
    assert list(storage.iterdir()) == []


def test_a_storage_that_a_node_does_not_share_is_named_with_the_host(tmp_path: Path) -> None:
    def run_everywhere(function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        elsewhere = (str(tmp_path / "another-disk"), *args[1:])
        return {"node-1": function(*args), "node-2": function(*elsewhere)}

    with pytest.raises(StorageError) as caught:
        check_storage(str(tmp_path), run_everywhere)
    assert "node-2: does not see what the driver wrote" in str(caught.value)
    assert "node-1:" not in str(caught.value)
    assert not (tmp_path / CHECK_FOLDER).exists()


def test_a_storage_that_the_driver_cannot_write_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        check_storage(str(tmp_path / "file"))
