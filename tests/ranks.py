"""Several ranks on this machine: processes in one gloo group, forked from one that has torch loaded."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.builders import (
    CPU,
    Recorder,
    TinyTask,
    flat_tensors,
    make_tiny_config,
    make_training,
    without_timing,
)
from tests.classifiers import (
    SIDE_PX,
    make_classification_task,
    make_classifier_config,
)
from tests.contexts import make_context
from trainjobs.classifier.evaluator import ClassEvaluator
from trainjobs.classifier.inference import Normalization, class_outputs
from trainjobs.classifier.models import build_classifier
from trainjobs.data.mixture import prepare_datasets
from trainjobs.distributed import (
    DDP_OPTIONS,
    all_gather_lists,
    all_reduce_max,
    all_reduce_sum,
    broadcast_object,
    gather_lists,
    gradient_sync,
    is_distributed,
)
from trainjobs.loop import fit
from trainjobs.optim.batch_norm import record_batch_norm
from trainjobs.optim.precision import settle_precision
from trainjobs.training import build_training

LONGEST_WAIT = timedelta(seconds=30)
"""For a collective: when a rank fails, the others must not wait for ever."""


def run_on_ranks(world_size: int, function: Callable[..., Any], **arguments: Any) -> list[Any]:
    """`function(rank, world_size, **arguments)` on every rank; results in rank order."""
    context = multiprocessing.get_context("forkserver")
    # The optimizer would import torch._dynamo, seconds of it, in every process.
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(world_size, mp_context=context) as pool,
    ):
        meeting = f"file://{folder}/meeting"
        ranks = range(world_size)
        call = partial(function, **arguments)
        futures = [pool.submit(_rank, meeting, rank, world_size, call) for rank in ranks]
        return [future.result() for future in futures]


def _rank(meeting: str, rank: int, world_size: int, call: Callable[[int, int], Any]) -> Any:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=world_size, timeout=LONGEST_WAIT
    )
    try:
        return call(rank, world_size)
    finally:
        dist.destroy_process_group()


def every_collective(rank: int, world_size: int) -> dict[str, Any]:
    """What each collective gives to this rank."""
    model = DistributedDataParallel(torch.nn.Linear(1, 1, bias=False))
    gradients = {}
    for enabled in (False, True):
        model.zero_grad()
        with gradient_sync(model, enabled=enabled):
            model(torch.full((1, 1), float(rank))).sum().backward()
        gradients[enabled] = float(model.module.weight.grad)
    return {
        "is_distributed": is_distributed(),
        "sum": all_reduce_sum(torch.tensor([rank, 1.0])).tolist(),
        "max": all_reduce_max(torch.tensor([rank, -rank])).tolist(),
        "gathered": gather_lists([rank] * rank),
        "gathered by all": all_gather_lists([rank] * rank),
        "broadcast": broadcast_object({"from": rank}),
        "gradients": gradients,
    }


def settle_where_one_has_no_bf16(rank: int, world_size: int) -> str:
    """What ranks go on in, of a bf16 run, where the last rank's device has none."""
    lacked = [rank == world_size - 1, True, False]
    with mock.patch("trainjobs.optim.precision.lacked_by", return_value=lacked):
        return settle_precision("auto", CPU, "bf16")


def train(
    rank: int,
    world_size: int,
    *,
    folder: Path,
    stop_after: int | None = None,
    resume: bool = False,
    poisoned: range = range(0),
    changes: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Train `TinyTask`; rank 0 alone is asked to stop and saves into `folder`."""
    checkpoint = folder / "checkpoint"
    training = make_training(
        make_tiny_config(changes),
        TinyTask(poisoned=poisoned),
        rank=rank,
        world_size=world_size,
        checkpoint=checkpoint if resume else None,
        wrap=DistributedDataParallel if world_size > 1 else None,
    )
    writer = Recorder(stop_after=stop_after, checkpoint=checkpoint)
    observer = writer if rank == 0 else Recorder()
    outcome = fit(training, observer, CPU)
    return {
        "outcome": outcome,
        "steps": observer.steps,
        "history": without_timing(training.state.history),
        # As numpy: a tensor would travel through shared memory that this process takes with it.
        "tensors": {k: v.numpy() for k, v in flat_tensors(training.tensors()).items()},
    }


def evaluate_classes(
    rank: int, world_size: int, *, source: Path, batch_size: int
) -> list[tuple[dict[str, float], list[list[int]] | None]]:
    """Metrics and classes found of a new network, by its scores and by embeddings."""
    config = make_classifier_config({"data.source": str(source)})
    cache = source.parent / "cache"
    torch.manual_seed(0)
    model = build_classifier(config, 10)
    record_batch_norm(model)
    normalize = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), CPU)
    evaluator = ClassEvaluator(
        prepare_datasets(config.data, cache, seed=0).open("val"),
        image_size=SIDE_PX,
        batch_size=batch_size,
        context=make_context(cache, rank=rank, world_size=world_size),
    )
    found = []
    for embeds in (False, True):
        forward = partial(class_outputs, model.eval(), normalize)
        evaluation = evaluator.evaluate(forward, embeds=embeds)
        answers = evaluation.answers
        found.append((evaluation.metrics, answers.classes.tolist() if answers else None))
    return found


def train_classifier(
    rank: int,
    world_size: int,
    *,
    source: Path,
    checkpoint: Path,
    changes: Mapping[str, object],
    stop_after: int | None = None,
    resume: bool = False,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Train the classifier of `make_classification_task`; rank 0 saves what is stopped."""
    torch.backends.cudnn.allow_tf32 = False  # or a GPU's sums would be of 10 bits
    task = make_classification_task(
        source, changes, rank=rank, world_size=world_size, device=device
    )
    training = build_training(
        task.config,
        task,
        rank=rank,
        world_size=world_size,
        device=device,
        checkpoints=[checkpoint] if resume else [],
        prepare_model=lambda network: (
            DistributedDataParallel(network, **DDP_OPTIONS) if world_size > 1 else network
        ),
    )
    writer = Recorder(stop_after=stop_after, checkpoint=checkpoint)
    outcome = fit(training, writer if rank == 0 else Recorder(), device)
    return {
        "outcome": outcome,
        "history": without_timing(training.state.history),
        "tensors": {k: v.cpu().numpy() for k, v in flat_tensors(training.tensors()).items()},
    }
