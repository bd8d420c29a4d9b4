"""What one rank writes and sends while it trains. Only rank 0 writes; every rank makes every call."""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cluster.channel import Sender
from cluster.storage import RunPaths
from trainjobs.checkpoint import decode_weights, encode_weights, save_checkpoint
from trainjobs.events import EpochDone, RunDone, StepProgress
from trainjobs.footprint import SteadyRate, peak_memory
from trainjobs.loop import LossSums, Outcome, Training
from trainjobs.run_folder import BEST, LAST, PLOTS, save_event_files, save_metrics
from trainjobs.step_plan import Step

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.5
"""How often rank 0 says how far an epoch is."""

SubmitCheckpoint = Callable[[dict[str, float], Path | None, str, bool], None]
"""Hands (metrics, folder on rank 0, name, wait until stored) to the runtime, on every rank."""


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
        self.writes_event_files = self.is_writer and tensorboard
        self.attempt, self.checkpoint_every = attempt, checkpoint_every
        self.epochs = 0
        self.spoke_at, self.images_since = time.monotonic(), 0
        self.rate = SteadyRate()

    def stop_requested(self) -> bool:
        """Whether the driver asked for a stop."""
        return self.sender.stop_requested

    def step_done(self, training: Training, step: Step, losses: LossSums) -> None:
        """Say how far the epoch is, now and then."""
        self.images_since += step.num_images
        self.rate.step_done(step.num_images)
        elapsed = time.monotonic() - self.spoke_at
        if not self.is_writer or elapsed < PROGRESS_INTERVAL_S:
            return
        done = step.first_position + step.num_images
        progress = StepProgress(
            epoch=step.epoch + 1,
            epochs=training.epochs,
            fraction=done / training.plan.num_images,
            loss=sum(losses.means()[: len(training.task.loss_names)]),
            images_per_second=self.images_since / elapsed,
        )
        self.sender.send(progress)
        self.spoke_at, self.images_since = time.monotonic(), 0

    def epoch_done(self, training: Training, row: dict[str, float], *, is_best: bool) -> None:
        """Write weights, metrics.csv and event files, log a line, hand a checkpoint over."""
        state = training.state
        if self.is_writer:
            self._write_weights(training, LAST, *([BEST] if is_best else []))
            save_metrics(self.paths, state.history)
            if self.writes_event_files:
                save_event_files(self.paths, state.history)
            self.sender.send(EpochDone(row))
        is_last = state.epoch == training.epochs
        due = is_last or state.epoch % self.checkpoint_every == 0
        self._submit(training, row, f"epoch-{state.epoch:04d}", due=due, wait=is_last)
        self.spoke_at, self.images_since = time.monotonic(), 0
        self.rate.resume()

    def interrupted(self, training: Training) -> None:
        """Store weights and a checkpoint within the epoch, and wait until they are safe."""
        state = training.state
        if self.is_writer:
            self._write_weights(training, LAST)
        name = f"epoch-{state.epoch:04d}-step-{state.step:06d}"
        row = state.history[-1] if state.history else {}
        self._submit(training, dict(row), name, due=True, wait=True)

    def finish(self, training: Training, outcome: Outcome) -> None:
        """Measure the best weights once more, draw the plots and tell the driver the result."""
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

    def _submit(
        self, training: Training, row: dict[str, float], name: str, *, due: bool, wait: bool
    ) -> None:
        folder = None
        if due and self.is_writer:
            folder = Path(tempfile.mkdtemp(prefix="trainjobs-checkpoint-"))
            save_checkpoint(folder, training.state, training.tensors())
        # A rank that was fenced off may still write: its names must not be this attempt's.
        self.submit(row, folder, f"{name}-{self.attempt}", wait)

    def _write_weights(self, training: Training, *files: str) -> None:
        weights = encode_weights(training.ema.model, training.task.weights_header())
        for file in files:
            self.paths.write_bytes(file, weights)

    def _draw(self, training: Training) -> None:
        from trainjobs.evaluation.plots import plot_history  # noqa: PLC0415  2 s, rank 0 at the end

        with tempfile.TemporaryDirectory(prefix="trainjobs-plots-") as scratch:
            plot_history(training.state.history, Path(scratch) / "history.png")
            training.task.draw_plots(Path(scratch))
            for file in sorted(Path(scratch).iterdir()):
                self.paths.copy_from(file, f"{PLOTS}/{file.name}")
