"""A run as Prometheus sees it while it trains (docs/operations.md)."""

import time
from collections.abc import Sequence

from cluster.gauges import Reading
from trainjobs.events import EpochDone, Event, GroupStarted, StepProgress
from trainjobs.run_folder import RunRecord

RUN_GAUGES = {
    "trainjobs_epoch": "Epochs trained, with the part of the current one",
    "trainjobs_epochs_planned": "Epochs that the run is to have",
    "trainjobs_workers": "Ranks that train",
    "trainjobs_restarts": "Times that the ranks have started, but for the first",
    "trainjobs_images_per_second": "Training images per second of all ranks",
    "trainjobs_train_loss": "Mean loss over the images of the epoch so far, of rank 0",
    "trainjobs_lr": "Learning rate of the last epoch",
    "trainjobs_map50_95": "COCO's mAP of the averaged weights on the validation split",
    "trainjobs_map50": "mAP at IoU 0.5",
    "trainjobs_top1": "Share of validation images whose class was found",
    "trainjobs_steps_fraction": "Share of the last epoch's time that went into optimizer steps",
    "trainjobs_silent_seconds": "Time since a step or an epoch was heard of",
}
FROM_ROW = ("train_loss", "lr", "map50_95", "map50", "top1", "images_per_second")
"""Columns of metrics.csv that are gauges."""


class RunGauges:
    """The newest figures of one run."""

    def __init__(self, record: RunRecord, epochs: int) -> None:
        self.record, self.epochs = record, epochs
        self.values: dict[str, float] = {}
        self.heard_at = self.epoch_began = time.monotonic()

    def on_event(self, event: Event) -> None:
        """Take in one event of rank 0."""
        now = self.heard_at = time.monotonic()
        match event:
            case StepProgress():
                self.values["epoch"] = event.epoch - 1 + event.fraction
                self.values["train_loss"] = event.loss
                self.values["images_per_second"] = event.images_per_second
            case EpochDone(row):
                self.values |= {name: row[name] for name in ("epoch", *FROM_ROW) if name in row}
                # What an epoch had before a restart may be in its time of steps.
                share = row["epoch_s"] / max(now - self.epoch_began, 1e-9)
                self.values["steps_fraction"] = min(share, 1.0)
                self.epoch_began = now
            case GroupStarted(world_size):
                self.values["workers"] = world_size
                self.epoch_began = now

    def read(self) -> Sequence[Reading]:
        """All that is known; before the first step, little."""
        values = {
            **self.values,
            "epochs_planned": self.epochs,
            "restarts": max(self.record.attempts - 1, 0),
            "silent_seconds": time.monotonic() - self.heard_at,
        }
        return [Reading(f"trainjobs_{name}", value) for name, value in values.items()]
