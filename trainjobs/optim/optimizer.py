"""Parameter groups, the optimizer, and how one step is taken."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from trainjobs.optim.schedule import StepSettings, weight_decay_in_force
from trainjobs.optim_config import OptimConfig

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by role: `bias`, `weight` (decayed) and `norm`."""
    groups: dict[str, list[nn.Parameter]] = {"bias": [], "weight": [], "norm": []}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                groups["bias"].append(parameter)
            else:
                groups["norm" if isinstance(module, NORMS) else "weight"].append(parameter)
    return groups


def build_optimizer(model: nn.Module, config: OptimConfig, images_per_step: int) -> Optimizer:
    """SGD with Nesterov momentum, Adam or AdamW; weight decay on weights only."""
    decay = weight_decay_in_force(config, images_per_step)
    groups = [
        {"params": parameters, "role": role, "weight_decay": decay if role == "weight" else 0.0}
        for role, parameters in parameter_groups(model).items()
        if parameters
    ]
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    kind = Adam if config.name == "adam" else AdamW
    return kind(groups, lr=config.lr, betas=(config.momentum, 0.999))


def load_moments(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Take over a saved optimizer's moments and step counts, but not its weight decay.

    (Learning rate and momentum are set before every step.)
    """
    configured = [group["weight_decay"] for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(saved))
    for group, weight_decay in zip(optimizer.param_groups, configured, strict=True):
        group["weight_decay"] = weight_decay


def apply_settings(optimizer: Optimizer, settings: StepSettings) -> None:
    """Set learning rate and momentum (Adam: the first beta) of every group."""
    for group in optimizer.param_groups:
        group["lr"] = settings.bias_lr if group["role"] == "bias" else settings.lr
        if "betas" in group:
            group["betas"] = (settings.momentum, group["betas"][1])
        else:
            group["momentum"] = settings.momentum


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to `max_norm` (0: leave them) and return their norm before that."""
    limit = max_norm if max_norm > 0 else float("inf")
    return torch.nn.utils.clip_grad_norm_(parameters, limit)
