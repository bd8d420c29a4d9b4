"""A tracker whose work is done by a thread, from the opening of the run to its end.

What cannot be delivered while the sink is away is kept, in order, and sent when it answers.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from cluster.redact import redact
from trainjobs.tracking.records import Artifact, End, Facts, Metric, Metrics, Record, merged
from trainjobs.tracking.tracker import Status

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # for a record that fails while the sink answers
MAX_PAUSE_S = 30.0
MAX_ERROR_CHARS = 160  # of a reason in a log line
CLOSE_TIMEOUT_S = 30.0
CLOSE_IN_OUTAGE_TIMEOUT_S = 5.0


class Sink(Protocol):
    """One open run in a tracking service."""

    @property
    def run_id(self) -> str:
        """The service's id of the run."""

    def send(self, record: Record) -> None:
        """Deliver a record, or raise whatever the service raises."""

    def answers(self) -> bool:
        """Whether the service is there."""

    def is_refusal(self, error: Exception) -> bool:
        """Whether to send the same again would fail the same way."""


class BackgroundTracker:
    """A `Tracker` that never makes its caller wait.

    Args:
        open_sink: opens the run; called in the thread, may take its time or raise.
        place: what the service is called in messages.
        open_timeout_s: how long `run_id` and `close` wait for the opening, from now.
    """

    def __init__(self, open_sink: Callable[[], Sink], *, place: str, open_timeout_s: float) -> None:
        self._open_sink, self._place = open_sink, place
        self._open_deadline = time.monotonic() + open_timeout_s
        self._opened = threading.Event()
        self._sink: Sink | None = None
        self._records: SimpleQueue[Record] = SimpleQueue()
        self._closing = threading.Event()
        self._in_outage = False
        self._abandoned = False
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """The service's id of the run, waited for while it opens; None if it could not."""
        self._opened.wait(max(0.0, self._open_deadline - time.monotonic()))
        return self._sink.run_id if self._sink else None

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings, by dotted path."""
        self._put(Facts({key: redact(str(value)) for key, value in params.items()}, {}))

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Record facts about the run; a later value replaces an earlier one."""
        self._put(Facts({}, {key: redact(str(value)) for key, value in tags.items()}))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers as of `step`, at the present time."""
        now_ms = time.time_ns() // 1_000_000
        values = (Metric(name, float(value), step, now_ms) for name, value in metrics.items())
        self._put(Metrics(tuple(values)))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file or folder, which must stay as it is until `close`, into `folder`."""
        self._put(Artifact(path, folder or None))

    def close(self, status: Status) -> None:
        """Deliver what waits, for 30 s at most; in an outage try once more, for 5 s."""
        if self._closing.is_set():
            return
        self._records.put(End(status))
        self._closing.set()
        self._opened.wait(max(0.0, self._open_deadline - time.monotonic()))
        self._thread.join(CLOSE_IN_OUTAGE_TIMEOUT_S if self._in_outage else CLOSE_TIMEOUT_S)
        if self._thread.is_alive() or self._abandoned:
            level = logging.INFO if "outage" in self._warned else logging.WARNING
            logger.log(level, "%s lacks the last records of this run", self._place)

    def _put(self, record: Record) -> None:
        if not self._closing.is_set():
            self._records.put(record)

    def _work(self) -> None:
        try:
            self._sink = self._open_sink()
        except Exception as error:  # noqa: BLE001  # a service raises its own types; a run needs none
            self._warn(
                "outage",
                "%s cannot be used (%s): the run goes on without it, its metrics are in "
                "metrics.csv",
                self._place,
                one_line(error),
            )
            return
        finally:
            self._opened.set()
        while True:
            for record in merged(self._waiting()):
                self._deliver(self._sink, record)
                if isinstance(record, End):
                    return

    def _waiting(self) -> Iterator[Record]:
        yield self._records.get()
        try:
            while True:
                yield self._records.get_nowait()
        except Empty:
            return

    def _deliver(self, sink: Sink, record: Record) -> None:
        pause_s, faults = 1.0, 0
        while not self._abandoned:
            is_last = self._closing.is_set()  # one attempt is still begun after close
            try:
                sink.send(record)
            except Exception as error:  # noqa: BLE001  # as above
                is_refused = sink.is_refusal(error)
                self._in_outage = not is_refused and not sink.answers()
                if self._in_outage:
                    self._warn_of_outage(error)
                    self._abandoned = is_last
                else:
                    faults += 1
                    if is_refused or faults >= MAX_ATTEMPTS:
                        self._warn_of_loss(record, error)
                        return
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            else:
                if self._in_outage:
                    self._in_outage = False
                    logger.info("%s answers again", self._place)
                return

    def _warn_of_outage(self, error: Exception) -> None:
        text = (
            "%s does not answer (%s): the run goes on, its metrics are in metrics.csv, and what "
            "is missing is sent when it answers again"
        )
        self._warn("outage", text, self._place, one_line(error))

    def _warn_of_loss(self, record: Record, error: Exception) -> None:
        kind = type(record).__name__.lower()
        self._warn(kind, "%s did not take %s: %s", self._place, kind, one_line(error))

    def _warn(self, kind: str, text: str, *values: object) -> None:
        if kind not in self._warned:  # once: an outage of an hour is one fact
            self._warned.add(kind)
            logger.warning(text, *values)


def one_line(error: BaseException) -> str:
    """The first line of an error's text, for a log."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:MAX_ERROR_CHARS]
