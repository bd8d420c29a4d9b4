"""The rounds of a sweep that is under way: search, confirmation, and the winner once more."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.config import ClusterConfig
from cluster.config_io import to_dict
from cluster.errors import RunError
from cluster.storage import RunPaths
from trainjobs.config import TrainConfig
from trainjobs.interrupt import StopRequest
from trainjobs.launch import launch
from trainjobs.optim.schedule import weight_decay_in_force
from trainjobs.resolve import resolve_launch
from trainjobs.run_folder import RunResult
from tuning.console import SweepDisplay
from tuning.constraints import value_in_force
from tuning.dimension import is_active
from tuning.ledger import RUNS, Ledger, load_ledger
from tuning.population import explore
from tuning.proposals import Proposer, best_points, check_points, observations
from tuning.records import DONE, Note, TrialRecord, Values
from tuning.runner import NextTrial, Round, run_round
from tuning.schedulers import PopulationScheduler, build_asha
from tuning.scores import base_trial, ranked, search_trials
from tuning.search import Observation, build_search
from tuning.settings import SweepSettings, perturb_epochs
from tuning.space import Space, apply

logger = logging.getLogger(__name__)

WARM_POINTS = 3
"""Best trials of an earlier sweep that are tried again first."""
SEED_STEP = 1000
"""Confirmation runs have the sweep's seed plus 1000, 2000 ...: seeds that no trial of the search had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A sweep under way: what was asked, what it knows, and where its trials run."""

    settings: SweepSettings
    space: Space
    ledger: Ledger
    base: TrainConfig
    """What all trials share, as a run of this sweep."""
    world_size: int
    max_concurrent: int
    display: SweepDisplay
    stop: StopRequest
    referee: Any

    def config_of(self, record: TrialRecord) -> TrainConfig:
        """The config of a trial's newest run."""
        config = apply(self.base, record.values)
        return dataclasses.replace(
            config,
            seed=record.seed,
            run_name=record.run_names[-1],
            checkpoint=dataclasses.replace(config.checkpoint, start_from=record.start_from),
        )

    def request(self, record: TrialRecord) -> dict[str, Any]:
        """A trial as Tune gets it; the record learns what its values amount to."""
        config = self.config_of(record)
        optim = resolve_launch(config, world_size=self.world_size).optim
        assert optim.images_per_step  # set by resolve_launch
        record.images_per_step = optim.images_per_step
        record.weight_decay_in_force = weight_decay_in_force(optim, optim.images_per_step)
        record.implied = {
            d.path: value_in_force(self.base, d.path, self.world_size)
            for d in self.space.dimensions
            if d.path not in record.values and is_active(d, self.base, record.values)
        }
        return {
            "number": record.number,
            "job": self.settings.job,
            "run_name": config.run_name,
            "train": to_dict(config),
        }

    def run(self, next_trial: NextTrial, scheduler: Any = None) -> None:
        """Run trials until `next_trial` has no more, or a signal asks for the end."""
        round_ = Round(
            next_trial=next_trial,
            request=self.request,
            scheduler=scheduler,
            max_concurrent=self.max_concurrent,
            max_failures=self.settings.search.max_failures,
            metric=self.settings.metric,
            changed=self.display.changed,
        )
        run_round(round_, self.ledger, self.referee, self.stop)


def search(sweep: Sweep) -> None:
    """Propose and run trials until there are as many as asked for."""
    settings, ledger = sweep.settings, sweep.ledger
    points, earlier = known_points(settings)
    check_points(points, sweep.base)
    proposer = Proposer(
        settings,
        ledger,
        build_search(
            settings.search.search, sweep.space, sweep.base,
            seed=settings.train.seed, mode=settings.mode, world_size=sweep.world_size,
        ),
        points=points,
        earlier=earlier,
    )  # fmt: skip
    sweep.run(proposer.next_trial, build_scheduler(sweep))


def known_points(settings: SweepSettings) -> tuple[list[Values], list[Observation]]:
    """What is tried first, and what an earlier sweep has measured.

    Raises:
        RunError: there is no sweep to start from.
    """
    points = [dict(point) for point in settings.points]
    if settings.warm_start is None:
        return points, []
    storage, _, name = settings.warm_start.rstrip("/").rpartition("/")
    records = search_trials(load_ledger(RunPaths(storage, name)).records)
    if not records:
        raise RunError(f"--warm-start: {settings.warm_start} holds no sweep with trials")
    return (
        points + best_points(records, settings.mode, WARM_POINTS),
        observations(records, settings.mode),
    )


