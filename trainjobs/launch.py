"""Start, continue and end a run: the driver's side.

`launch(config)` is what the commands, a search's trials and notebooks call.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from ray.train import (
    TrainingFailedError,
)

from cluster import resources
from cluster.channel import open_channel
from cluster.config import ClusterConfig
from cluster.config_io import leaf_paths, to_dict, value_at
from cluster.credentials import Credentials, credentials_apart
from cluster.errors import RunError, ServiceError, StorageError, TrainingError
from cluster.gauges import export_gauges
from cluster.lease import hold_lease
from cluster.logs import write_log_to
from cluster.packages import NEEDED_BY_RANKS, check_packages
from cluster.places import dataset_cache
from cluster.redact import redact
from cluster.resources import WorkerPlan, describe
from cluster.session import Session, connect
from cluster.storage import RunPaths
from cluster.storage_check import check_storage
from trainjobs.config import TrainConfig
from trainjobs.data.mixture import log_summary
from trainjobs.data.packing import quarantine_csv
from trainjobs.data.prepare import Prepared
from trainjobs.driver import Callback, Driver, failure_cause
from trainjobs.fork import fork_from
from trainjobs.gauges import RUN_GAUGES, RunGauges
from trainjobs.interrupt import Interrupted, StopRequest, fit_in_thread, stop_on_signals
from trainjobs.jobs import JOBS, check_network, check_weights, prepare_data
from trainjobs.locate import locate
from trainjobs.optim.schedule import lr_factor, weight_decay_in_force
from trainjobs.provenance import provenance
from trainjobs.resolve import (
    fit_batch,
    micro_batches_per_step,
    resolve_launch,
    resolve_resume,
)
from trainjobs.run_folder import (
    CHECKPOINTS,
    LOG,
    QUARANTINE,
    RESULT,
    RunRecord,
    RunResult,
    attempt_name,
    failed_result,
    list_checkpoints,
    load_config,
    load_record,
    load_result,
    save_config,
    save_record,
    save_result,
)
from trainjobs.tracking.mlflow_tracker import open_tracker
from trainjobs.trainer import build_trainer
from trainjobs.worker import WorkerSettings

logger = logging.getLogger(__name__)


def launch(
    config: TrainConfig,
    callbacks: Sequence[Callback] = (),
    *,
    job: str = "yolo",
    cluster: ClusterConfig | None = None,
    stop: StopRequest | None = None,
) -> RunResult:
    """Train, or continue the run of that name, and wait for the end.

    Args:
        config: the run; what is left open is resolved and saved in its folder.
        callbacks: get each event of trainjobs/events.py, here; a search passes its reporter.
        job: a key of `JOBS`; the MLflow experiment, unless the config names one.
        cluster: how to reach Ray. Default: as the environment says.
        stop: ends the run early from another thread. Ctrl-C does too, in the main thread.

    Returns:
        The result, as in result.json. `status` is interrupted if a signal stopped the run.

    Raises:
        ServiceError: the run cannot start, or (TrainingError) it failed; says why.
    """
    JOBS[job].check_config(config)
    with ExitStack() as stack:
        config, paths = locate(stack.enter_context(credentials_apart(config)))
        logger.info("run %s in %s", config.run_name, paths.location())
        stack.enter_context(hold_lease(paths))
        stack.enter_context(write_log_to(paths, LOG))
        try:
            return _launch(config, paths, callbacks, job=job, cluster=cluster, stop=stop)
        except ServiceError as error:
            leave_result(config, paths, error)
            raise


def _launch(
    config: TrainConfig,
    paths: RunPaths,
    callbacks: Sequence[Callback],
    *,
    job: str,
    cluster: ClusterConfig | None,
    stop: StopRequest | None,
) -> RunResult:
    started = time.monotonic()
    data = prepare_data(config, JOBS[job])
    log_summary(data)
    config = fit_batch(config, data.images_per_epoch)
    if saved := load_config(paths):
        config = resolve_resume(config, saved)
    if done := finished_result(config, paths):
        return done
    network = check_network(config, JOBS[job], len(data.names))
    if saved is None:
        check_weights(config, JOBS[job], network, len(data.names))
    with connect(cluster or ClusterConfig()) as session:
        plan = resources.plan(config.resources, session.nodes())
        if saved is None:
            config = resolve_launch(config, world_size=plan.num_workers[1])
        check_packages(session.run_everywhere, NEEDED_BY_RANKS)
        check_storage(paths.storage, session.run_everywhere)
        record = _begin(paths, config, data)
        log_start(config, plan, session)
        tracker = open_tracker(
            config.tracking,
            run_name=paths.run_name,
            storage=paths.storage,
            experiment=job,
            resume_run_id=record.mlflow_run_id,
        )
        tracker.log_params({path: value_at(config, path) for path in leaf_paths(TrainConfig)})
        tracker.set_tags(provenance(record.dataset_fingerprint))
        gauges = RunGauges(record, config.epochs)
        callbacks = [gauges.on_event, *callbacks]
        driver = Driver(config, paths, record, tracker, started=started, callbacks=callbacks)
        with export_gauges(RUN_GAUGES, gauges.read, run_name=paths.run_name, job=job):
            return _train(driver, plan, stop or StopRequest(), job)


def leave_result(config: TrainConfig, paths: RunPaths, error: ServiceError) -> None:
    """A result for a run that failed before it had one; no launch undoes an earlier one's."""
    with suppress(StorageError):  # which may be the error itself
        if not paths.exists(RESULT):
            save_result(paths, failed_result(config, paths, redact(str(error))))


