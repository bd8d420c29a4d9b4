"""The folder of a sweep: its settings, and the record of every trial, saved after each change.

Nothing else is needed to go on after the driver was killed; `trials/` below holds the runs.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.config_io import dump_yaml, from_dict, parse_yaml
from cluster.errors import RunError
from cluster.storage import RunPaths
from tuning.records import DONE, Origin, TrialRecord, Values, from_plain, to_plain
from tuning.settings import SweepSettings

SETTINGS, TRIALS, RUNS = "sweep.yaml", "trials.json", "trials"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Saved:
    """Content of trials.json."""

    mlflow_run_id: str | None
    wall_s: float
    rounds: int
    population_epoch: int = 0
    trials: list[Any]


class Ledger:
    """The records of a sweep's trials, by number."""

    def __init__(
        self,
        paths: RunPaths,
        records: Iterable[TrialRecord] = (),
        *,
        mlflow_run_id: str | None = None,
        wall_s: float = 0.0,
        rounds: int = 0,
        population_epoch: int = 0,
    ) -> None:
        self.paths = paths
        self.records = list(records)
        self.mlflow_run_id = mlflow_run_id
        self.wall_s = wall_s
        """Of all launches that came to their end, in rounds of trials."""
        self.rounds = rounds
        """Rounds of trials that Tune was started for."""
        self.population_epoch = population_epoch
        """Newest epoch at which members of a population were replaced."""

    def add(
        self, origin: Origin, values: Values, seed: int, repeats: int | None = None
    ) -> TrialRecord:
        """Note a new trial."""
        record = TrialRecord(
            number=len(self.records),
            origin=origin,
            values=dict(values),
            seed=seed,
            repeats=repeats,
        )
        record.run_names.append(f"{self.paths.run_name}-{record.number:04d}")
        self.records.append(record)
        self.save()
        return record

    def save(self) -> None:
        """Write trials.json."""
        plain = {
            "mlflow_run_id": self.mlflow_run_id,
            "wall_s": self.wall_s,
            "rounds": self.rounds,
            "population_epoch": self.population_epoch,
            "trials": [to_plain(record) for record in self.records],
        }
        self.paths.write_text(TRIALS, json.dumps(plain, indent=1))

    def reopen(self, epochs: int) -> None:
        """Set to interrupted what ran when the driver ended, and what now has more epochs to go."""
        for record in self.records:
            is_short = record.state == "finished" and record.epochs < epochs
            if record.state not in DONE or (is_short and record.origin != "confirm"):
                record.state = "interrupted" if record.attempts else "pending"


def load_ledger(paths: RunPaths) -> Ledger:
    """What a sweep's folder holds; an empty ledger if there is none.

    Raises:
        RunError: trials.json is damaged.
    """
    if not paths.exists(TRIALS):
        return Ledger(paths)
    try:
        saved = from_dict(_Saved, json.loads(paths.read_bytes(TRIALS)))
        records = [from_plain(raw, number) for number, raw in enumerate(saved.trials)]
    except (ValueError, RecursionError) as error:
        reason = "; ".join(str(error).splitlines())
        raise RunError(f"{paths.location(TRIALS)} is damaged ({reason})") from error
    return Ledger(
        paths,
        records,
        mlflow_run_id=saved.mlflow_run_id,
        wall_s=saved.wall_s,
        rounds=saved.rounds,
        population_epoch=saved.population_epoch,
    )


def load_settings(paths: RunPaths) -> SweepSettings | None:
    """Settings of the sweep in a folder, if there is one."""
    if not paths.exists(SETTINGS):
        return None
    source = paths.location(SETTINGS)
    return from_dict(SweepSettings, parse_yaml(paths.read_text(SETTINGS), source), source)


def save_settings(paths: RunPaths, settings: SweepSettings) -> None:
    """Write sweep.yaml."""
    paths.write_text(SETTINGS, dump_yaml(settings))
