"""The Ray Train run of one launch: the only builder of a `TorchTrainer`."""

import asyncio
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController

from cluster.environment import choose_gloo_interface
from cluster.resources import WorkerPlan
from trainjobs.config import TrainConfig
from trainjobs.jobs import JOBS
from trainjobs.worker import WorkerSettings, train_worker

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


UNUSED_CALLBACKS = (
    DatasetsCallback,  # hands out Ray Data's datasets
    PlacementGroupCleanerCallback,  # Ray and `remove_orphaned_groups` do without
)


class Trainer(TorchTrainer):  # type: ignore[misc]  # Ray's class is untyped
    """Ray's trainer without helper processes, each of which imports Ray Train anew: 3 to 8 s of CPU."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [one for one in callbacks if not isinstance(one, UNUSED_CALLBACKS)]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        """Run the controller here if this process is an actor, as a trial's is; workers call it."""
        if ray.get_runtime_context().get_actor_id() is None:
            return super()._initialize_and_run_controller(**parts)
        controller = TrainController(**parts)
        asyncio.run(controller.run())
        return controller.get_result()


class ProcessGroup(TorchConfig):  # type: ignore[misc]  # Ray's class is untyped
    """Ray's set-up of the ranks' process group, each rank on its node's interface."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What starts the group."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]  # as above
    def on_start(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        worker_group.execute(_choose_interface)
        super().on_start(worker_group, backend_config)


def _choose_interface() -> None:
    choose_gloo_interface(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray


def build_trainer(
    config: TrainConfig,
    plan: WorkerPlan,
    settings: WorkerSettings,
    *,
    name: str,
    storage: str,
) -> Trainer:
    """The Ray Train run of one launch.

    Args:
        config: resolved.
        plan: the workers.
        settings: what each of them gets.
        name: of the Ray Train run. A finished one cannot go on under its name, so each launch is
            one of its own.
        storage: where it keeps its folder of checkpoints.
    """
    fewest, most = plan.num_workers
    return Trainer(
        train_worker,
        train_loop_config=settings,
        torch_config=ProcessGroup(
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
            name=name,
            storage_path=storage,
            checkpoint_config=CheckpointConfig(
                num_to_keep=KEPT_CHECKPOINTS,
                checkpoint_score_attribute=JOBS[settings.job].key_metric,
            ),
            failure_config=FailureConfig(
                max_failures=config.resources.max_failures,
                controller_failure_limit=MAX_CONTROLLER_FAILURES,
            ),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )
