import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from trainjobs.tracking import background
from trainjobs.tracking.background import BackgroundTracker
from trainjobs.tracking.mlflow_tracker import choose_store
from trainjobs.tracking.records import (
    MAX_METRICS,
    Artifact,
    End,
    Facts,
    Metric,
    Metrics,
    Record,
    merged,
)
from trainjobs.tracking.tracker import NullTracker


class RefusalError(Exception):
    """The service said no."""


class ListSink:
    """Keeps records in a list; `is_up` and `refused` make it fail as a service would."""

    def __init__(self, refused: type[Record] | None = None) -> None:
        self.run_id = "run-1"
        self.records: list[Record] = []
        self.is_up = threading.Event()
        self.is_up.set()
        self.refused = refused

    def send(self, record: Record) -> None:
        if not self.is_up.is_set():
            raise ConnectionError("no route to host\nand a long story")
        if self.refused is not None and isinstance(record, self.refused):
            raise RefusalError("that is not a metric")
        self.records.append(record)

    def answers(self) -> bool:
        return self.is_up.is_set()

    def is_refusal(self, error: Exception) -> bool:
        return isinstance(error, RefusalError)

    def metrics(self) -> dict[str, list[int]]:
        steps: dict[str, list[int]] = {}
        for record in self.records:
            for one in record.values if isinstance(record, Metrics) else ():
                steps.setdefault(one.name, []).append(one.step)
        return steps


def make_tracker(open_sink: Callable[[], ListSink], open_timeout_s: float = 5) -> BackgroundTracker:
    return BackgroundTracker(open_sink, place="the service", open_timeout_s=open_timeout_s)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_everything_is_delivered_in_order_before_the_end() -> None:
    sink = ListSink()
    tracker = make_tracker(lambda: sink)

    tracker.log_params({"epochs": 3})
    for step in range(5):
        tracker.log_metrics({"map50": 0.5}, step=step)
    tracker.close("finished")

    assert sink.records[0] == Facts({"epochs": "3"}, {})
    assert sink.records[-1] == End("finished")
    assert sink.metrics() == {"map50": [0, 1, 2, 3, 4]}


def test_calls_do_not_wait_for_a_slow_opening_and_lose_nothing() -> None:
    sink, may_open = ListSink(), threading.Event()

    def open_slowly() -> ListSink:
        may_open.wait()
        return sink

    tracker = make_tracker(open_slowly)
    tracker.log_metrics({"map50": 0.5}, step=7)
    assert sink.records == []
    may_open.set()
    tracker.close("finished")

    assert sink.metrics() == {"map50": [7]}


def test_run_id_is_waited_for() -> None:
    def open_slowly() -> ListSink:
        time.sleep(0.05)
        return ListSink()

    tracker = make_tracker(open_slowly)

    assert tracker.run_id == "run-1"
    tracker.close("finished")


def test_a_service_that_cannot_be_opened_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> ListSink:
        raise ConnectionError("nobody there")

    tracker = make_tracker(fail)
    tracker.log_metrics({"map50": 0.5}, step=1)
    run_id = tracker.run_id
    tracker.close("finished")

    assert run_id is None
    (warning,) = warnings_of(caplog)
    assert "the service cannot be used (nobody there)" in warning


def test_an_opening_that_hangs_holds_nobody_beyond_its_timeout() -> None:
    never = threading.Event()

    def hang() -> ListSink:
        never.wait(10)
        raise ConnectionError("gave up")

    tracker = make_tracker(hang, open_timeout_s=0.05)
    begin = time.monotonic()

    assert tracker.run_id is None
    assert time.monotonic() - begin < 2
    never.set()
    tracker.close("failed")  # the thread ends here, not in the next test


def test_an_outage_is_one_warning_and_what_it_held_up_arrives_afterwards(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "MAX_PAUSE_S", 0.01)
    sink = ListSink()
    tracker = make_tracker(lambda: sink)
    sink.is_up.clear()
    for step in range(3):
        tracker.log_metrics({"map50": 0.5}, step=step)
    wait_until(lambda: bool(caplog.records))
    tracker.log_metrics({"map50": 0.5}, step=3)
    sink.is_up.set()
    tracker.close("finished")

    assert sink.metrics() == {"map50": [0, 1, 2, 3]}
    (warning,) = warnings_of(caplog)
    assert "the service does not answer (no route to host):" in warning


def test_a_record_that_fails_while_the_service_answers_is_tried_three_times(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "MAX_PAUSE_S", 0.01)
    attempts = []

    class FullDiskSink(ListSink):
        def send(self, record: Record) -> None:
            if isinstance(record, Artifact):
                attempts.append(record)
                raise OSError("no space left")
            super().send(record)

    sink = FullDiskSink()
    tracker = make_tracker(lambda: sink)
    tracker.log_artifact(Path("plot.png"))
    tracker.log_metrics({"map50": 0.5}, step=1)
    tracker.close("finished")

    assert len(attempts) == background.MAX_ATTEMPTS
    assert sink.metrics() == {"map50": [1]}
    assert warnings_of(caplog) == ["the service did not take artifact: no space left"]