def log_start(config: TrainConfig, plan: WorkerPlan, session: Session) -> None:
    """Say what starts where."""
    optim = config.optim
    logger.info("%s Ray cluster; %s", "embedded" if session.embedded else "found a", describe(plan))
    logger.info(
        "%s at %d px, %s images per step, lr %g, weight decay %g in force",
        config.model.name,
        config.data.image_size,
        optim.images_per_step,
        optim.lr * lr_factor(optim, optim.images_per_step or 1),
        weight_decay_in_force(optim, optim.images_per_step or 1),
    )

    if plan.num_workers[1] > (micro_batches := micro_batches_per_step(config)):
        logger.warning(
            "an optimizer step has %d micro-batches for %d workers: %d idle; raise "
            "optim.images_per_step or lower batch_size_per_worker",
            micro_batches,
            plan.num_workers[1],
            plan.num_workers[1] - micro_batches,
        )


def finished_result(config: TrainConfig, paths: RunPaths) -> RunResult | None:
    """The result of a run that has nothing left to do; None if there is something."""
    result = load_result(paths)
    if result is None or result.status not in ("finished", "stopped"):
        return None
    if result.status == "finished" and result.epochs < config.epochs:
        return None
    logger.info(
        "run %s is %s (%d epochs); nothing to do. Train on with more --epochs, anew with another "
        "--run-name",
        result.run_name,
        result.status,
        result.epochs,
    )
    return result


def _begin(paths: RunPaths, config: TrainConfig, data: Prepared) -> RunRecord:
    """Count a launch and save what the run is."""
    record = load_record(paths)
    if record.dataset_fingerprint not in (None, data.fingerprint):
        raise RunError(
            f"the dataset of run {config.run_name} has changed since it began; restore it, or "
            "train on the new one under another --run-name"
        )
    if record.launches == 0 and config.checkpoint.start_from:
        fork_from(config.checkpoint.start_from, paths)
    record.launches += 1
    record.dataset_fingerprint = data.fingerprint
    save_config(paths, config)
    save_record(paths, record)
    paths.write_text(QUARANTINE, quarantine_csv(data.all_quarantine))
    return record


def _train(driver: Driver, plan: WorkerPlan, stop: StopRequest, job: str) -> RunResult:
    config, paths = driver.config, driver.paths
    error: str | None = None
    with open_channel(driver.on_event) as channel, stop_on_signals(stop):
        settings = WorkerSettings(
            job=job,
            config=to_dict(config),
            storage=paths.storage,
            cache=dataset_cache(),
            dataset_fingerprint=driver.record.dataset_fingerprint or "",
            cpus=plan.cpus_per_worker,
            resume_from=tuple(list_checkpoints(paths)),
            sender=channel.sender(),
            credentials=Credentials.of_this_process(),
        )
        trainer = build_trainer(
            config,
            plan,
            settings,
            name=attempt_name(driver.record.launches),
            storage=paths.location(CHECKPOINTS),
        )

        def pass_on() -> None:
            channel.request_stop()
            driver.announce_stop(stop)

        try:
            fit_in_thread(trainer.fit, stop, pass_on)
        except TrainingFailedError as failure:
            error = failure_cause(failure)
        except Interrupted:
            driver.abandon(stop)
            raise
    result = driver.finish(error, stop)
    if error is not None:
        raise TrainingError(f"run {result.run_name} failed: {error}")
    return result
