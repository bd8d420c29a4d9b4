"""Start or continue a sweep, and wait for its end: the driver's side.

The rules are elsewhere (space, search, schedulers, confidence); this is their order: search,
confirm, retrain, conclude.
"""

import dataclasses
import logging
import time
from contextlib import ExitStack

from cluster import resources
from cluster.config import ClusterConfig
from cluster.credentials import credentials_apart
from cluster.errors import ResourceError
from cluster.gauges import export_gauges
from cluster.lease import hold_lease
from cluster.logs import write_log_to
from cluster.packages import NEEDED, check_packages
from cluster.resources import WorkerPlan, describe
from cluster.session import Session, connect
from cluster.storage import RunPaths
from cluster.storage_check import check_storage
from trainjobs.config import TrainConfig
from trainjobs.interrupt import StopRequest, stop_on_signals
from trainjobs.jobs import JOBS, prepare_data
from trainjobs.resolve import fit_batch
from trainjobs.tracking.mlflow_tracker import open_tracker, store_uri
from tuning.conclusion import SweepResult, conclude
from tuning.console import SweepDisplay
from tuning.gauges import SWEEP_GAUGES, SweepGauges
from tuning.ledger import RUNS, load_ledger, save_settings
from tuning.rounds import Sweep, confirm, retrain, search
from tuning.settings import SweepSettings
from tuning.space import Space, apply, check_constraints, check_space, parse_space
from tuning.trial import start_referee

logger = logging.getLogger(__name__)

LOG = "sweep.log"


def launch_sweep(settings: SweepSettings, cluster: ClusterConfig | None = None) -> SweepResult:
    """Run the sweep of that name from where it stands, and wait for its end.

    Args:
        settings: with a name and an absolute storage.
        cluster: how to reach Ray. Default: as the environment says.

    Returns:
        The result, as in result.json. `status` is interrupted if a signal stopped it.

    Raises:
        ServiceError: the sweep cannot start or go on; says why.
    """
    started, stop = time.monotonic(), StopRequest()
    with ExitStack() as stack:
        settings = stack.enter_context(credentials_apart(settings))
        space = parse_space(settings.space, "the search space")
        check_space(space, settings.train)
        check_models(space, settings.train, settings.job)
        paths = RunPaths(str(settings.train.resources.storage), settings.name)
        logger.info("sweep %s in %s", settings.name, paths.location())
        stack.enter_context(hold_lease(paths))
        stack.enter_context(write_log_to(paths, LOG))
        train = fit_batch(
            settings.train, prepare_data(settings.train, JOBS[settings.job]).images_per_epoch
        )
        session = stack.enter_context(connect(cluster or ClusterConfig()))
        train, plan, max_concurrent = place(settings, train, session)
        check_constraints(space, train, plan.num_workers[1])
        check_packages(session.run_everywhere, NEEDED)
        check_storage(paths.storage, session.run_everywhere)
        ledger = load_ledger(paths)
        ledger.reopen(settings.train.epochs)
        save_settings(paths, settings)
        tracker = open_tracker(
            train.tracking,
            run_name=settings.name,
            storage=paths.storage,
            experiment=settings.job,
            resume_run_id=ledger.mlflow_run_id,
        )
        ledger.mlflow_run_id = tracker.run_id
        sweep = Sweep(
            settings=settings,
            space=space,
            ledger=ledger,
            base=base_config(train, plan, paths, tracker.run_id),
            world_size=plan.num_workers[1],
            max_concurrent=max_concurrent,
            display=SweepDisplay(
                settings, [dimension.path for dimension in space.dimensions], ledger.records
            ),
            stop=stop,
            referee=start_referee(),
        )
        slots = max_concurrent * sweep.world_size
        gauges = SweepGauges(ledger, settings.mode, slots=slots)
        stack.enter_context(
            export_gauges(SWEEP_GAUGES, gauges.read, run_name=settings.name, job=settings.job)
        )
        with stop_on_signals(stop):
            search(sweep)
            confirm(sweep)
        sweep.display.close()
        best = retrain(sweep, cluster)
        ledger.wall_s += time.monotonic() - started
        return conclude(settings, space, ledger, tracker, stop=stop, retrained=best, slots=slots)


def place(
    settings: SweepSettings, train: TrainConfig, session: Session
) -> tuple[TrainConfig, WorkerPlan, int]:
    """What each trial's workers get, and how many trials run at a time.

    Raises:
        ResourceError: a trial can never fit, or not all members of a population at a time.
    """
    nodes, search = session.nodes(), settings.search
    train = dataclasses.replace(train, resources=resources.share(train.resources, nodes))
    plan = resources.plan(train.resources, nodes)
    room = resources.concurrent_runs(plan, nodes)
    concurrent = min(room, search.max_concurrent or room)
    if search.scheduler == "pbt" and settings.num_trials > concurrent:
        raise ResourceError(
            f"all members of a population train at a time: {settings.num_trials} were asked for, "
            f"{concurrent} fit (each {describe(plan)}); lower --num-trials or "
            "--train.resources.cpus-per-worker"
        )
    logger.info(
        "%s Ray cluster; up to %d trial(s) at a time, each %s",
        "embedded" if session.embedded else "found a", concurrent, describe(plan),
    )  # fmt: skip
    return train, plan, concurrent


def check_models(space: Space, train: TrainConfig, job: str) -> None:
    """Raise `ConfigError` for a model or an image size that the job cannot train."""
    check_config = JOBS[job].check_config
    check_config(train)
    for dimension in space.dimensions:
        for value in dimension.extremes:
            check_config(apply(train, {dimension.path: value}))


def base_config(
    train: TrainConfig, plan: WorkerPlan, paths: RunPaths, mlflow_run_id: str | None
) -> TrainConfig:
    """What all trials share: their workers, and their place below the sweep's folder and MLflow run."""
    return dataclasses.replace(
        train,
        resources=dataclasses.replace(
            train.resources,
            cpus_per_worker=plan.cpus_per_worker,
            gpus_per_worker=plan.gpus_per_worker,
            storage=paths.location(RUNS),
        ),
        tracking=dataclasses.replace(
            train.tracking,
            uri=store_uri(train.tracking, paths.storage),
            parent_run_id=mlflow_run_id,
        ),
    )
