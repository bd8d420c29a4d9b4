"""Wires the parts that the loop works with, at the start of a run or where a checkpoint left it.

Free of Ray: who wraps the model is an argument.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cluster.errors import CheckpointError
from trainjobs.checkpoint import TrainState, load_checkpoint
from trainjobs.config import TrainConfig
from trainjobs.data.loader import TrainingLoader
from trainjobs.data.ordering.sampler import RankSampler
from trainjobs.distributed import unwrapped
from trainjobs.loop import Training
from trainjobs.optim.batch_norm import StepStatistics, record_batch_norm
from trainjobs.optim.cuda_graph import replay_forwards
from trainjobs.optim.ema import ModelEma
from trainjobs.optim.optimizer import build_optimizer, load_moments
from trainjobs.optim.parts import freeze_parts
from trainjobs.optim.precision import Precision, settle_precision
from trainjobs.optim.schedule import Schedule
from trainjobs.resolve import build_plan
from trainjobs.task import Task

logger = logging.getLogger(__name__)


def build_training(
    config: TrainConfig,
    task: Task,
    *,
    rank: int,
    world_size: int,
    device: torch.device,
    checkpoints: Iterable[Path] = (),
    prepare_model: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> Training:
    """Everything that one rank trains with.

    Args:
        config: resolved.
        task: builds the model and the batches on the device.
        rank: of this process.
        world_size: number of ranks.
        device: where the model goes.
        checkpoints: the first that is whole is continued; none: a new run.
        prepare_model: moves the model to the device and wraps it in DDP.
    """
    optim = config.optim
    plan = build_plan(config, num_images=task.orders.num_images, world_size=world_size)
    state, tensors = newest_whole(checkpoints, device) or (TrainState(), None)
    network = task.build_model(continues=tensors is not None)
    freeze_parts(network, config.model.freeze)
    record_batch_norm(network)
    network.to(device)
    ema = ModelEma(network, decay=optim.ema_decay, warmup_steps=optim.ema_warmup_steps)
    state.precision = settle_precision(optim.precision, device, state.precision)
    precision = Precision(state.precision, device)
    if optim.cuda_graph and device.type == "cuda":
        full, side = next(plan.steps(config.epochs - 1)).sizes[0], config.data.image_size
        replay_forwards(network, (full, 3, side, side), precision)
    model = prepare_model(network)
    inner = unwrapped(model)
    optimizer = build_optimizer(inner, optim, plan.images_per_step)
    if tensors is not None:
        inner.load_state_dict(tensors["model"])
        ema.resume(tensors["ema"], state.updates)
        load_moments(optimizer, tensors["optimizer"])
        if tensors["scaler"]:  # empty of arithmetic that needs none
            precision.scaler.load_state_dict(tensors["scaler"])
        logger.info("continuing after epoch %d, step %d", state.epoch, state.step)
    sampler = RankSampler(
        plan=plan,
        orders=task.orders,
        rank=rank,
        epochs=config.epochs,
        first_epoch=state.epoch,
        first_step=state.step,
    )
    return Training(
        task=task,
        model=model,
        ema=ema,
        optimizer=optimizer,
        precision=precision,
        batch_norm=StepStatistics(inner),
        plan=plan,
        seed=config.seed,
        schedule=Schedule(optim, config.epochs, plan),
        loader=TrainingLoader(
            task.training_batches(sampler), plan=plan, rank=rank, dummy=task.dummy_batch()
        ),
        state=state,
        epochs=config.epochs,
        max_steps=config.max_steps,
        max_grad_norm=optim.max_grad_norm,
        evaluate_every=config.eval.every_epochs,
        patience=config.eval.patience,
    )


def newest_whole(
    checkpoints: Iterable[Path], device: torch.device
) -> tuple[TrainState, dict[str, Any]] | None:
    """The first checkpoint that is whole; those that are not are named in a warning."""
    for folder in checkpoints:
        try:
            return load_checkpoint(folder, device)
        except CheckpointError as error:
            logger.warning("%s; trying the one before", error)
    return None
