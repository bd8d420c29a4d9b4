"""Parameter groups, the optimizer, and how one step is taken."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from cluster.errors import CheckpointError
from trainjobs.optim.parts import check_lr_factors, factor_of
from trainjobs.optim.schedule import StepSettings, weight_decay_in_force
from trainjobs.optim_config import OptimConfig

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
ROLES = ("weight", "norm", "bias")
"""In the order in which a group speaks for the learning rate of all."""


def parameter_groups(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Trainable parameters, by name, of each role: `bias`, `weight` (decayed) and `norm`."""
    groups: dict[str, dict[str, nn.Parameter]] = {"bias": {}, "weight": {}, "norm": {}}
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(place, recurse=False):
            if not parameter.requires_grad:
                continue
            if name.rpartition(".")[2] == "bias":
                groups["bias"][name] = parameter
            else:
                groups["norm" if isinstance(module, NORMS) else "weight"][name] = parameter
    return groups


def build_optimizer(model: nn.Module, config: OptimConfig, images_per_step: int) -> Optimizer:
    """SGD, Adam or AdamW; weight decay on weights only. A group is a role and a factor on its lr.

    They are fused: a step is skipped on the device, where gradients are found not to be finite.

    Raises:
        ConfigError: `lr_factors` names a part that the model does not have.
    """
    check_lr_factors(model, config.lr_factors)
    decay = weight_decay_in_force(config, images_per_step)
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for role, parameters in parameter_groups(model).items():
        for name, parameter in parameters.items():
            factor = factor_of(name, config.lr_factors)
            new = {"role": role, "lr_factor": factor, "params": [], "names": []}
            group = groups.setdefault((role, factor), new)
            group["params"].append(parameter)
            group["names"].append(name)
            group["weight_decay"] = decay if role == "weight" else 0.0
    if config.name == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        optimizer = SGD(
            groups.values(), lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=True
        )
        _start_momentum(optimizer)
        return optimizer
    kind = Adam if config.name == "adam" else AdamW
    return kind(groups.values(), lr=config.lr, betas=(config.momentum, 0.999), fused=True)


def _start_momentum(optimizer: SGD) -> None:
    """Give every parameter that has none a momentum of 0.

    SGD's own start would be its first gradients, but if its first step is skipped, the fused kernel
    leaves whatever was in that memory.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def load_moments(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Take over a saved optimizer's moments and step counts, by name, and none of its settings.

    (Momentum is set before every step; so is the learning rate, but the last one is what a row of
    metrics that is still to be written reports.) A parameter that it did not train has no moments.

    Raises:
        CheckpointError: It has no names, from before there were any, and other groups.
    """
    now = optimizer.state_dict()
    names, saved_names = _names(now), _names(saved)
    if not saved_names:
        sizes = [[len(group["params"]) for group in s["param_groups"]] for s in (now, saved)]
        if sizes[0] != sizes[1]:
            raise CheckpointError(
                "optimizer",
                "comes from a version without model.freeze and optim.lr_factors: go on without them",
            )
        saved_names = names
    numbers = {name: number for number, name in enumerate(saved_names)}
    found = {new: saved["state"].get(numbers.get(name)) for new, name in enumerate(names)}
    state = {number: moments for number, moments in found.items() if moments is not None}
    lrs = {_kind(group): group["lr"] for group in saved["param_groups"]}
    for group in now["param_groups"]:
        group["lr"] = lrs.get(_kind(group), group["lr"])
    optimizer.load_state_dict({"state": state, "param_groups": now["param_groups"]})
    if isinstance(optimizer, SGD):
        _start_momentum(optimizer)


def _names(state: Mapping[str, Any]) -> list[str]:
    """Names of an optimizer's parameters, in the order by which its state numbers them."""
    return [name for group in state["param_groups"] for name in group.get("names", ())]


def _kind(group: Mapping[str, Any]) -> tuple[str, float]:
    """What makes it a group: role and factor, of which groups once had none."""
    return group["role"], group.get("lr_factor", 1.0)


def apply_settings(optimizer: Optimizer, settings: StepSettings) -> None:
    """Set learning rate, times the group's factor, and momentum (Adam: the first beta)."""
    for group in optimizer.param_groups:
        lr = settings.bias_lr if group["role"] == "bias" else settings.lr
        group["lr"] = lr * group["lr_factor"]
        if "betas" in group:
            group["betas"] = (settings.momentum, group["betas"][1])
        else:
            group["momentum"] = settings.momentum


def lr_in_force(optimizer: Optimizer) -> float:
    """Learning rate of the weights (if all are frozen: of what is trained), without factors."""
    # The first choice has no factor: x * f / f may differ from x in the last bit.
    group = min(optimizer.param_groups, key=lambda g: (ROLES.index(g["role"]), g["lr_factor"] != 1))
    lr: float = group["lr"] / group["lr_factor"]
    return lr


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to `max_norm` (0: leave them) and return their norm before that."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
    return norm
