"""What the driver keeps of a run while its ranks train: record, tracker, display, and the result."""

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ray.train import ControllerError, WorkerGroupError

from cluster.errors import ServiceError, StorageError
from cluster.redact import redact
from cluster.storage import RunPaths
from trainjobs.config import TrainConfig
from trainjobs.console import Display
from trainjobs.events import EpochDone, Event, GroupStarted, RunDone, StepProgress
from trainjobs.interrupt import StopRequest
from trainjobs.run_folder import (
    ARTIFACTS,
    BEST,
    LAST,
    PLOTS,
    RunRecord,
    RunResult,
    save_record,
    save_result,
)
from trainjobs.tracking.tracker import Status, Tracker

logger = logging.getLogger(__name__)

Callback = Callable[[Event], None]
"""Is told each event of rank 0, in the process that launched the run."""


class Driver:
    """Receives the ranks' events; at the end says how the run ended."""

    def __init__(
        self,
        config: TrainConfig,
        paths: RunPaths,
        record: RunRecord,
        tracker: Tracker,
        *,
        started: float,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config, self.paths, self.record, self.tracker = config, paths, record, tracker
        self.started, self.wall_before_s = started, record.wall_s
        self.callbacks = callbacks
        self.display = Display(config.epochs)
        self.world_size = 0
        self.last_row: dict[str, float] = {}
        self.done: RunDone | None = None
        self.has_trained = False

    def on_event(self, event: Event) -> None:
        """Take in one event of rank 0."""
        match event:
            case StepProgress():
                self.display.step(event)
                if self.record.mlflow_run_id is None and not self.has_trained:
                    self._note_run_id()  # so that a launch after a crash goes on in the same run
                    self._save_record()
                self.has_trained = True
            case EpochDone(row):
                self.last_row = row
                self.display.epoch(row)
                self._track(row)
                self._save_record()
            case GroupStarted(world_size):
                if self.world_size:
                    logger.warning("lost a worker; %d are up again and go on", world_size)
                self.world_size = world_size
                self.record.attempts += 1
                self._save_record()
            case RunDone():
                self.done = event
        for callback in self.callbacks:
            callback(event)

    def finish(self, error: str | None, stop: StopRequest) -> RunResult:
        """Write result.json, hand everything to the tracker and close it."""
        self.display.close()
        self._note_run_id()
        self._save_record()
        status = _status(self.done, error, stop)
        result = self._result(status, error, stop.signum)
        save_result(self.paths, result)
        with tempfile.TemporaryDirectory(prefix="trainjobs-artifacts-") as scratch:
            self._send_artifacts(Path(scratch))
            self.tracker.close(status)
        return result

    def announce_stop(self, stop: StopRequest) -> None:
        """Leave a result already: whoever sent the signal may not wait until the ranks have stopped."""
        if stop.signum is not None:
            with contextlib.suppress(StorageError):  # the last result is still to come
                save_result(self.paths, self._result("interrupted", None, stop.signum))

    def abandon(self, stop: StopRequest) -> None:
        """Leave at once, but not a result or a tracker that says the run goes on."""
        self.display.close()
        self._save_record()
        save_result(self.paths, self._result("interrupted", None, stop.signum))
        self.tracker.close("interrupted")

    def _result(self, status: Status, error: str | None, signum: int | None) -> RunResult:
        done, row = self.done, self.last_row
        return RunResult(
            status=status,
            run_name=self.paths.run_name,
            mlflow_run_id=self.record.mlflow_run_id,
            seed=self.config.seed,
            world_size=self.world_size,
            images_per_step=self.config.optim.images_per_step or 0,
            epochs=done.epochs if done else int(row.get("epoch", 0)),
            best_epoch=done.best_epoch if done else None,
            optimizer_steps=done.optimizer_steps if done else int(row.get("optimizer_steps", 0)),
            attempts=self.record.attempts,
            images_per_second=done.images_per_second if done else row.get("images_per_second", 0.0),
            wall_s=self.record.wall_s,
            metrics=done.metrics if done else {},
            metrics_yolov5=done.metrics_yolov5 if done else {},
            weights={
                name: self.paths.location(file)
                for name, file in (("best", BEST), ("last", LAST))
                if self.paths.exists(file)
            },
            folder=self.paths.location(),
            signal=signum,
            error=error,
            steady_images_per_second=done.steady_images_per_second if done else 0.0,
            training_images=done.training_images if done else 0,
            peak_memory_bytes=done.peak_memory_bytes if done else 0,
            peak_gpu_memory_bytes=done.peak_gpu_memory_bytes if done else 0,
        )

    def _track(self, row: dict[str, float]) -> None:
        epoch = int(row["epoch"])
        if epoch > self.record.tracked_epochs:  # a restart repeats epochs, with equal numbers
            self.tracker.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=epoch)
            self.record.tracked_epochs = epoch

    def _save_record(self) -> None:
        # The tracker opens in the background: by the first epoch it is there, or has given up.
        if self.last_row or self.done:
            self._note_run_id()
        self.record.wall_s = self.wall_before_s + time.monotonic() - self.started
        save_record(self.paths, self.record)

    def _note_run_id(self) -> None:
        self.record.mlflow_run_id = self.tracker.run_id or self.record.mlflow_run_id

    def _send_artifacts(self, scratch: Path) -> None:
        """Copies, since the tracker takes its time and the run's own files may be remote."""
        files = [(name, "") for name in ARTIFACTS]
        files += [(f"{PLOTS}/{name}", PLOTS) for name in self.paths.list_names(PLOTS)]
        for relative, folder in files:
            with contextlib.suppress(StorageError):  # a run that failed early lacks some
                copy = scratch / relative
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(self.paths.read_bytes(relative))
                self.tracker.log_artifact(copy, folder or str(Path(relative).parent).strip("."))


def failure_cause(error: BaseException) -> str:
    """One line for what ended a run: our own error as it is, any other with its type."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = error.worker_failures[min(error.worker_failures)]
    elif isinstance(error, ControllerError):
        cause = error.controller_failure
    while (inner := getattr(cause, "_base_exc", None) or getattr(cause, "cause", None)) is not None:
        cause = inner
    text = redact(str(cause).strip())
    return text if isinstance(cause, ServiceError) else f"{type(cause).__name__}: {text}"


def _status(done: RunDone | None, error: str | None, stop: StopRequest) -> Status:
    if error is not None:
        return "failed"
    outcome = done.outcome if done else "interrupted"
    return "stopped" if outcome == "interrupted" and stop.outcome == "stopped" else outcome
