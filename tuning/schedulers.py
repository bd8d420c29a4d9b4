"""Which trials go on: Tune's ASHA on our own epoch count, and population-based training."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tuning.config import Mode, SearchConfig
from tuning.population import choose_donors
from tuning.records import TrialRecord

Exploit = Callable[[int, int, int], dict[str, Any] | None]
"""(member, donor, epoch) -> the member's next request; None: the sweep is being stopped."""


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
    """Every `interval` epochs, the worst members go on from the best ones' newest weights.

    Members are compared at equal epochs, once the last of them has got there. Nobody waits: who is
    ahead trains on, and loses what it did since if it turns out to be among the worst. So it does
    not matter who arrives first, and a resumed sweep decides as it would have.

    Tune's own scheduler copies Tune checkpoints, which runs of Ray Train do not leave; here the
    member's next config names the donor's run (`checkpoint.start_from`).
    """

    def __init__(
        self,
        *,
        metric: str,
        mode: Mode,
        interval: int,
        epochs: int,
        population: int,
        seed: int,
        exploit: Exploit,
        decided: int = 0,
    ) -> None:
        """What decides.

        Args:
            metric: compared.
            mode: which way is better.
            interval: epochs from one comparison to the next.
            epochs: of a whole run; nobody is replaced at the end.
            population: members that will be added.
            seed: picks donors.
            exploit: makes a member's new run.
            decided: epoch of the last comparison that an earlier launch has carried out.
        """
        super().__init__()  # type: ignore[no-untyped-call]  # Ray
        self.key, self.better = metric, mode  # the base class has a property of that name
        self.interval, self.epochs, self.seed = interval, epochs, seed
        self.exploit, self.awaited, self.decided = exploit, population, decided
        self.members: dict[int, Member] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A member joins."""
        self.members[int(trial.config["number"])] = Member(trial)
        self.awaited -= 1

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Compare the members if this was the last one; `NOOP` after it was sent elsewhere."""
        number = int(trial.config["number"])
        if "epoch" not in result or result.get("done"):
            return TrialScheduler.CONTINUE
        member, epoch = self.members[number], int(result["epoch"])
        member.epoch = epoch
        if self.key in result:
            member.curve[epoch] = float(result[self.key])
        replaced = set[int]()
        while (at := self.decided + self.interval) < self.epochs and self._all_have(at):
            replaced |= self._replace_worst(tune_controller, at)
            self.decided = at
        return TrialScheduler.NOOP if number in replaced else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A member that has ended is no donor: who copied it would have nothing left to train."""
        self.members.pop(int(trial.config["number"]), None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Nor is one that has failed."""
        self.members.pop(int(trial.config["number"]), None)

    def _all_have(self, epoch: int) -> bool:
        return self.awaited <= 0 and all(m.epoch >= epoch for m in self.members.values())

    def _replace_worst(self, tune_controller: Any, epoch: int) -> set[int]:
        scores = {number: m.score(epoch) for number, m in self.members.items()}
        known = {number: score for number, score in scores.items() if score is not None}
        rng = np.random.default_rng([self.seed, epoch])
        donors = choose_donors(known, self.better, rng)
        for number, donor in donors.items():
            member, model = self.members[number], self.members[donor]
            request = self.exploit(number, donor, epoch)
            if request is None:
                return set()
            tune_controller.pause_trial(member.trial, should_checkpoint=False)
            member.trial.set_config(request)
            member.epoch, member.curve = model.epoch, dict(model.curve)
        return set(donors)


@dataclass(slots=True)
class Member:
    """What the scheduler knows of a trial."""

    trial: Any
    epoch: int = 0
    curve: dict[int, float] = field(default_factory=dict)
    """Of the weights it has: a donor's, up to where it was copied."""

    def score(self, epoch: int) -> float | None:
        """The newest measurement up to that epoch."""
        measured = [at for at in self.curve if at <= epoch]
        return self.curve[max(measured)] if measured else None
