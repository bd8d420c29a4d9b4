"""Start, continue and end a run: the driver's side, and the only builder of `TorchTrainer`.

`launch(config)` is what the commands, a search's trials and notebooks call.
"""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from ray.train import (
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer

from cluster import resources
from cluster.channel import open_channel
from cluster.config import ClusterConfig
from cluster.config_io import leaf_paths, to_dict, value_at
from cluster.errors import RunError, TrainingError
from cluster.lease import hold_lease
from cluster.logs import write_log_to
from cluster.resources import WorkerPlan, describe
from cluster.session import Session, connect
from cluster.storage import RunPaths, check_storage
from trainjobs.config import TrainConfig
from trainjobs.data.prepare import Prepared, log_summary
from trainjobs.detector.task import check_model_config
from trainjobs.driver import Driver, failure_cause
from trainjobs.interrupt import stop_on_signals
from trainjobs.locate import dataset_cache, locate, prepare_data
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
    RunRecord,
    RunResult,
    attempt_name,
    list_checkpoints,
    load_config,
    load_record,
    load_result,
    save_config,
    save_record,
)
from trainjobs.tracking.mlflow_tracker import open_tracker
from trainjobs.worker import WorkerSettings, train_worker

logger = logging.getLogger(__name__)

MAX_CONTROLLER_FAILURES = 2
"""Starts of the worker group that may time out before the run fails; Ray's default is for ever."""
WORKER_ENVIRONMENT = {
    # glibc then keeps freed activations instead of returning and faulting in their pages every
    # step: 4 to 5 % of a CPU step. Without effect on GPU memory.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
KEPT_CHECKPOINTS = 1
"""The best by the key metric. Ray Train keeps the newest as well, whatever its score."""


def launch(
    config: TrainConfig,
    callbacks: Sequence[UserCallback] = (),
    *,
    job: str = "yolo",
    cluster: ClusterConfig | None = None,
) -> RunResult:
    """Train, or continue the run of that name, and wait for the end.

    Args:
        config: the run; what is left open is resolved and saved in its folder.
        callbacks: Ray Train callbacks; a search passes its reporter.
        job: name of the MLflow experiment, unless the config names one.
        cluster: how to reach Ray. Default: as the environment says.

    Returns:
        The result, as in result.json. `status` is interrupted if a signal stopped the run.

    Raises:
        ServiceError: the run cannot start, or (TrainingError) it failed; says why.
    """
    started = time.monotonic()
    check_model_config(config)
    config, paths = locate(config)
    logger.info("run %s in %s", config.run_name, paths.location())
    with ExitStack() as stack:
        stack.enter_context(hold_lease(paths))
        stack.enter_context(write_log_to(paths, LOG))
        data = prepare_data(config)
        log_summary(data)
        config = fit_batch(config, data.counts["train"])
        if saved := load_config(paths):
            config = resolve_resume(config, saved)
        if done := finished_result(config, paths):
            return done
        session = stack.enter_context(connect(cluster or ClusterConfig()))
        plan = resources.plan(config.resources, session.nodes())
        if saved is None:
            config = resolve_launch(config, world_size=plan.num_workers[1])
        check_storage(paths.storage, session.run_everywhere)
        record = _begin(paths, config, data)
        log_start(config, plan, session)
        return _train(config, paths, plan, record, callbacks=callbacks, job=job, started=started)


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
    record.launches += 1
    record.dataset_fingerprint = data.fingerprint
    save_config(paths, config)
    save_record(paths, record)
    paths.copy_from(data.folder / QUARANTINE, QUARANTINE)
    return record


def _train(
    config: TrainConfig,
    paths: RunPaths,
    plan: WorkerPlan,
    record: RunRecord,
    *,
    callbacks: Sequence[UserCallback],
    job: str,
    started: float,
) -> RunResult:
    tracker = open_tracker(
        config.tracking,
        run_name=paths.run_name,
        storage=paths.storage,
        experiment=job,
        resume_run_id=record.mlflow_run_id,
    )
    tracker.log_params({path: value_at(config, path) for path in leaf_paths(TrainConfig)})
    tracker.set_tags(provenance(record.dataset_fingerprint))
    driver = Driver(config, paths, record, tracker, started=started)
    resume_from = tuple(list_checkpoints(paths))
    error: str | None = None
    with open_channel(driver.on_event) as channel:
        settings = WorkerSettings(
            config=to_dict(config),
            storage=paths.storage,
            cache=dataset_cache(),
            cpus=plan.cpus_per_worker,
            resume_from=resume_from,
            sender=channel.sender(),
        )
        trainer = build_trainer(
            config, paths, plan, settings, launch_number=record.launches, callbacks=callbacks
        )
        with stop_on_signals(channel.request_stop) as interruption:
            try:
                _fit(trainer)
            except TrainingFailedError as failure:
                error = failure_cause(failure)
    result = driver.finish(error, interruption.signum)
    if error is not None:
        raise TrainingError(f"run {result.run_name} failed: {error}")
    return result


def build_trainer(
    config: TrainConfig,
    paths: RunPaths,
    plan: WorkerPlan,
    settings: WorkerSettings,
    *,
    launch_number: int,
    callbacks: Sequence[UserCallback],
) -> TorchTrainer:
    """The Ray Train run of one launch; its checkpoints go below the run's own folder."""
    fewest, most = plan.num_workers
    return TorchTrainer(
        train_worker,
        train_loop_config=settings,
        torch_config=TorchConfig(
            backend=plan.backend, timeout_s=round(config.resources.collective_timeout_s)
        ),
        scaling_config=ScalingConfig(
            num_workers=(fewest, most) if plan.is_elastic else most,
            use_gpu=plan.gpus_per_worker > 0,
            resources_per_worker=plan.resources_per_worker(),
            placement_strategy=plan.placement,
            accelerator_type=plan.accelerator_type,
        ),
        run_config=RunConfig(
            # A finished Ray Train run cannot go on under its name, so each launch is one of its own.
            name=attempt_name(launch_number),
            storage_path=paths.location(CHECKPOINTS),
            checkpoint_config=CheckpointConfig(
                num_to_keep=KEPT_CHECKPOINTS, checkpoint_score_attribute="map50_95"
            ),
            failure_config=FailureConfig(
                max_failures=config.resources.max_failures,
                controller_failure_limit=MAX_CONTROLLER_FAILURES,
            ),
            callbacks=list(callbacks),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )


def _fit(trainer: TorchTrainer) -> None:
    """`trainer.fit()` in a thread: in the main thread it would put its own handler on SIGINT."""
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  # raised again below, in the main thread
            failures.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # a join without limit would not let signals through
    if failures:
        raise failures[0]