def build_scheduler(sweep: Sweep) -> Any:
    """The scheduler of the search; None: every trial runs to its end."""
    settings, epochs = sweep.settings, sweep.settings.train.epochs
    ended = [r for r in search_trials(sweep.ledger.records) if r.state in DONE]
    if settings.search.scheduler == "asha":
        return build_asha(settings.search, settings.metric, settings.mode, epochs, ended)
    if settings.search.scheduler == "pbt":
        return PopulationScheduler(
            metric=settings.metric,
            mode=settings.mode,
            interval=perturb_epochs(settings.search, epochs),
            epochs=epochs,
            population=settings.num_trials - len(ended),
            seed=settings.train.seed,
            decided=sweep.ledger.population_epoch,
            exploit=lambda member, donor, epoch: exploit(sweep, member, donor, epoch),
        )
    return None


def exploit(sweep: Sweep, member: int, donor: int, epoch: int) -> dict[str, Any] | None:
    """Send a member to go on from the donor's newest epoch, with the donor's values moved a little."""
    if sweep.stop.outcome:
        return None
    records = sweep.ledger.records
    record, model = records[member], records[donor]
    rng = np.random.default_rng([sweep.settings.train.seed, member, epoch, 1])
    values = explore(model.values, sweep.space.dimensions, sweep.base, rng)
    changes = ", ".join(f"{path} {values[path]:.4g}" if isinstance(values[path], float)
                        else f"{path} {values[path]}" for path in values)  # fmt: skip
    note = (
        f"was among the worst at epoch {epoch}: goes on from trial {donor} "
        f"({model.run_names[-1]}) with {changes}"
    )
    logger.info("trial %d %s", member, note)
    sweep.referee.stop.remote(record.run_names[-1], "stopped")
    record.notes.append(Note(epoch=epoch, text=note))
    record.start_from = sweep.ledger.paths.location(f"{RUNS}/{model.run_names[-1]}")
    record.values = values
    record.epochs = model.epochs
    record.curve = {}  # was measured with other values
    record.run_names.append(f"{record.run_names[0]}-g{len(record.run_names)}")
    request = sweep.request(record)
    sweep.ledger.population_epoch = epoch
    sweep.ledger.save()
    return request


def confirm(sweep: Sweep) -> None:
    """Repeat the best trials, and the base config, with seeds that the search has not seen."""
    ledger, (candidates, repeats) = sweep.ledger, sweep.settings.search.confirm_plan()
    if not candidates or sweep.stop.outcome:
        return
    chosen = {r.number: r for r in ranked(ledger.records, sweep.settings.mode)[:candidates]}
    if base := base_trial(ledger.records):
        chosen.setdefault(base.number, base)
    known = {(r.repeats, r.seed) for r in ledger.records if r.origin == "confirm"}
    for repeat in range(1, repeats + 1):
        seed = sweep.settings.train.seed + SEED_STEP * repeat
        for record in chosen.values():
            if (record.number, seed) not in known:
                ledger.add("confirm", record.values, seed, repeats=record.number)
    open_records = [r for r in ledger.records if r.origin == "confirm" and r.state not in DONE]
    logger.info("confirming %d candidates with %d fresh seeds each", len(chosen), repeats)
    waiting = iter(open_records)
    sweep.run(lambda: next(waiting, None))


def retrain(sweep: Sweep, cluster: ClusterConfig | None) -> RunResult | None:
    """Train the winner once more, for as long as asked."""
    epochs, found = (
        sweep.settings.search.retrain_epochs,
        ranked(sweep.ledger.records, sweep.settings.mode),
    )
    if epochs is None or sweep.stop.outcome or not found:
        return None
    config = dataclasses.replace(
        apply(sweep.base, found[0].values), epochs=epochs, run_name=f"{sweep.settings.name}-best"
    )
    logger.info("training the winner, trial %d, for %d epochs", found[0].number, epochs)
    return launch(config, job=sweep.settings.job, cluster=cluster)
