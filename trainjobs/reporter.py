"""What one rank writes and sends while it trains. Only rank 0 writes; every rank makes every call."""

import logging
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.channel import Sender
from cluster.storage import RunPaths
from trainjobs.checkpoint import decode_weights
from trainjobs.distributed import broadcast_object
from trainjobs.epoch_writer import EpochWriter
from trainjobs.events import EpochDone, RunDone, StepProgress
from trainjobs.footprint import SteadyRate, peak_memory
from trainjobs.host_copy import HostCopy
from trainjobs.loop import LossSums, Outcome, Training
from trainjobs.run_folder import BEST, PLOTS
from trainjobs.step_plan import Step

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.5
"""How often rank 0 says how far an epoch is."""

SubmitCheckpoint = Callable[[dict[str, float], "PendingCheckpoint | None", str, bool], None]
"""Hands (metrics, checkpoint of rank 0, name, wait until stored) to the runtime, on every rank."""


@dataclass(frozen=True, slots=True)
class PendingCheckpoint:
    """A checkpoint that is being written."""

    folder: Path
    """Where, on this node."""
    written: "Future[None]"
    """Done when it is there; has the error that it failed with."""


def images_trained(training: Training) -> int:
    """Images of all epochs, the current one included as far as it is."""
    plan, state = training.plan, training.state
    following = next(plan.steps(state.epoch, state.step), None)
    of_epoch = following.first_position if following else plan.num_images
    return len(state.history) * plan.num_images + of_epoch


class RankReporter:
    """The loop's `Observer` on one rank."""

    def __init__(
        self,
        paths: RunPaths,
        sender: Sender,
        submit: SubmitCheckpoint,
        *,
        rank: int,
        attempt: str,
        checkpoint_every: int,
        tensorboard: bool,
    ) -> None:
        self.paths, self.sender, self.submit = paths, sender, submit
        self.is_writer = rank == 0
        self.writer = EpochWriter(paths, tensorboard=tensorboard)
        self.attempt, self.checkpoint_every = attempt, checkpoint_every
        self.unsaid: tuple[Callable[..., StepProgress], HostCopy] | None = None
        """Progress without its loss, and the losses, which may be on their way."""
        self.spoke_at, self.images_since = time.monotonic(), 0
        self.rate = SteadyRate()

    def stop_requested(self) -> bool:
        """Whether the driver asked for a stop."""
        return self.sender.stop_requested

    def step_done(self, training: Training, step: Step, losses: LossSums) -> None:
        """Say how far the epoch is, now and then."""
        self.images_since += step.num_images
        self.rate.step_done(step.num_images)
        if not self.is_writer:
            return
        elapsed = time.monotonic() - self.spoke_at
        if elapsed >= PROGRESS_INTERVAL_S:
            unsaid = partial(
                StepProgress,
                epoch=step.epoch + 1,
                epochs=training.epochs,
                fraction=(step.first_position + step.num_images) / training.plan.num_images,
                images_per_second=self.images_since / elapsed,
            )
            self.unsaid = unsaid, HostCopy(losses.means())
            self.spoke_at, self.images_since = time.monotonic(), 0
        # The loss may be there some steps later: asked for at once, it would keep the device waiting.
        if self.unsaid is not None and self.unsaid[1].is_there():
            say, means = self.unsaid
            parts = means.read()[: len(training.task.loss_names)]
            self.sender.send(say(loss=float(parts.sum())))
            self.unsaid = None

    def epoch_done(self, training: Training, row: dict[str, float], *, is_best: bool) -> None:
        """Tell the driver, and leave weights, metrics.csv, event files and, where due, a checkpoint."""
        epoch = training.state.epoch
        if self.is_writer:
            self.sender.send(EpochDone(row))
        is_last = epoch == training.epochs
        due = is_last or epoch % self.checkpoint_every == 0
        name = f"epoch-{epoch:04d}"
        self._leave(training, row, name, is_best=is_best, has_checkpoint=due, wait=is_last)
        self.spoke_at, self.images_since, self.unsaid = time.monotonic(), 0, None
        self.rate.resume()

    def interrupted(self, training: Training) -> None:
        """Store weights and a checkpoint within the epoch, and wait until they are safe."""
        state = training.state
        name = f"epoch-{state.epoch:04d}-step-{state.step:06d}"
        row = state.history[-1] if state.history else {}
        self._leave(training, dict(row), name, is_best=False, has_checkpoint=True, wait=True)

    def finish(self, training: Training, outcome: Outcome) -> None:
        """Measure the best weights once more, draw the plots and tell the driver the result."""
        self.writer.wait()
        broadcast_object(None)  # from here on, all ranks may read what rank 0 has written
        metrics: dict[str, dict[str, float]] = {}
        if outcome != "interrupted" and training.state.best_epoch is not None:
            training.ema.model.load_state_dict(
                decode_weights(self.paths.read_bytes(BEST), self.paths.location(BEST))
            )
            training.task.evaluate(training.ema.model)
            metrics = training.task.summary()
            if self.is_writer:
                self._draw(training)
        state = training.state
        trained_s = sum(row["epoch_s"] for row in state.history) + state.epoch_s
        memory = peak_memory(next(training.model.parameters()).device)
        done = RunDone(
            outcome=outcome,
            epochs=state.epoch,
            best_epoch=state.best_epoch,
            optimizer_steps=state.updates,
            images_per_second=images_trained(training) / max(trained_s, 1e-9),
            metrics=metrics.get("metrics", {}),
            metrics_yolov5=metrics.get("metrics_yolov5", {}),
            steady_images_per_second=self.rate.images_per_second,
            training_images=training.plan.num_images,
            peak_memory_bytes=memory.host,
            peak_gpu_memory_bytes=memory.gpu,
        )
        if self.is_writer:
            self.sender.send(done)

    def _leave(
        self,
        training: Training,
        row: dict[str, float],
        name: str,
        *,
        is_best: bool,
        has_checkpoint: bool,
        wait: bool,
    ) -> None:
        checkpoint = None
        if self.is_writer:
            folder = None
            if has_checkpoint:
                folder = Path(tempfile.mkdtemp(prefix="trainjobs-checkpoint-"))
            written = self.writer.start(training, is_best=is_best, checkpoint=folder)
            checkpoint = PendingCheckpoint(folder, written) if folder else None
        # A rank that was fenced off may still write: its names must not be this attempt's.
        self.submit(row, checkpoint, f"{name}-{self.attempt}", wait)

    def _draw(self, training: Training) -> None:
        from trainjobs.evaluation.plots import plot_history  # noqa: PLC0415  2 s, rank 0 at the end

        with tempfile.TemporaryDirectory(prefix="trainjobs-plots-") as scratch:
            plot_history(training.state.history, Path(scratch) / "history.png")
            training.task.draw_plots(Path(scratch))
            for file in sorted(Path(scratch).iterdir()):
                self.paths.copy_from(file, f"{PLOTS}/{file.name}")
