"""One sweep in simulated time: proposals, ASHA and population-based training are those of `tuning`,
only the runs are made up. Time is in epochs of one run.
"""

import heapq
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from benchmarks.simulated_runs import (
    BASE,
    DEFAULT_SPACE,
    WORLD_SIZE,
    Curve,
    best_quality,
    draw_problem,
)
from cluster.storage import RunPaths
from tuning.config import SearchConfig
from tuning.ledger import Ledger
from tuning.population import explore
from tuning.proposals import Proposer
from tuning.records import TrialRecord
from tuning.schedulers import PopulationScheduler, build_asha
from tuning.scores import best_score
from tuning.search import build_search
from tuning.settings import SweepSettings, perturb_epochs
from tuning.space import apply

SPREAD = 0.1
"""Of the logarithm of a run's epoch time: nodes and neighbors differ, so runs do not keep step."""
NOISE = 2_000_000
"""Of random numbers, a stream that no search draws from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """What a sweep has to work with."""

    trials: int = 200
    """Of a sweep; population-based training has them in populations of `slots`, one by one."""
    slots: int = 8
    """Trials at a time."""
    epochs: int = 27
    """Of a trial that nothing stops."""
    startup_epochs: float = 1.0
    """Time from a run's start to its first step, in epochs; also at each exploit."""
    run_noise: float = 0.01
    """Standard deviation of a config's quality between runs. A guess: BCCD's map50_95 was 0.257 and
    0.251 in two runs (docs/performance.md)."""
    epoch_noise: float = 0.01
    """Standard deviation of an epoch's measurement around its run's own curve."""


class MemoryLedger(Ledger):
    """A ledger without a folder."""

    def save(self) -> None:
        """Nothing: a simulation is not resumed."""


class SimulatedTrial:
    """A run in progress, and what a scheduler of Tune is shown of a trial."""

    def __init__(self, record: TrialRecord, curve: Curve, given: Circumstances) -> None:
        self.record, self.curve, self.given = record, curve, given
        self.trial_id, self.config = str(record.number), {"number": record.number}
        # The same for trial k of every method: methods are compared under equal luck.
        self.rng = np.random.default_rng([record.seed, NOISE, record.number])
        self.luck = self.rng.normal(0, given.run_noise)
        self.epoch_time = math.exp(self.rng.normal(0, SPREAD))
        self.quality, self.epoch = 0.0, 0

    def set_config(self, config: dict[str, Any]) -> None:
        """As Tune's trials have it."""
        self.config = config

    def train_epoch(self) -> float:
        """Train for an epoch. Returns what the evaluation measures."""
        self.epoch += 1
        self.quality = self.curve.next_quality(self.quality)
        return max(0.0, self.quality + self.luck + self.rng.normal(0, self.given.epoch_noise))


