"""The end of a sweep: which config is best and how sure that is, as files, in MLflow, and as a result."""

import dataclasses
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.config_io import dump_yaml, to_dict
from cluster.storage import RunPaths
from trainjobs.config import TrainConfig
from trainjobs.interrupt import StopRequest
from trainjobs.run_folder import RunResult, load_result
from trainjobs.tracking.tracker import Tracker
from tuning.confidence import Standing, judge
from tuning.ledger import RUNS, SETTINGS, Ledger
from tuning.plots import draw_plots
from tuning.records import DONE, TrialRecord
from tuning.report import report_html
from tuning.schedulers import rungs
from tuning.scores import base_trial, best_score, ranked
from tuning.settings import SweepSettings
from tuning.space import Space, apply
from tuning.table import BASE_NAME, trials_csv, utilization
from tuning.verdict import SweepSummary, verdict

logger = logging.getLogger(__name__)

BEST, RESULT, TABLE, REPORT, PLOTS = (
    "best.yaml",
    "result.json",
    "trials.csv",
    "report.html",
    "plots",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    """How a sweep ended; the content of result.json."""

    status: str
    """finished, or interrupted."""
    name: str
    job: str
    metric: str
    best_trial: int | None
    """Number of the winner: by the confirmation where there is one, else by the search."""
    best_value: float | None
    """Its best value in the search."""
    best_config: dict[str, Any] = field(default_factory=dict)
    """What best.yaml holds."""
    default_value: float | None = None
    """The base config's best value in the search."""
    verdict: str = ""
    standings: list[dict[str, Any]] = field(default_factory=list)
    """Of the confirmation: name, mean, spread, n, p_best."""
    trials: list[dict[str, Any]] = field(default_factory=list)
    wall_s: float = 0.0
    """Of all launches that came to their end."""
    utilization: float = 0.0
    """Share of the workers' time that went into optimizer steps."""
    retrained: str | None = None
    """Folder of the winner's own run."""
    folder: str = ""
    mlflow_run_id: str | None = None
    signal: int | None = None


def conclude(
    settings: SweepSettings,
    space: Space,
    ledger: Ledger,
    tracker: Tracker,
    *,
    stop: StopRequest,
    slots: int,
    retrained: RunResult | None,
) -> SweepResult:
    """Write everything a sweep leaves, and close its MLflow run.

    Args:
        slots: workers that the sweep could have had at a time.
        retrained: of the winner, if it was trained once more.
    """
    add_run_ids(ledger)
    with tempfile.TemporaryDirectory(prefix="tuning-report-") as scratch:
        folder = Path(scratch)
        summary = summarize(settings, space, ledger, stop=stop, slots=slots, folder=folder)
        result = SweepResult(
            status=summary.status,
            name=settings.name,
            job=settings.job,
            metric=settings.metric,
            best_trial=summary.best.number if summary.best else None,
            best_value=value_of(summary.best, settings),
            best_config=portable(settings.train, summary.best) if summary.best else {},
            default_value=value_of(summary.default, settings),
            verdict=verdict(summary),
            standings=[asdict(standing) for standing in summary.standings],
            trials=[trial_row(record, settings) for record in ledger.records],
            wall_s=ledger.wall_s,
            utilization=summary.utilization,
            retrained=retrained.folder if retrained else None,
            folder=ledger.paths.location(),
            mlflow_run_id=ledger.mlflow_run_id,
            signal=stop.signum,
        )
        table = trials_csv(ledger.records, summary.paths, settings.metric, settings.mode)
        (folder / TABLE).write_text(table)
        (folder / RESULT).write_text(json.dumps(asdict(result), indent=2))
        (folder / REPORT).write_text(report_html(summary))
        if result.best_config:
            (folder / BEST).write_text(dump_yaml(result.best_config))
        ledger.save()
        keep(ledger.paths, folder)
        (folder / SETTINGS).write_text(dump_yaml(settings))
        record_in(tracker, result, folder)
    return result


def summarize(
    settings: SweepSettings,
    space: Space,
    ledger: Ledger,
    *,
    stop: StopRequest,
    slots: int,
    folder: Path,
) -> SweepSummary:
    """What the reports tell; draws the plots into `folder`."""
    dimensions, epochs = space.dimensions, settings.train.epochs
    names = [dimension.path for dimension in dimensions]
    plots = draw_plots(
        ledger.records,
        folder / PLOTS,
        paths=names,
        log_paths={dimension.path for dimension in dimensions if dimension.is_log},
        metric=settings.metric,
        mode=settings.mode,
        epochs=epochs,
        rungs=rungs(settings.search, epochs),
    )
    standings = confirmation(ledger, settings)
    is_done = stop.outcome is None and all(r.state in DONE for r in ledger.records)
    return SweepSummary(
        name=settings.name,
        job=settings.job,
        metric=settings.metric,
        mode=settings.mode,
        epochs=epochs,
        status="finished" if is_done else "interrupted",
        records=ledger.records,
        paths=names,
        best=winner(ledger, settings, standings),
        default=base_trial(ledger.records),
        standings=standings,
        utilization=utilization(ledger.records, slots_worker_seconds=slots * ledger.wall_s),
        wall_s=ledger.wall_s,
        folder=ledger.paths.location(),
        plots=plots,
    )


def add_run_ids(ledger: Ledger) -> None:
    """Runs that the scheduler stopped said their last word after Tune had stopped listening."""
    for record in ledger.records:
        if record.mlflow_run_id is None and record.attempts:
            result = load_result(RunPaths(ledger.paths.location(RUNS), record.run_names[-1]))
            record.mlflow_run_id = result.mlflow_run_id if result else None


def confirmation(ledger: Ledger, settings: SweepSettings) -> list[Standing]:
    """The candidates' standings by their fresh seeds alone; none without finished repeats."""
    scores: dict[str, list[float]] = {}
    for record in ledger.records:
        score = best_score(record, settings.mode)
        if record.origin == "confirm" and record.state == "finished" and score:
            scores.setdefault(candidate_name(ledger, record.repeats), []).append(score[1])
    return judge(scores, settings.mode) if scores else []


def candidate_name(ledger: Ledger, number: int | None) -> str:
    """What a confirmed trial is called."""
    base = base_trial(ledger.records)
    return BASE_NAME if base is not None and number == base.number else f"trial {number}"


def winner(
    ledger: Ledger, settings: SweepSettings, standings: Sequence[Standing]
) -> TrialRecord | None:
    """The trial to go on with."""
    found = ranked(ledger.records, settings.mode)
    if standings:
        names = {candidate_name(ledger, record.number): record for record in found}
        return names.get(standings[0].name)
    return found[0] if found else None


def value_of(record: TrialRecord | None, settings: SweepSettings) -> float | None:
    """A trial's best value in the search."""
    score = best_score(record, settings.mode) if record is not None else None
    return score[1] if score else None


def portable(train: TrainConfig, best: TrialRecord) -> dict[str, Any]:
    """The winner's config for a run of its own: a new name, and wherever that run's command says."""
    tree = to_dict(dataclasses.replace(apply(train, best.values), run_name=None))
    for name in ("storage", "cpus_per_worker"):
        del tree["resources"][name]
    del tree["tracking"]
    return tree


def trial_row(record: TrialRecord, settings: SweepSettings) -> dict[str, Any]:
    """One trial in result.json."""
    return {
        "trial": record.number,
        "origin": record.origin,
        "state": record.state,
        "epochs": record.epochs,
        settings.metric: value_of(record, settings),
        "values": record.values,
        "seed": record.seed,
        "attempts": record.attempts,
        "run_name": record.run_names[-1],
        "mlflow_run_id": record.mlflow_run_id,
        "error": record.error,
    }


def keep(paths: RunPaths, folder: Path) -> None:
    """Copy what was written into the sweep's folder."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            paths.copy_from(file, file.relative_to(folder).as_posix())


def record_in(tracker: Tracker, result: SweepResult, folder: Path) -> None:
    """Send the same to the sweep's MLflow run, and close it."""
    numbers = {
        "best_value": result.best_value,
        "default_value": result.default_value,
        "utilization": result.utilization,
        "num_trials": len(result.trials),
    }
    tracker.log_metrics({k: float(v) for k, v in numbers.items() if v is not None}, step=0)
    tracker.set_tags({"sweep.best_trial": result.best_trial, "sweep.verdict": result.verdict})
    for file in sorted(folder.iterdir()):
        tracker.log_artifact(file, file.name if file.is_dir() else "")
    tracker.close("interrupted" if result.status == "interrupted" else "finished")
