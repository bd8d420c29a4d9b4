"""Losses of classification: cross entropy, or one of the user's by import path.

A custom loss is called with outputs (B, C) and classes (B,) int64 and returns a scalar, a mean over
the images. If it is a class, `loss.options` are its arguments, otherwise they are added to each call.
If it has an `embedding_size`, outputs are (B, that) and are compared with each other, not with classes.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cluster.errors import ConfigError
from trainjobs.config import LossConfig

ClassLoss = Callable[[Tensor, Tensor], Tensor]


def build_loss(config: LossConfig, num_classes: int | None = None) -> ClassLoss:
    """The loss of (outputs, classes), a mean over images.

    Args:
        config: Which.
        num_classes: That a custom loss is tried out on. None: it is not.

    Raises:
        ConfigError: there is no such custom loss, it does not take the options, or fails.
    """
    if config.custom is None:
        if config.options:
            raise ConfigError("loss.options are those of loss.custom, which is not set")
        return functools.partial(functional.cross_entropy, label_smoothing=config.label_smoothing)
    if config.label_smoothing:
        raise ConfigError("loss.label_smoothing: has no effect on loss.custom; set it to 0")
    loss = _custom_loss(import_callable(config.custom), config.custom, config)
    if num_classes is not None:
        _try_out(loss, config.custom, num_classes)
    return loss


def _custom_loss(found: Callable[..., Any], path: str, config: LossConfig) -> ClassLoss:
    loss: ClassLoss
    try:
        if inspect.isclass(found):
            loss = found(**config.options)  # type: ignore[assignment]  # `_try_out` sees
        else:
            inspect.signature(found).bind(None, None, **config.options)
            loss = functools.partial(found, **config.options) if config.options else found
    # It is the user's code, which may fail in any way.
    except Exception as error:
        raise ConfigError(f"loss.options do not fit {path}: {error}") from error
    if isinstance(loss, nn.Module) and next(loss.parameters(), None) is not None:
        raise ConfigError(f"loss.custom: {path} has weights of its own; none are trained")
    # By identity: a user's object need not be hashable.
    adapters = [adapter for known, adapter in _SCORES_FOR.items() if known is found]
    if adapters:
        loss = functools.partial(adapters[0], loss)
    return loss


def import_callable(path: str) -> Callable[..., Any]:
    """What `package.module:name` (or `package.module.name`) names.

    Raises:
        ConfigError: there is no such module or name, or it cannot be called.
    """
    module_path, separator, name = path.rpartition(":" if ":" in path else ".")
    if not (separator and module_path and name):
        raise ConfigError(f"loss.custom must be like package.module:callable, got {path!r}")
    try:
        module = importlib.import_module(module_path)
    # It is the user's code, which may fail in any way.
    except Exception as error:
        raise ConfigError(
            f"loss.custom: cannot import {module_path!r} ({error}); it must be installed, or lie in "
            "the folder that the command is started in"
        ) from error
    try:
        found: Any = functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        raise ConfigError(f"loss.custom: {module_path} has no {name!r}") from error
    if not callable(found):
        raise ConfigError(f"loss.custom: {path} is a {type(found).__name__}, nothing to call")
    called: Callable[..., Any] = found
    return called


def embedding_size(loss: ClassLoss) -> int | None:
    """Outputs of the network that the loss compares with each other; None: they are classes.

    Raises:
        ConfigError: it is no number of outputs.
    """
    called = loss.func if isinstance(loss, functools.partial) else loss
    size = getattr(called, "embedding_size", None)
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ConfigError(f"loss.custom: embedding_size must be a whole number >= 1, got {size!r}")
    return size


def _try_out(loss: ClassLoss, path: str, num_classes: int) -> None:
    """Raise ConfigError unless a loss gives a number for four images, of the first and last classes."""
    outputs = torch.zeros(4, embedding_size(loss) or num_classes, requires_grad=True)
    try:
        value = loss(outputs, torch.tensor([0, 0, 1, num_classes - 1]))
    except Exception as error:
        raise ConfigError(
            f"loss.custom: {path} failed on 4 images of {num_classes} classes: {error}"
        ) from error
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        raise ConfigError(
            f"loss.custom: {path} must return a scalar tensor with a gradient, got {value!r}"
        )


def _with_one_hot(loss: Callable[..., Tensor], outputs: Tensor, classes: Tensor) -> Tensor:
    """1 is the target of an image's class, 0 of the others."""
    return loss(outputs, functional.one_hot(classes, outputs.shape[1]).to(outputs.dtype))


def _with_signs(loss: Callable[..., Tensor], outputs: Tensor, classes: Tensor) -> Tensor:
    """An image is to be near its class (+1) and apart from the others (-1).

    The loss asks for distances, which have no lower end if they are scores: softplus(-score) is
    positive, and least for the class of the highest score.
    """
    signs = torch.full_like(outputs, -1).scatter(1, classes[:, None], 1)
    return loss(functional.softplus(-outputs), signs)


_SCORES_FOR: dict[Callable[..., Any], Callable[..., Tensor]] = {
    nn.MSELoss: _with_one_hot,
    functional.mse_loss: _with_one_hot,
    nn.HingeEmbeddingLoss: _with_signs,
    functional.hinge_embedding_loss: _with_signs,
}
"""Losses of torch's whose targets are no classes -> how they are given theirs."""
