"""Training on a GPU: what the CPU gives, without a wait for the device, and replayed as a graph."""

import copy
import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.builders import CPU, Recorder
from tests.classifiers import make_classification_task, write_thumbnails
from tests.detectors import make_detection_task
from tests.gpu.waiting import no_waiting
from trainjobs.classifier.task import ClassificationTask
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.detector.task import DetectionTask
from trainjobs.host_copy import HostCopy
from trainjobs.loop import LossSums, Training, fit, seed_network, take_step
from trainjobs.optim.batch_norm import StepStatistics, record_batch_norm
from trainjobs.optim.cuda_graph import replay_forwards
from trainjobs.optim.precision import Precision
from trainjobs.taken_steps import TakenSteps
from trainjobs.task import MicroBatch
from trainjobs.training import build_training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Before torch 2.14, make_graphed_callables warms up on another stream than it records on.
    pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream:UserWarning"),
]

CUDA = torch.device("cuda", 0)
TOLERANCE = 1e-4
"""Of float32 sums in another order; TF32, which torch's convolutions use by default, is switched off."""
BATCH, SIDE_PX = 8, 16
TRIPLET = {"loss.custom": "trainjobs.classifier.triplet:TripletLoss"}


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def training_on(folder: Path, device: torch.device, changes: dict[str, object]) -> Training:
    """Of the small fast network, in micro-batches of 8; its 40 images make steps of 16, 16 and 8."""
    if not (folder / "data").exists():
        write_thumbnails(folder / "data")
    changes = {"optim.precision": "fp32", **changes}
    return build(make_classification_task(folder / "data", changes, device=device), device)


def build(task: ClassificationTask | DetectionTask, device: torch.device) -> Training:
    """A training of one rank."""
    return build_training(
        task.config,
        task,
        rank=0,
        world_size=1,
        device=device,
        prepare_model=lambda model: model.to(device),
    )


def take_steps_without_waiting(training: Training, *, ahead: bool) -> list[float]:
    """An epoch in which an operation that waits is an error; the means of its losses and figures.

    Args:
        training: On the GPU.
        ahead: Whether a step's batches are there before it. Those that are decoded as they are asked
            for wait for the decoder, in the threads that load them.
    """
    task = training.task
    sums = LossSums(len(task.loss_names + task.figure_names), CUDA, [])
    taken_steps = TakenSteps(training.state, CUDA)
    for step in training.plan.steps(0):
        micros: Iterable[MicroBatch] = training.loader.mine(step)
        micros = list(micros) if ahead else micros
        with no_waiting() if step.index else no_waiting("cpu"):  # the first step sets things up
            taken_steps.before_step(stop=False)
            for micro in micros:
                seed_network(training.seed, step.epoch, micro)
                with training.precision.autocast():
                    loss = task.compute_loss(training.model, micro.images, micro.targets)
                training.precision.backward(loss.total * micro.num_images)
                training.batch_norm.add(micro.num_images)
                sums.add(loss, micro.num_images)
            taken = take_step(training, step)
            HostCopy(sums.means())
            HostCopy(training.tensors())
        taken_steps.after_step(step, taken)
    taken_steps.settle()
    assert training.state.updates == training.plan.num_steps(0)
    return sums.means().tolist()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_no_operation_of_a_step_waits_for_the_gpu(
    tmp_path: Path, name: str, precision: str
) -> None:
    changes = {"optim.name": name, "optim.precision": precision}
    training = training_on(tmp_path, CUDA, changes)
    assert all(value > 0 for value in take_steps_without_waiting(training, ahead=False))


