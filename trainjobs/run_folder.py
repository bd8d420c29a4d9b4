"""The folder of a run: names of its files, what earlier launches left there, and its result."""

import csv
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from cluster.config_io import dump_yaml, from_dict, parse_yaml
from cluster.errors import RunError
from cluster.storage import RunPaths
from trainjobs.checkpoint import MANIFEST, STATE
from trainjobs.config import TrainConfig
from trainjobs.tracking.event_files import event_file, event_file_name

Content = TypeVar("Content")

CONFIG, RESULT, METRICS, LOG = "config.yaml", "result.json", "metrics.csv", "train.log"
QUARANTINE, RECORD, CHECKPOINTS, PLOTS = "quarantine.csv", "record.json", "checkpoints", "plots"
TENSORBOARD = "tensorboard"
BEST, LAST = "weights/best.safetensors", "weights/last.safetensors"
ARTIFACTS = (CONFIG, RESULT, METRICS, LOG, QUARANTINE, BEST)
"""Files that the tracker gets as well, besides the plots."""


@dataclass(kw_only=True, slots=True)
class RunRecord:
    """What the driver remembers of a run from one launch to the next."""

    launches: int = 0
    attempts: int = 0
    """Starts of the worker group over all launches."""
    wall_s: float = 0.0
    """Of all launches; the current one is added after each epoch."""
    mlflow_run_id: str | None = None
    tracked_epochs: int = 0
    """Epochs whose metrics the tracker has."""
    dataset_fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """How a run ended; the content of result.json."""

    status: str
    """finished, stopped (early), interrupted or failed."""
    run_name: str
    mlflow_run_id: str | None
    seed: int
    world_size: int
    images_per_step: int
    epochs: int
    """Completed."""
    best_epoch: int | None
    optimizer_steps: int
    attempts: int
    images_per_second: float
    """Training images / training seconds; no start-up, no evaluation."""
    wall_s: float
    """Of all attempts."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the best weights."""
    metrics_yolov5: dict[str, float] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    """`best` and `last`: absolute paths or URIs."""
    folder: str = ""
    """Absolute path or URI of the run's folder."""
    signal: int | None = None
    """Number of the signal that interrupted the run."""
    error: str | None = None
    """Why the run failed."""
    steady_images_per_second: float = 0.0
    """Over the last launch's steps after its first ten; 0 if there were fewer."""
    training_images: int = 0
    """Of an epoch."""
    peak_memory_bytes: int = 0
    """Resident memory of the rank that needed most, in the last launch."""
    peak_gpu_memory_bytes: int = 0
    """GPU memory of the rank that needed most, in the last launch; 0 on CPUs."""


def load_config(paths: RunPaths) -> TrainConfig | None:
    """The resolved config of a run, if the run exists."""
    if not paths.exists(CONFIG):
        return None
    source = paths.location(CONFIG)
    return from_dict(TrainConfig, parse_yaml(paths.read_text(CONFIG), source), source)


def save_config(paths: RunPaths, config: TrainConfig) -> None:
    """Write the resolved config."""
    paths.write_text(CONFIG, dump_yaml(config))


def load_record(paths: RunPaths) -> RunRecord:
    """What earlier launches left; an empty record for a new run."""
    return _load_json(RunRecord, paths, RECORD) or RunRecord()


def save_record(paths: RunPaths, record: RunRecord) -> None:
    """Write the record."""
    paths.write_text(RECORD, json.dumps(asdict(record), indent=2))


def load_result(paths: RunPaths) -> RunResult | None:
    """The result of the last launch that ended by itself, if any."""
    return _load_json(RunResult, paths, RESULT)


def save_result(paths: RunPaths, result: RunResult) -> None:
    """Write result.json."""
    paths.write_text(RESULT, json.dumps(asdict(result), indent=2))


def failed_result(config: TrainConfig, paths: RunPaths, error: str) -> RunResult:
    """The result of a run that ended before it trained."""
    return RunResult(
        status="failed",
        run_name=paths.run_name,
        mlflow_run_id=None,
        seed=config.seed,
        world_size=0,
        images_per_step=config.optim.images_per_step or 0,
        epochs=0,
        best_epoch=None,
        optimizer_steps=0,
        attempts=0,
        images_per_second=0.0,
        wall_s=0.0,
        folder=paths.location(),
        error=error,
    )


def save_metrics(paths: RunPaths, history: Sequence[dict[str, float]]) -> None:
    """Write metrics.csv: a row per epoch; a metric that an epoch did not measure stays empty."""
    columns = dict.fromkeys(name for row in history for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    paths.write_text(METRICS, text.getvalue())


def save_event_files(paths: RunPaths, history: Sequence[dict[str, float]]) -> None:
    """Write TensorBoard's file of the last epoch, and of any before it that has none."""
    there = paths.list_names(TENSORBOARD)
    for row in history:
        name = event_file_name(int(row["epoch"]))
        if name not in there or row is history[-1]:
            paths.write_bytes(f"{TENSORBOARD}/{name}", event_file(row))


def load_metrics(paths: RunPaths) -> list[dict[str, float]]:
    """The rows of metrics.csv so far; a metric that an epoch did not measure is missing in its row."""
    if not paths.exists(METRICS):
        return []
    rows = csv.DictReader(io.StringIO(paths.read_text(METRICS)))
    try:
        return [{name: float(text) for name, text in row.items() if text} for row in rows]
    except (ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{paths.location(METRICS)} is damaged ({error})") from error


def attempt_name(launch: int) -> str:
    """Folder below `checkpoints/` that one launch writes to."""
    return f"launch-{launch:03d}"


def list_checkpoints(paths: RunPaths) -> list[str]:
    """Relative paths of the checkpoints that look complete, the most advanced first."""
    found: list[tuple[int, int, str]] = []
    for launch in paths.list_names(CHECKPOINTS):
        for name in paths.list_names(f"{CHECKPOINTS}/{launch}"):
            folder = f"{CHECKPOINTS}/{launch}/{name}"
            if paths.exists(f"{folder}/{MANIFEST}") and paths.exists(f"{folder}/{STATE}"):
                # Whether the rest is whole is for who loads it to check; this is for the order.
                with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
                    state = json.loads(paths.read_bytes(f"{folder}/{STATE}"))
                    found.append((int(state["epoch"]), int(state["step"]), folder))
    return [folder for _, _, folder in sorted(found, reverse=True)]


def _load_json(cls: type[Content], paths: RunPaths, relative: str) -> Content | None:
    if not paths.exists(relative):
        return None
    try:
        return from_dict(cls, json.loads(paths.read_bytes(relative)))
    except (ValueError, RecursionError) as error:
        reason = "; ".join(str(error).splitlines())
        raise RunError(f"{paths.location(relative)} is damaged ({reason})") from error
