"""The files that an epoch leaves, written while the next one is trained."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from cluster.errors import StorageError
from cluster.storage import RunPaths
from trainjobs.checkpoint import TrainState, save_checkpoint, save_weights
from trainjobs.host_copy import HostCopy
from trainjobs.loop import Training
from trainjobs.run_folder import BEST, LAST, save_event_files, save_metrics


class EpochWriter:
    """Writes one epoch at a time; a copy of what it writes is all that training waits for."""

    def __init__(self, paths: RunPaths, *, tensorboard: bool) -> None:
        self._paths, self._tensorboard = paths, tensorboard
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="epoch-writer")
        self._last: Future[None] | None = None

    def start(
        self, training: Training, *, is_best: bool, checkpoint: Path | None
    ) -> "Future[None]":
        """Write weights and the figures so far and, into the empty folder `checkpoint`, the whole state.

        Returns:
            What is done when all of it is there.

        Raises:
            StorageError: What was started before could not be written.
        """
        self.wait()  # two copies at a time would take twice the memory
        tensors = training.tensors() if checkpoint else {"ema": training.ema.model.state_dict()}
        self._last = self._pool.submit(
            self._write,
            HostCopy(tensors),
            replace(training.state, history=list(training.state.history)),
            training.task.weights_header(),
            is_best,
            checkpoint,
        )
        return self._last

    def wait(self) -> None:
        """Return when all is written.

        Raises:
            StorageError: What was started last could not be written.
        """
        if self._last is not None:
            self._last.result()

    def _write(
        self,
        copied: HostCopy,
        state: TrainState,
        header: dict[str, str],
        is_best: bool,
        checkpoint: Path | None,
    ) -> None:
        tensors = copied.read()
        with tempfile.TemporaryDirectory(prefix="trainjobs-weights-") as scratch:
            weights = Path(scratch, "weights")
            with _errors_of(weights):
                save_weights(weights, tensors["ema"], header)
            for file in (LAST, BEST) if is_best else (LAST,):
                self._paths.copy_from(weights, file)
        if state.history:
            save_metrics(self._paths, state.history)
            if self._tensorboard:
                save_event_files(self._paths, state.history)
        if checkpoint:
            with _errors_of(checkpoint):
                save_checkpoint(checkpoint, state, tensors)


@contextmanager
def _errors_of(local: Path) -> Iterator[None]:
    """What torch and safetensors raise where a disk is full -> StorageError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise StorageError(f"{local} cannot be written: {error}") from error