@dataclass(frozen=True, slots=True)
class Trace:
    """What a sweep believed, and what it took."""

    times: list[float]
    regrets: list[float]
    """True regret, at full length, of the config that was believed best from that time on."""
    end: float
    epochs_run: int

    def at(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Regret at these times."""
        found = np.searchsorted(self.times, times, side="right") - 1
        return np.array(self.regrets)[found]


class Simulation:
    """One sweep: slots that trials wait for, and a queue of epochs that end."""

    def __init__(self, search: SearchConfig, given: Circumstances, seed: int) -> None:
        self.given, self.search = given, replace(search, num_trials=given.trials)
        self.settings = SweepSettings(
            search=self.search, train=replace(BASE, epochs=given.epochs, seed=seed)
        )
        self.problem = draw_problem(seed)
        self.optimum = best_quality(self.problem, given.epochs)
        self.ledger = MemoryLedger(RunPaths("", "simulated"))
        proposals = build_search(
            search.search, DEFAULT_SPACE, BASE, seed=seed, mode="max", world_size=WORLD_SIZE
        )
        self.proposer = Proposer(self.settings, self.ledger, proposals, points=())
        self.trials: list[SimulatedTrial] = []
        self.scores: dict[int, float] = {}
        self.queue: list[tuple[float, int, SimulatedTrial]] = []
        self.next_event: dict[int, int] = {}
        """Of each trial, by its number; another one in the queue is of a run that was replaced."""
        self.order = itertools.count()  # of events at the same time
        self.scheduler: Any = self._build_scheduler()  # Any: it gets stand-ins for Tune's objects
        self.now, self.epochs_run = 0.0, 0
        self.trace = [(0.0, self._regret(self.problem.curve_of(BASE)))]

    def run(self) -> Trace:
        """Until no trial is left, or as many epochs were trained as all of them have in full."""
        self._fill_slots()
        while self.queue and self.epochs_run < self.given.trials * self.given.epochs:
            now, event, trial = heapq.heappop(self.queue)
            if event == self.next_event[trial.record.number]:
                self.now = now
                self._end_epoch(trial)
            self._fill_slots()
        times, regrets = zip(*self.trace, strict=True)
        return Trace(list(times), list(regrets), self.now, self.epochs_run)

    def pause_trial(self, trial: SimulatedTrial, should_checkpoint: bool) -> None:
        """As Tune's controller has it: the trial begins again, with the config that it then has."""
        self._schedule(trial, self.given.startup_epochs)

    def _build_scheduler(self) -> TrialScheduler:
        metric, epochs = self.settings.metric, self.given.epochs
        if self.search.scheduler == "asha":
            return build_asha(self.search, metric, "max", epochs, ())
        if self.search.scheduler == "pbt":
            return PopulationScheduler(
                metric=metric, mode="max", interval=perturb_epochs(self.search, epochs),
                epochs=epochs, population=min(self.given.slots, self.given.trials - len(self.trials)),
                seed=self.settings.train.seed, exploit=self._exploit,
            )  # fmt: skip
        return FIFOScheduler()  # type: ignore[no-untyped-call]  # Ray

    def _fill_slots(self) -> None:
        if self.search.scheduler == "pbt":
            if self.queue:
                return
            self.scheduler = self._build_scheduler()  # a population knows nothing of the last one
        while len(self.queue) < self.given.slots and (record := self.proposer.next_trial()):
            curve = self.problem.curve_of(apply(BASE, record.values))
            self.trials.append(SimulatedTrial(record, curve, self.given))
            record.state = "running"
            self.scheduler.on_trial_add(self, self.trials[-1])
            self._schedule(self.trials[-1], self.given.startup_epochs)

    def _schedule(self, trial: SimulatedTrial, delay: float) -> None:
        """Have the trial's next epoch end."""
        end = self.now + delay + trial.epoch_time
        self.next_event[trial.record.number] = event = next(self.order)
        heapq.heappush(self.queue, (end, event, trial))

    def _end_epoch(self, trial: SimulatedTrial) -> None:
        record, metric = trial.record, self.settings.metric
        value = trial.train_epoch()
        record.curve[trial.epoch], record.epochs = value, trial.epoch
        self.epochs_run += 1
        self._believe(record)
        result = {"epoch": trial.epoch, metric: value}
        if trial.epoch >= self.given.epochs:  # no scheduler cuts off the end
            record.state = "finished"
            self.scheduler.on_trial_complete(self, trial, result)
            return
        action = self.scheduler.on_trial_result(self, trial, result)
        if action == TrialScheduler.STOP:
            record.state = "stopped"
        elif action == TrialScheduler.CONTINUE:
            self._schedule(trial, 0.0)

    def _exploit(self, member: int, donor: int, epoch: int) -> dict[str, Any]:
        """As `tuning.rounds.exploit`: the donor's weights, with its values moved a little."""
        trial, model = self.trials[member], self.trials[donor]
        rng = np.random.default_rng([self.settings.train.seed, member, epoch, 1])
        record = trial.record
        record.values = explore(model.record.values, DEFAULT_SPACE.dimensions, BASE, rng)
        record.epochs = model.epoch
        record.curve = {}
        trial.curve = self.problem.curve_of(apply(BASE, record.values))
        trial.quality, trial.luck, trial.epoch = model.quality, model.luck, model.epoch
        self._believe(record)
        return {"number": member}

    def _believe(self, record: TrialRecord) -> None:
        """Note the regret of the trial that now leads, by the rule of `tuning.scores.ranked`."""
        score = best_score(record, "max")
        self.scores[record.number] = score[1] if score else -math.inf
        best = max(self.scores, key=self.scores.__getitem__)
        regret = self._regret(self.trials[best].curve)
        if regret != self.trace[-1][1]:
            self.trace.append((self.now, regret))

    def _regret(self, curve: Curve) -> float:
        return self.optimum - float(curve.quality(self.given.epochs))
