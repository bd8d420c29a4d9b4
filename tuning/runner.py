"""Runs trials under Ray Tune: proposals in, records kept up to date, until there is nothing left."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune import (
    Callback,
    CheckpointConfig,
    FailureConfig,
    PlacementGroupFactory,
    RunConfig,
    TuneConfig,
    Tuner,
)
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from cluster.credentials import Credentials
from cluster.environment import variables
from cluster.placement_groups import remove_orphaned_groups
from trainjobs.interrupt import StopRequest, fit_in_thread
from tuning.ledger import Ledger
from tuning.records import TrialRecord
from tuning.trial import FACTS, Trial

logger = logging.getLogger(__name__)

TUNE_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # whose boxes `verbose=0` does not silence
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run's folder has its own metrics
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a run that fails early measures nothing
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
TRIAL_RESOURCES = {"memory": 1.0}
"""A byte: a trial's own process only waits. A CPU's share, however small, would keep its workers
from filling the node, and Tune wants something."""

NextTrial = Callable[[], TrialRecord | None]
"""The next trial to start; None: no more."""
ToRequest = Callable[[TrialRecord], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Trials that run under one scheduler."""

    next_trial: NextTrial
    request: ToRequest
    scheduler: TrialScheduler | None
    max_concurrent: int
    max_failures: int
    metric: str
    changed: Callable[[TrialRecord], None]
    """Called when a record has changed."""


def run_round(round_: Round, ledger: Ledger, referee: Any, stop: StopRequest) -> None:
    """Run until no trial is left, or the stop is asked for; then all have stored checkpoints."""
    ledger.rounds += 1
    ledger.save()
    bookkeeper = Bookkeeper(round_, ledger, referee)
    tuner = Tuner(
        tune.with_resources(
            tune.with_parameters(Trial, referee=referee, credentials=Credentials.of_this_process()),
            PlacementGroupFactory([TRIAL_RESOURCES]),
        ),
        tune_config=TuneConfig(
            num_samples=-1,
            search_alg=Proposals(round_, stop),
            scheduler=round_.scheduler,
            max_concurrent_trials=round_.max_concurrent,
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name=f"round-{ledger.rounds:03d}",
            storage_path=ledger.paths.location("tune"),
            callbacks=[bookkeeper],
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            failure_config=FailureConfig(max_failures=round_.max_failures),
            verbose=0,
        ),
    )
    # It misses the files of Tune's own loggers, which are off.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    with variables(TUNE_SETTINGS):
        fit_in_thread(tuner.fit, stop, referee.stop_all.remote)
    remove_orphaned_groups()


class _Unpickled:
    """Tune pickles what it is given, to restore it; this is rebuilt from the ledger instead."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class Proposals(_Unpickled, Searcher):
    """Hands Tune the next trial whenever it has room for one."""

    def __init__(self, round_: Round, stop: StopRequest) -> None:
        super().__init__(metric=round_.metric, mode="max")
        self.round, self.stop = round_, stop

    def suggest(self, trial_id: str) -> Any:
        """The next request."""
        record = None if self.stop.outcome else self.round.next_trial()
        return Searcher.FINISHED if record is None else self.round.request(record)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: proposals are made from the ledger."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the state."""


class Bookkeeper(_Unpickled, Callback):
    """Writes into the ledger what Tune and the trials say."""

    def __init__(self, round_: Round, ledger: Ledger, referee: Any) -> None:
        self.round, self.ledger, self.referee = round_, ledger, referee
        self.wall_before_s: dict[int, float] = {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial's process is up."""
        record = self._record(trial)
        record.state, record.error = "running", None
        record.attempts += 1
        self.wall_before_s[record.number] = record.wall_s
        self._save(record)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch, or the end."""
        record, facts = self._record(trial), result[FACTS]
        if facts["run_name"] != record.run_names[-1]:
            return  # of a run that population-based training has just replaced
        self._take_in(record, facts)
        if "epoch" in result:
            record.epochs = max(record.epochs, int(result["epoch"]))
            if self.round.metric in result:
                record.curve[int(result["epoch"])] = float(result[self.round.metric])
        if status := facts.get("status"):
            # A run that its own patience stopped has come to its end.
            record.state = "finished" if status == "stopped" else status
            record.error = facts.get("error")
        elif result.get("done"):  # the scheduler's decision
            record.state = "stopped"
            self.referee.stop.remote(record.run_names[-1], "stopped")
        self._save(record)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """The trial's process was lost, and it starts again."""
        record = self._record(trial)
        record.state = "interrupted"
        logger.warning("trial %d lost its process, and starts again", record.number)
        self._save(record)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """The trial's process was lost, or failed, more often than it may."""
        record = self._record(trial)
        record.state = "failed"
        *_, cause = str(trial.get_error() or "").strip().splitlines() or [""]
        record.error = f"its process failed {record.attempts} times; the last line: {cause}"
        self._save(record)

    def _take_in(self, record: TrialRecord, facts: dict[str, Any]) -> None:
        record.training_s = facts["training_s"]
        record.wall_s = self.wall_before_s.get(record.number, 0.0) + facts["attempt_s"]
        record.world_size = facts.get("world_size", record.world_size)
        record.startup_s = facts.get("startup_s", record.startup_s)
        record.mlflow_run_id = facts.get("mlflow_run_id") or record.mlflow_run_id

    def _record(self, trial: Any) -> TrialRecord:
        number: int = trial.config["number"]
        return self.ledger.records[number]

    def _save(self, record: TrialRecord) -> None:
        self.ledger.save()
        self.round.changed(record)
