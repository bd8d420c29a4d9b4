"""Classification networks by name: torchvision's, and the fast network for small images."""

import difflib
from typing import Any

import torch
from torch import nn

from cluster.errors import ConfigError
from trainjobs.classifier.fast_net import WIDTHS, FastNet
from trainjobs.config import TrainConfig
from trainjobs.shapes_alone import shapes_alone

SMALL_IMAGE_PX = 64
"""Up to this side a ResNet's usual stem, which shrinks by 4, leaves too little of an image."""
NUM_SUGGESTED = 3


def build_classifier(config: TrainConfig, num_outputs: int) -> nn.Module:
    """A new network by `model.name`, for images of `data.image_size`.

    Raises:
        ConfigError: there is no such model, or it has no small stem.
    """
    name, size = config.model.name, config.data.image_size
    check_model_name(name)
    if name in WIDTHS:
        if config.model.stem == "small":
            raise ConfigError(f"model.stem: {name} has no other stem; leave it at auto")
        return FastNet(num_outputs, WIDTHS[name])
    from torchvision import models  # noqa: PLC0415  seconds, and not every model needs it

    network: nn.Module = models.get_model(
        name, weights=None, num_classes=num_outputs, **_arguments(name, size)
    )
    if has_small_stem(config):
        if not isinstance(network, models.ResNet):
            raise ConfigError(f"model.stem: {name} is no ResNet and has no small stem; set auto")
        _shrink_stem(network)
    return network


def has_small_stem(config: TrainConfig) -> bool:
    """Whether the network is to keep the resolution of its images at first."""
    if config.model.stem != "auto":
        return config.model.stem == "small"
    is_resnet = config.model.name.startswith(("resnet", "resnext", "wide_resnet"))
    return is_resnet and config.data.image_size <= SMALL_IMAGE_PX


def check_model_name(name: str) -> None:
    """Raise ConfigError, with the nearest names, for a model that there is not."""
    if name in WIDTHS:
        return
    known = [*WIDTHS, *_torchvision_names()]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=NUM_SUGGESTED, cutoff=0.5)
        nearest = ", ".join(close or [*WIDTHS, "resnet18", "resnet50"])
        raise ConfigError(
            f"model.name: no classification model {name!r}; the nearest: {nearest} (and others of "
            "torchvision.models.list_models)"
        )


def check_image_size(config: TrainConfig) -> None:
    """Raise ConfigError for images, or a stem, that the network cannot take, by its shapes alone."""
    name, size = config.model.name, config.data.image_size
    try:
        with shapes_alone():
            network = build_classifier(config, 2)
        with torch.device("meta"):
            network(torch.empty(2, 3, size, size))
    except ConfigError:
        raise
    # torchvision's models check their input each in their own way.
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"data.image_size: {name} cannot take {size} px: {reason}") from error


def output_keys(config: TrainConfig, num_outputs: int) -> set[str]:
    """Names in the network's state of what depends on the number of outputs."""
    with shapes_alone():
        one, other = (
            build_classifier(config, number).state_dict()
            for number in (num_outputs, num_outputs + 1)
        )
    return {key for key, tensor in one.items() if tensor.shape != other[key].shape}


def _arguments(name: str, image_size: int) -> dict[str, Any]:
    """What a torchvision model must be told besides its outputs."""
    if name in ("googlenet", "inception_v3"):  # their auxiliary heads would train apart
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        return {"image_size": image_size}
    return {"input_size": (image_size, image_size)} if name.startswith("maxvit") else {}


def _shrink_stem(network: Any) -> None:
    """3x3 with stride 1 and no pooling. Source: He et al. 2016 (arXiv:1512.03385), section 4.2."""
    network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()


def _torchvision_names() -> list[str]:
    from torchvision import models  # noqa: PLC0415  seconds

    names: list[str] = models.list_models(module=models)
    return names