@pytest.mark.parametrize("changes", [TRIPLET, {"model.name": "resnet18"}], ids=str)
def test_no_other_loss_or_network_waits_for_the_gpu(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    means = take_steps_without_waiting(training_on(tmp_path, CUDA, changes), ahead=False)
    assert all(map(math.isfinite, means))


def detection_on(folder: Path, device: torch.device, changes: dict[str, object]) -> Training:
    """Of YOLOv5n on 24 images, in steps of two micro-batches of 4."""
    if not (folder / "shapes").exists():
        (folder / "shapes").mkdir()
        generate_shapes(folder / "shapes", num_train=24, num_val=4, image_size=64, seed=0)
    changes = {"optim.precision": "fp32", "optim.warmup_epochs": 0.0, **changes}
    changes |= {"optim.warmup_min_images": 0, "optim.lr": 0.001}
    return build(make_detection_task(folder / "shapes", changes, device=device), device)


def test_no_operation_of_a_detection_step_waits_for_the_gpu(tmp_path: Path) -> None:
    training = detection_on(tmp_path, CUDA, {"augment.mixup": 0.5, "optim.precision": "bf16"})
    assert all(value > 0 for value in take_steps_without_waiting(training, ahead=True))


def test_a_gpu_trains_a_detector_as_a_cpu_does(tmp_path: Path) -> None:
    changes = {"augment.execute": "cpu"}  # another decoder has other pixels
    here, there = (detection_on(tmp_path, device, changes) for device in (CPU, CUDA))
    assert_trained_alike(here, there)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_gpu_trains_as_a_cpu_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_graph: bool
) -> None:
    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph))
    )
    changes = {"optim.cuda_graph": cuda_graph}
    here, there = (training_on(tmp_path, device, changes) for device in (CPU, CUDA))
    assert_trained_alike(here, there)
    # 40 images an epoch are five whole micro-batches, each a forward and a backward; two epochs.
    assert len(replays) == (2 * 5 * 2 if cuda_graph else 0)


def assert_trained_alike(here: Training, there: Training) -> None:
    """Train both, on a CPU and on a GPU, and compare."""
    fit(here, Recorder(), CPU)
    fit(there, Recorder(), CUDA)
    for wanted, row in zip(here.state.history, there.state.history, strict=True):
        assert row["train_loss"] == pytest.approx(wanted["train_loss"], rel=0.01)
        assert row["optimizer_steps"] == wanted["optimizer_steps"]


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    record_batch_norm(network)
    return network.to(CUDA, memory_format=torch.channels_last)


def step_of(network: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    """Gradients and statistics of a step of some micro-batches."""
    network.zero_grad(set_to_none=True)
    statistics = StepStatistics(network)
    for batch in batches:
        network(batch).square().sum().backward()
        statistics.add(len(batch))
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    assert statistics.total is not None
    return {**found, "statistics": statistics.total}


def test_a_replayed_network_gives_the_gradients_and_statistics_of_the_eager_one() -> None:
    eager, replayed = make_network(), make_network()
    replay_forwards(replayed, (BATCH, 3, SIDE_PX, SIDE_PX), Precision("fp32", CUDA))
    images = torch.randn(BATCH, 3, SIDE_PX, SIDE_PX, device=CUDA)
    one, other = replayed(images), replayed(images)
    assert one.data_ptr() == other.data_ptr()  # where the graph writes it
    torch.manual_seed(1)
    # Twice one of another size between: the graph's tensors are to be what is read afterwards.
    sizes = [[BATCH], [BATCH, BATCH, BATCH], [BATCH, 5], [5, BATCH], [BATCH]]
    for step in sizes:
        batches = [torch.randn(size, 3, SIDE_PX, SIDE_PX, device=CUDA) for size in step]
        wanted = step_of(eager, batches)
        torch.testing.assert_close(
            step_of(replayed, batches), wanted, rtol=TOLERANCE, atol=TOLERANCE
        )


def test_a_copy_made_before_is_not_replayed_and_evaluation_is_eager() -> None:
    network = make_network()
    average = copy.deepcopy(network).eval()
    replay_forwards(network, (BATCH, 3, SIDE_PX, SIDE_PX), Precision("bf16", CUDA))
    images = torch.randn(BATCH, 3, SIDE_PX, SIDE_PX, device=CUDA)
    with torch.no_grad():
        before = average(images)
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.equal(average(images), before)
        assert not network.eval()(images).any()
