"""Everything that can be set about a sweep, besides the training config that its trials share."""

import re
from dataclasses import dataclass
from typing import Literal

from cluster.errors import ConfigError

Mode = Literal["max", "min"]
CONFIRM = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """Which trials a sweep runs, and what it makes of them."""

    num_trials: int | None = None
    """Trials, the base config among them. Default: 6; with --search grid the size of the grid."""
    search: Literal["random", "grid", "optuna"] = "random"
    """How values are proposed. optuna: its tree-structured Parzen estimator (TPE)."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """asha: stops trials that fall behind at epochs grace, grace * reduction ...; pbt: members
    that fall behind go on from a better one's weights with changed values; none: all run to the end."""
    metric: str | None = None
    """Column of metrics.csv to optimize. Default: the job's key metric (yolo: map50_95)."""
    mode: Mode | None = None
    """max or min. Default: min for losses, max for everything else."""
    grace_epochs: int | None = None
    """Epochs before ASHA stops a trial. Default: a ninth of the epochs, at least 3."""
    reduction: int = 3
    """At each of ASHA's rungs the best 1 / reduction of the trials go on."""
    perturb_epochs: int | None = None
    """Epochs between two decisions of population-based training. Default: a fifth, at least 1."""
    max_concurrent: int | None = None
    """Trials at a time. Default: as many as the cluster holds."""
    confirm: str | None = None
    """KxR: run the best K and the base config again with R fresh seeds each, and judge by these."""
    retrain_epochs: int | None = None
    """Train the winner once more for so many epochs, as run NAME-best."""
    max_failures: int = 2
    """Restarts of a trial whose process is lost."""

    def __post_init__(self) -> None:
        for name in (
            "num_trials", "grace_epochs", "perturb_epochs", "max_concurrent", "retrain_epochs"
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be >= 1, got {value}")
        if self.reduction < 2:
            raise ConfigError(f"--reduction must be >= 2, got {self.reduction}")
        if self.max_failures < 0:
            raise ConfigError(f"--max-failures must be >= 0, got {self.max_failures}")
        if (self.scheduler, self.search) == ("pbt", "grid"):
            raise ConfigError(
                "--scheduler pbt moves values, a grid has fixed ones: --search random"
            )
        if self.confirm is not None and not CONFIRM.fullmatch(self.confirm):
            raise ConfigError(
                f"--confirm must be KxR, such as 3x3 (the best 3, with 3 seeds each), "
                f"got {self.confirm!r}"
            )

    def confirm_plan(self) -> tuple[int, int]:
        """(candidates, seeds); (0, 0) without confirmation."""
        found = CONFIRM.fullmatch(self.confirm or "")
        return (int(found[1]), int(found[2])) if found else (0, 0)


def mode_of(metric: str, mode: Mode | None) -> Mode:
    """Which way is better."""
    return mode or ("min" if "loss" in metric else "max")
