"""`--dry-run`: what a run would do on the cluster as it is, without starting it or writing anything."""

import torch
from torch import nn

from cluster import resources
from cluster.config import ClusterConfig
from cluster.credentials import credentials_apart
from cluster.resources import describe
from cluster.session import connect
from trainjobs.config import OptimConfig, TrainConfig
from trainjobs.jobs import JOBS, Job, check_network, check_weights, prepare_data
from trainjobs.locate import locate
from trainjobs.optim.schedule import CYCLES, epoch_factor, lr_factor, weight_decay_in_force
from trainjobs.resolve import build_plan, fit_batch, resolve_launch
from trainjobs.run_folder import load_config
from trainjobs.shapes_alone import shapes_alone
from trainjobs.step_plan import StepPlan

BYTES_PER_PARAMETER = 16
"""float32 weight, gradient, momentum and moving average (Adam keeps 4 more)."""


def preview(config: TrainConfig, *, job: str = "yolo", cluster: ClusterConfig | None = None) -> str:
    """Describe the run that `launch(config, job=job)` would start: devices, steps, learning rate, memory.

    Raises:
        ServiceError: as `launch` would.
    """
    with credentials_apart(config) as bare:
        return _preview(bare, JOBS[job], cluster or ClusterConfig())


def _preview(config: TrainConfig, job: Job, cluster: ClusterConfig) -> str:
    job.check_config(config)
    config, paths = locate(config)
    data = prepare_data(config, job)
    with connect(cluster) as session:
        plan = resources.plan(config.resources, session.nodes())
    world_size = plan.num_workers[1]
    num_images = data.images_per_epoch
    config = resolve_launch(fit_batch(config, num_images), world_size=world_size)
    steps = build_plan(config, num_images=num_images, world_size=world_size)
    optim, full = config.optim, steps.images_per_step
    network = check_network(config, job, len(data.names))
    if not (continues := load_config(paths) is not None):
        check_weights(config, job, network, len(data.names))
    num_parameters = count_parameters(network)
    state_mib = num_parameters * BYTES_PER_PARAMETER / 2**20
    lines = [
        ("run", f"{paths.location()} ({'continues' if continues else 'new'})"),
        ("workers", describe(plan)),
        ("data", f"{num_images} training, {data.counts['val']} validation images, "
                 f"{len(data.names)} classes"),
        ("model", f"{config.model.name}, {num_parameters:,} parameters, "
                  f"{config.data.image_size} px"),
        ("step", f"{full} images = {steps.micro_batches_per_step} micro-batches of "
                 f"{config.batch_size_per_worker} on {world_size} ranks"),
        ("steps", f"{steps.num_steps(0)} in the first epoch, "
                  f"{steps.num_steps(config.epochs - 1)} in the last of {config.epochs}"),
        ("lr", f"{optim.lr * lr_factor(optim, full):g} {_shape(optim, config.epochs, steps)}"),
        ("decay", f"{weight_decay_in_force(optim, full):g} in force"),
        ("memory", f"{state_mib:.0f} MiB of weights and optimizer, "
                   f"{activation_bytes(config, job, len(data.names)) / 2**20:.0f} MiB of activations in "
                   "fp32, per worker"),
    ]  # fmt: skip
    return "\n".join(f"{name:<9}{text}" for name, text in lines)


def _shape(optim: OptimConfig, epochs: int, steps: StepPlan) -> str:
    """When the learning rate is the one shown, and how it gets to its end."""
    if optim.schedule in CYCLES:
        peak = f"at {optim.peak_fraction:.0%} of the run"
        low, end = optim.lr * optim.start_lr_fraction, optim.lr * optim.final_lr_fraction
        return f"{peak}, {optim.schedule} from {low:g} to {end:g}"
    last = optim.final_lr_fraction
    if optim.schedule not in ("linear", "cosine"):
        last = epoch_factor(optim, epochs - 1, epochs)
    warm = f"after {steps.warmup_images} images of warmup"
    return f"{warm}, then {optim.schedule} to {optim.lr * last:g}"


def count_parameters(model: nn.Module) -> int:
    """Number of values, frozen ones too."""
    return sum(parameter.numel() for parameter in model.parameters())


def activation_bytes(config: TrainConfig, job: Job, num_classes: int) -> int:
    """Bytes that one micro-batch's forward keeps for its backward, in float32.

    Counted on torch's meta device, which computes shapes only.
    """
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[id(tensor.untyped_storage())] = tensor.numel() * tensor.element_size()
        return tensor

    num_outputs = job.num_outputs(config, num_classes)
    with shapes_alone():
        model = job.build_network(config, num_outputs)
    with torch.device("meta"):
        side = config.data.image_size
        images = torch.empty(config.batch_size_per_worker, 3, side, side)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(images)
    parameters = count_parameters(model) * 4
    largest_area = (1 + config.data.multi_scale) ** 2
    return round((sum(kept.values()) - parameters) * largest_area)
