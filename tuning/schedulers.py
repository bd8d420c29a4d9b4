"""Which trials go on: Tune's ASHA on our own epoch count, and population-based training."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tuning.config import Mode, SearchConfig
from tuning.population import Score, choose_donor
from tuning.records import TrialRecord

Exploit = Callable[[int, int, int], dict[str, Any]]
"""(member, donor, epoch) -> the member's next request."""


MIN_GRACE_EPOCHS = 3
"""A detector that has trained for an epoch or two scores about 0: what ranks there is noise."""


def grace_epochs(search: SearchConfig, epochs: int) -> int:
    """Epochs before ASHA's first rung."""
    return min(search.grace_epochs or max(MIN_GRACE_EPOCHS, epochs // 9), epochs)


def rungs(search: SearchConfig, epochs: int) -> list[int]:
    """Epochs at which ASHA decides."""
    if search.scheduler != "asha":
        return []
    found, epoch = [], grace_epochs(search, epochs)
    while epoch < epochs:
        found.append(epoch)
        epoch *= search.reduction
    return found


def build_asha(
    search: SearchConfig, metric: str, mode: Mode, epochs: int, ended: Iterable[TrialRecord]
) -> TrialScheduler:
    """ASHA (Li et al. 2020, arXiv:1810.05934) that knows what trials of earlier launches measured."""
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=metric,
        mode=mode,
        max_t=epochs,
        grace_period=grace_epochs(search, epochs),
        reduction_factor=search.reduction,
    )
    for record in ended:
        stand_in: Any = SimpleNamespace(trial_id=f"earlier-{record.number}")
        controller: Any = None
        scheduler.on_trial_add(controller, stand_in)
        for epoch, value in sorted(record.curve.items()):
            scheduler.on_trial_result(controller, stand_in, {"epoch": epoch, metric: value})
    return scheduler


class PopulationScheduler(FIFOScheduler):
    """Every `interval` epochs, a member among the worst goes on from one of the best.

    Tune's own scheduler copies Tune checkpoints, which runs of Ray Train do not leave; here the
    member's next config names the donor's run (`checkpoint.start_from`).
    """

    def __init__(
        self, *, metric: str, mode: Mode, interval: int, epochs: int, seed: int, exploit: Exploit
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray
        self.key, self.better = metric, mode  # the base class has a property of that name
        self.interval, self.epochs, self.seed = interval, epochs, seed
        self.exploit = exploit
        self.scores: dict[int, Score] = {}
        self.decided: dict[int, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Compare a member where it is due; `NOOP` after it was sent to another's weights."""
        if self.key not in result or result.get("done"):
            return TrialScheduler.CONTINUE
        member, epoch = int(trial.config["number"]), int(result["epoch"])
        self.scores[member] = Score(epoch, float(result[self.key]))
        due = epoch - self.decided.get(member, 0) >= self.interval
        if not due or epoch >= self.epochs:
            return TrialScheduler.CONTINUE
        self.decided[member] = epoch
        rng = np.random.default_rng([self.seed, member, epoch])
        donor = choose_donor(member, self.scores, self.better, rng)
        if donor is None:
            return TrialScheduler.CONTINUE
        request = self.exploit(member, donor, epoch)
        self.decided[member] = self.scores[donor].epoch
        del self.scores[member]  # no donor before it has measured the weights it now has
        tune_controller.pause_trial(trial, should_checkpoint=False)
        trial.set_config(request)
        return TrialScheduler.NOOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A member that has ended is no donor: who copied it would have nothing left to train."""
        self.scores.pop(int(trial.config["number"]), None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Nor is one that has failed."""
        self.scores.pop(int(trial.config["number"]), None)
