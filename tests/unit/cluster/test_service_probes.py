"""Probes of storage, data and the tracking server."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.errors import StorageError
from cluster.service_probes import (
    open_without_token,
    read_data,
    tracking_problem,
    unseen,
    use_storage,
)
from cluster.storage import RunPaths
from cluster.storage_check import CHECK_FOLDER, clear_check

USER, PASSWORD = "someone", "of p@ss"
AUTHORIZED = "Basic c29tZW9uZTpvZiBwQHNz"


@contextmanager
def serving(status: int = 200, wanted: str | None = None) -> Iterator[str]:
    """A server on this machine that answers every GET alike; 401 without what is wanted."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refused = wanted is not None and self.headers["Authorization"] != wanted
            self.send_response(401 if refused else status)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_node_reads_what_the_driver_wrote_and_others_see_what_it_writes(tmp_path: Path) -> None:
    storage = str(tmp_path)
    RunPaths(storage, CHECK_FOLDER).write_bytes("token", b"content")
    used = use_storage(storage, "token")
    assert used.file.startswith("token.")
    assert unseen(storage, ("token", used.file, "token.b.1")) == ("token.b.1",)
    clear_check(storage, ("token", used.file))
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_is_another_one_here_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not show"):
        use_storage(str(tmp_path), "token")


def test_some_of_a_dataset_is_read(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "images" / str(number)).mkdir(parents=True)
        (tmp_path / "images" / str(number) / "a.jpg").write_bytes(bytes(1000))
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: images")
    for source in (str(yaml), str(tmp_path), tmp_path.as_uri()):
        assert read_data(source).num_bytes == 3000 + len("train: images")


def test_a_dataset_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="empty holds no files"):
        read_data(str(tmp_path / "empty"))
    with pytest.raises(StorageError, match="nothing is not there"):
        read_data(str(tmp_path / "nothing"))


def test_a_tracking_server_answers_refuses_or_is_down() -> None:
    with serving() as place:
        assert tracking_problem(f"http://{place}") == ""
    assert "does not answer" in tracking_problem(f"http://{place}")
    with serving(wanted=AUTHORIZED) as place:
        assert tracking_problem(f"http://{place}") == "answers 401 Unauthorized"
        assert tracking_problem(f"http://{USER}:of%20p%40ss@{place}/") == ""


def test_credentials_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with serving(wanted=AUTHORIZED) as place:
        assert tracking_problem(f"http://{place}") == ""


@pytest.mark.parametrize(("status", "is_open"), [(200, True), (401, False), (403, False)])
def test_a_dashboard_that_lists_jobs_to_anybody_is_open(status: int, is_open: bool) -> None:
    with serving(status) as place:
        assert open_without_token(f"http://{place}") is is_open
    assert open_without_token(f"http://{place}") is None
