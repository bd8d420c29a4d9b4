"""From what a user asked for to what a run does: batch arithmetic at the first launch, and the
rules by which a run that exists is continued. Pure."""

import dataclasses
import logging

from cluster.config_io import leaf_paths, value_at
from cluster.errors import RunError
from trainjobs.config import TrainConfig
from trainjobs.step_plan import StepPlan, resolve_images_per_step

logger = logging.getLogger(__name__)

MAY_CHANGE = ("epochs", "max_steps", "run_name", "resources", "tracking")
"""Settings, or sections of them, that do not change what a step computes."""
RESOLVED_AT_LAUNCH = (
    "optim.images_per_step",
    "optim.warmup_min_images",
    "optim.warmup_micro_batches",
)
"""Left open by most users; fixed by the first launch and kept from then on."""
WARMUP_FORWARDS = 100
"""Warmup takes at least this many forwards of the first launch (YOLOv5's 100 iterations)."""


def fit_batch(config: TrainConfig, num_images: int) -> TrainConfig:
    """Reduce a batch larger than the dataset, with a warning."""
    batch = config.batch_size_per_worker
    if batch <= num_images:
        return config
    logger.warning(
        "batch_size_per_worker is %d, the training split has %d images: using %d",
        batch, num_images, num_images,
    )  # fmt: skip
    return dataclasses.replace(config, batch_size_per_worker=num_images)


def resolve_launch(config: TrainConfig, *, world_size: int) -> TrainConfig:
    """Fix, for the life of a run, what depends on the number of workers it is first launched with."""
    optim, batch = config.optim, config.batch_size_per_worker
    images_per_step = optim.images_per_step or resolve_images_per_step(
        optim.accumulate,
        batch_size_per_worker=batch,
        world_size=world_size,
        nominal_batch_size=optim.nominal_batch_size,
    )
    resolved = dataclasses.replace(
        optim,
        images_per_step=images_per_step,
        warmup_min_images=_given(optim.warmup_min_images, WARMUP_FORWARDS * batch * world_size),
        warmup_micro_batches=_given(optim.warmup_micro_batches, world_size),
    )
    return dataclasses.replace(config, optim=resolved)


def resolve_resume(asked: TrainConfig, saved: TrainConfig) -> TrainConfig:
    """The config with which a run goes on: the saved one, with what may change as asked.

    Raises:
        RunError: another setting differs; names each with both values.
    """
    changed = [
        f"  {path}: {value_at(saved, path)!r} in the run, {value_at(asked, path)!r} asked"
        for path in leaf_paths(TrainConfig)
        if path.split(".")[0] not in MAY_CHANGE
        and value_at(asked, path) != value_at(saved, path)
        and not (path in RESOLVED_AT_LAUNCH and value_at(asked, path) is None)
    ]
    if changed:
        raise RunError(
            f"run {saved.run_name} exists with other settings; give another --run-name, or the "
            "same settings to continue it:\n" + "\n".join(changed)
        )
    return dataclasses.replace(
        saved,
        epochs=asked.epochs,
        max_steps=asked.max_steps,
        resources=asked.resources,
        tracking=asked.tracking,
    )


def build_plan(config: TrainConfig, *, num_images: int, world_size: int) -> StepPlan:
    """The step plan of a resolved config."""
    optim = config.optim
    assert optim.images_per_step and optim.warmup_micro_batches  # set by resolve_launch
    warmup = max(round(optim.warmup_epochs * num_images), optim.warmup_min_images or 0)
    return StepPlan(
        num_images=num_images,
        images_per_step=optim.images_per_step,
        batch_size_per_worker=config.batch_size_per_worker,
        warmup_images=warmup,
        warmup_micro_batches=optim.warmup_micro_batches,
        world_size=world_size,
    )


def micro_batches_per_step(config: TrainConfig) -> int:
    """Micro-batches of a full step of a resolved config."""
    assert config.optim.images_per_step  # set by resolve_launch
    return -(-config.optim.images_per_step // config.batch_size_per_worker)


def _given(value: int | None, default: int) -> int:
    return default if value is None else value