def test_a_service_that_is_back_when_the_run_closes_gets_everything() -> None:
    in_attempt, may_fail = threading.Event(), threading.Event()

    class SlowToFailSink(ListSink):
        is_first = True

        def send(self, record: Record) -> None:
            if self.is_first:
                self.is_first = False
                in_attempt.set()
                may_fail.wait()
                raise ConnectionError("it was down when this attempt began")
            super().send(record)

        def answers(self) -> bool:
            return False

    slow = SlowToFailSink()
    tracker = make_tracker(lambda: slow)
    tracker.log_metrics({"map50": 0.5}, step=1)
    in_attempt.wait()
    threading.Timer(0.05, may_fail.set).start()
    tracker.close("finished")

    assert slow.records[-1] == End("finished")


def test_closing_in_an_outage_ends_soon_with_the_same_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = ListSink()
    tracker = make_tracker(lambda: sink)
    assert tracker.run_id
    sink.is_up.clear()
    tracker.log_metrics({"map50": 0.5}, step=1)
    wait_until(lambda: bool(caplog.records))
    begin = time.monotonic()

    tracker.close("failed")

    assert time.monotonic() - begin < 2
    assert len(warnings_of(caplog)) == 1


def test_a_refused_record_is_warned_of_once_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = ListSink(refused=Facts)
    tracker = make_tracker(lambda: sink)
    tracker.set_tags({"host": "a"})
    tracker.set_tags({"host": "b"})
    tracker.log_metrics({"map50": 0.5}, step=1)
    tracker.close("finished")

    assert sink.metrics() == {"map50": [1]}
    assert warnings_of(caplog) == ["the service did not take facts: that is not a metric"]


def test_closing_twice_ends_the_run_once() -> None:
    sink = ListSink()
    tracker = make_tracker(lambda: sink)
    tracker.close("stopped")
    tracker.close("failed")

    assert sink.records == [End("stopped")]


def test_neighboring_metrics_are_merged_without_passing_other_records() -> None:
    def metric(step: int) -> Metrics:
        return Metrics((Metric("loss", 0.0, step, 0),))

    records: list[Record] = [metric(0), metric(1), Facts({}, {}), metric(2), End("finished")]

    first, facts, second, end = merged(records)

    assert isinstance(first, Metrics)
    assert [one.step for one in first.values] == [0, 1]
    assert (facts, second, end) == (Facts({}, {}), metric(2), End("finished"))


def test_a_batch_of_metrics_has_at_most_what_mlflow_takes() -> None:
    records = [Metrics((Metric("loss", 0.0, step, 0),)) for step in range(2 * MAX_METRICS + 1)]

    batches = [one.values for one in merged(records) if isinstance(one, Metrics)]

    assert [len(batch) for batch in batches] == [MAX_METRICS, MAX_METRICS, 1]
    assert [one.step for batch in batches for one in batch] == list(range(2 * MAX_METRICS + 1))


def test_the_default_store_is_sqlite_in_the_storage_folder() -> None:
    store = choose_store(None, "/data/runs", {})

    assert store.uri == "sqlite:////data/runs/mlflow.db"
    assert store.artifacts == "/data/runs/mlartifacts"
    assert store.warning is None


def test_the_setting_comes_before_the_environment() -> None:
    environ = {"MLFLOW_TRACKING_URI": "http://environment:5000"}

    assert choose_store("http://setting:5000", "/runs", environ).uri == "http://setting:5000"
    assert choose_store(None, "/runs", environ).uri == "http://environment:5000"


def test_a_server_decides_itself_where_artifacts_go() -> None:
    assert choose_store("http://server:5000", "/runs", {}).artifacts is None


def test_remote_storage_without_a_server_records_locally_and_says_so() -> None:
    store = choose_store(None, "s3://bucket/runs", {})

    assert store.uri == f"sqlite:///{Path.home()}/.trainjobs/mlflow.db"
    assert store.warning is not None
    assert "s3://bucket/runs" in store.warning


@pytest.mark.parametrize("uri", ["./mlruns", "/tmp/mlruns", "file:///tmp/mlruns"])
def test_a_folder_is_no_tracking_store(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri must be a server .* got the folder"):
        choose_store(uri, "/runs", {})


def test_messages_show_no_credentials() -> None:
    store = choose_store("https://user:secret@server:5000/mlflow", "/runs", {})

    assert store.public_uri == "https://server:5000/mlflow"


def test_the_null_tracker_takes_everything() -> None:
    tracker = NullTracker()
    tracker.log_metrics({"map50": 0.5}, step=1)
    tracker.close("finished")

    assert tracker.run_id is None
