"""What a sweep is: its settings as they are saved in sweep.yaml, and what follows from them."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from cluster.config_io import leaf_paths, unknown_name, value_at
from cluster.errors import ConfigError, RunError
from trainjobs.config import TrainConfig
from tuning.config import Mode, SearchConfig, mode_of
from tuning.space import MAX_GRID

DEFAULT_TRIALS = 6
JOB_METRICS = {
    "yolo": ("map50_95", "map50", "precision", "recall",
             "train_loss", "train_box", "train_obj", "train_cls", "images_per_second"),
    "classify": ("top1", "top5", "train_loss", "train_top1", "images_per_second"),
}  # fmt: skip
"""Job -> columns of its metrics.csv that can be optimized; the first picks its best weights."""
MAY_CHANGE = ("search.max_concurrent", "search.confirm", "search.retrain_epochs",
              "search.max_failures", "train.resources", "train.tracking")  # fmt: skip
"""Settings that a resumed sweep may be given anew: they change no trial."""
EXTENSIBLE = ("search.num_trials", "train.epochs")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSettings:
    """Everything that decides what a sweep does."""

    name: str = ""
    """Name of the sweep and of its folder. A name that stands needs --resume or --extend."""
    job: str = "yolo"
    """The job whose runs are the trials."""
    search: SearchConfig = field(default_factory=SearchConfig)
    space: dict[str, Any] = field(default_factory=dict)
    """The search space, as its YAML says it."""
    points: tuple[dict[str, Any], ...] = ()
    """Values (by path) that are tried first."""
    warm_start: str | None = None
    """Folder of an earlier sweep: its best are tried first, Optuna learns from all of it."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """What all trials share."""

    def __post_init__(self) -> None:
        if self.metric not in JOB_METRICS[self.job]:
            raise ConfigError(
                f"--metric: {self.job} reports no {self.metric!r}: "
                f"{unknown_name(self.metric, JOB_METRICS[self.job])}"
            )

    @property
    def num_trials(self) -> int:
        """Trials of the search at most, the base config among them."""
        return self.search.num_trials or (
            MAX_GRID + 1 if self.search.search == "grid" else DEFAULT_TRIALS
        )

    @property
    def metric(self) -> str:
        """The column of metrics.csv that is optimized."""
        return self.search.metric or JOB_METRICS[self.job][0]

    @property
    def mode(self) -> Mode:
        """Which way is better."""
        return mode_of(self.metric, self.search.mode)


def resume_settings(
    asked: SweepSettings, saved: SweepSettings, *, extending: bool
) -> SweepSettings:
    """The settings with which a sweep goes on.

    Raises:
        RunError: a setting differs that may not; names each with both values.
    """
    allowed = MAY_CHANGE + (EXTENSIBLE if extending else ())
    changed = [
        f"  {path}: {value_at(saved, path)!r} in the sweep, {value_at(asked, path)!r} asked"
        for path in leaf_paths(SweepSettings)
        if not any(path == prefix or path.startswith(f"{prefix}.") for prefix in allowed)
        and value_at(asked, path) != value_at(saved, path)
    ]
    if changed:
        more = "" if extending else " (--extend NAME also takes more trials or epochs)"
        raise RunError(
            f"sweep {saved.name} has other settings; give it another --name, or leave these as they "
            f"are{more}:\n" + "\n".join(changed)
        )
    return dataclasses.replace(asked, name=saved.name)


def perturb_epochs(search: SearchConfig, epochs: int) -> int:
    """Epochs between two decisions of population-based training."""
    return search.perturb_epochs or max(1, epochs // 5)
