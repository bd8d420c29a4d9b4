"""Classification networks by name, and what is refused before a run starts."""

import pytest
import torch

from cluster.errors import ConfigError
from tests.classifiers import make_classifier_config
from trainjobs.classifier.models import (
    build_classifier,
    check_image_size,
    check_model_name,
    has_small_stem,
    output_keys,
)
from trainjobs.config import TrainConfig

# Source: torchvision's resnet18 has 11,689,512 for 1000 classes, of which 513,000 in the last layer.
RESNET18_WITH_10_OUTPUTS = 11_689_512 - 513_000 + 513 * 10
SMALLER_STEM = 64 * 3 * (7 * 7 - 3 * 3)


def make(name: str = "resnet18", size: int = 32, stem: str = "auto") -> TrainConfig:
    return make_classifier_config({"model.name": name, "model.stem": stem, "data.image_size": size})


def num_weights(config: TrainConfig) -> int:
    return sum(weight.numel() for weight in build_classifier(config, 10).parameters())


def test_a_resnet18_has_the_published_number_of_weights() -> None:
    assert num_weights(make(stem="standard")) == RESNET18_WITH_10_OUTPUTS == 11_181_642
    assert num_weights(make(stem="small")) == RESNET18_WITH_10_OUTPUTS - SMALLER_STEM == 11_173_962


@pytest.mark.parametrize(
    ("name", "size", "stem", "is_small"),
    [
        ("resnet18", 32, "auto", True),
        ("resnet18", 64, "auto", True),
        ("resnet18", 65, "auto", False),
        ("resnet18", 32, "standard", False),
        ("resnet18", 224, "small", True),
        ("wide_resnet50_2", 32, "auto", True),
        ("resnext50_32x4d", 32, "auto", True),
        ("vgg11", 32, "auto", False),
        ("fastnet", 32, "auto", False),
    ],
)
def test_a_resnet_has_a_small_stem_up_to_64_px_or_as_asked(
    name: str, size: int, stem: str, is_small: bool
) -> None:
    assert has_small_stem(make(name, size, stem)) == is_small


def test_a_small_stem_keeps_the_resolution_and_the_standard_one_has_a_quarter() -> None:
    images = torch.zeros(1, 3, 32, 32)
    for stem, side in (("small", 32), ("standard", 8)):
        network = build_classifier(make(stem=stem), 10)
        assert network.maxpool(network.conv1(images)).shape == (1, 64, side, side)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet19", "resnet18"),
        ("ResNet50", "resnet50"),
        ("fastnett", "fastnet"),
        ("xyz", "fastnet"),
    ],
)
def test_an_unknown_model_is_an_error_that_names_near_ones(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.name: .*'{name}'.*{near}"):
        check_model_name(name)


@pytest.mark.parametrize("name", ["resnet18", "fastnet", "fastnet_s", "regnet_x_400mf", "vit_b_16"])
def test_a_model_that_takes_32_px_passes(name: str) -> None:
    check_image_size(make(name))


@pytest.mark.parametrize("name", ["alexnet", "inception_v3", "maxvit_t", "vit_h_14"])
def test_a_model_that_cannot_take_the_size_is_an_error_that_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.image_size: {name} cannot take 32 px"):
        check_image_size(make(name))


@pytest.mark.parametrize("name", ["fastnet_s", "vgg11"])
def test_a_small_stem_is_for_resnets_alone(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.stem: {name}"):
        check_image_size(make(name, stem="small"))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("fastnet_s", {"head.weight"}),
        ("resnet18", {"fc.weight", "fc.bias"}),
        ("regnet_x_400mf", {"fc.weight", "fc.bias"}),
    ],
)
def test_the_weights_that_depend_on_the_classes_are_the_last_layers(
    name: str, keys: set[str]
) -> None:
    assert output_keys(make(name), 10) == keys


def test_a_look_at_the_shapes_leaves_later_networks_their_values() -> None:
    check_image_size(make())
    weights = build_classifier(make("fastnet_s"), 10).parameters()
    assert all(weight.device.type == "cpu" and weight.isfinite().all() for weight in weights)
