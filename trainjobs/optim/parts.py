"""Parts of a model by name: those that are not trained and those with a learning rate of their own.

A part, such as model.0, is a parameter of that name, or all whose names go on with a dot.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from cluster.errors import ConfigError
from trainjobs.optim.batch_norm import freeze_batch_norm


def is_in(name: str, part: str) -> bool:
    """Whether a parameter or module belongs to `part`, which may end with the dot."""
    part = part.rstrip(".")
    return name == part or name.startswith(f"{part}.")


def frozen_parts(freeze: Sequence[int | str]) -> tuple[str, ...]:
    """Names of the parts that `model.freeze` means.

    A number stands for layers of YOLOv5: alone for the first so many, one of several for itself.
    """
    numbers = [int(part) for part in freeze if str(part).isdecimal()]
    names = [str(part) for part in freeze if not str(part).isdecimal()]
    layers: Iterable[int] = range(numbers[0]) if len(numbers) == 1 else numbers
    return (*(f"model.{layer}" for layer in layers), *names)


def freeze_parts(model: nn.Module, freeze: Sequence[int | str]) -> None:
    """Train nothing in the parts that `model.freeze` names, nor move BatchNorm's statistics there.

    Raises:
        ConfigError: There is no such part, or nothing is left to train.
    """
    parts = frozen_parts(freeze)
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    check_parts(parts, [name for name in (*modules, *parameters) if name], "model.freeze")
    for name, parameter in parameters.items():
        if any(is_in(name, part) for part in parts):
            parameter.requires_grad = False
    if parts and not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError(
            f"model.freeze must leave something to train, got {' '.join(map(str, freeze))}, which is "
            f"all of {len(parameters)} parameters"
        )
    for name, module in modules.items():
        if any(is_in(name, part) for part in parts):
            freeze_batch_norm(module)


def check_settings(
    model: nn.Module, freeze: Sequence[int | str], lr_factors: Mapping[str, float]
) -> None:
    """Raise ConfigError unless a run could freeze and slow down these parts; freezes them in `model`.

    For a network made to look at, before there are ranks that would each say the same.
    """
    freeze_parts(model, freeze)
    check_lr_factors(model, lr_factors)


def factor_of(name: str, lr_factors: Mapping[str, float]) -> float:
    """Factor on a parameter's learning rate: that of the longest part it is in, else 1."""
    parts = [part for part in lr_factors if is_in(name, part)]
    return lr_factors[max(parts, key=lambda part: len(part.rstrip(".")))] if parts else 1.0


def check_lr_factors(model: nn.Module, lr_factors: Mapping[str, float]) -> None:
    """Raise ConfigError if a part in `optim.lr_factors` holds no parameter of the model."""
    check_parts(lr_factors, [name for name, _ in model.named_parameters()], "optim.lr_factors")


def check_parts(parts: Iterable[str], names: Sequence[str], path: str) -> None:
    """Raise ConfigError, with names that are near, if one of `parts` has none of `names` in it.

    Args:
        parts: Of the setting.
        names: Dotted, of a model's parameters or modules.
        path: Of the setting.
    """
    for part in parts:
        if not any(is_in(name, part) for name in names):
            pieces = (name.split(".") for name in names)
            known = {".".join(p[:end]) for p in pieces for end in range(1, len(p) + 1)}
            near = difflib.get_close_matches(part, sorted(known), n=3) or sorted(
                {name.partition(".")[0] for name in known}
            )
            raise ConfigError(f"{path}: the model has no {part!r}; near it: {', '.join(near[:10])}")
