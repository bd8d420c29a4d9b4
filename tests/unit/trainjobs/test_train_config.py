"""Settings are checked when they are made, and travel through YAML unchanged."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config_io import (
    dump_yaml,
    from_dict,
    leaf_paths,
    parse_yaml,
    replace_at,
    to_dict,
    value_at,
)
from cluster.errors import ConfigError
from tests.builders import make_config
from trainjobs.config import RUN_NAME, TrainConfig

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "epochs": st.integers(1, 10**6),
    "run_name": st.none()
    | st.from_regex(RUN_NAME, fullmatch=True)
    | st.sampled_from(["no", "1e3", "null", "2026-11-21", "0x1", "1_0"]),
    "seed": st.integers(0, 2**32 - 1),
    "data.source": st.none() | TEXT,
    "data.also": st.lists(TEXT.map(lambda text: f"./{text}#0.5")).map(tuple),
    "data.loader_workers": st.just("auto") | st.integers(0, 64),
    "augment.scale": st.floats(0, 0.99),
    "optim.lr": st.floats(0, 10),
    "optim.lr_factors": st.dictionaries(TEXT, st.floats(0.01, 10), max_size=3),
    "optim.milestones": st.sets(st.integers(1, 99)).map(lambda found: tuple(sorted(found))),
    "model.freeze": st.lists(st.integers(0, 24) | TEXT).map(tuple),
    "optim.accumulate": st.just("auto") | st.integers(1, 64),
    "optim.images_per_step": st.none() | st.integers(1, 4096),
    "optim.precision": st.sampled_from(["auto", "fp32", "bf16", "fp16"]),
    "resources.num_workers": st.just("auto") | st.integers(1, 64) | st.sampled_from(["2", "1:2"]),
    "resources.cpus_per_worker": st.none() | st.floats(0.01, 64),
}
OUT_OF_RANGE = [
    ("epochs", 0),
    ("batch_size_per_worker", 0),
    ("seed", -1),
    ("seed", 2**32),
    ("data.image_size", 31),
    ("data.multi_scale", -0.1),
    ("data.multi_scale", 0.95),
    ("data.loader_workers", -1),
    ("data.max_bad_fraction", 1.1),
    ("data.generated_images", 0),
    ("augment.mosaic", 1.5),
    ("augment.close_mosaic", -1),
    ("augment.mosaic_window", -1),
    ("augment.mosaic_nine", 1.5),
    ("augment.mixup", -0.1),
    ("augment.perspective", 0.1),
    ("augment.cutout", 1.5),
    ("augment.scale", 1.0),
    ("augment.flip_horizontal", -0.1),
    ("loss.box", -1.0),
    ("loss.anchor_threshold", 0.5),
    ("loss.label_smoothing", 2.0),
    ("optim.lr", -0.1),
    ("optim.final_lr_fraction", 1.1),
    ("optim.start_lr_fraction", -0.1),
    ("optim.peak_fraction", 1.1),
    ("optim.gamma", 1.1),
    ("optim.step_epochs", 0),
    ("optim.momentum", 1.0),
    ("optim.weight_decay", -1e-4),
    ("optim.nominal_batch_size", 0),
    ("optim.accumulate", 0),
    ("optim.images_per_step", 0),
    ("optim.warmup_min_images", -1),
    ("optim.warmup_micro_batches", 0),
    ("optim.ema_decay", 1.1),
    ("optim.ema_warmup_steps", 0),
    ("eval.every_epochs", 0),
    ("eval.patience", -1),
    ("eval.confidence", 1.1),
    ("eval.nms_iou", -0.1),
    ("eval.max_detections", 0),
    ("checkpoint.every_epochs", 0),
    ("tracking.timeout_s", 0.0),
]


def through_yaml(config: TrainConfig) -> TrainConfig:
    return from_dict(TrainConfig, parse_yaml(dump_yaml(config), "test"))


@pytest.mark.parametrize(("path", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_an_error_that_names_path_and_value(
    path: str, value: float
) -> None:
    with pytest.raises(ConfigError) as raised:
        replace_at(TrainConfig(), path, value)
    assert str(raised.value).startswith(f"{path} must be ")
    assert str(raised.value).endswith(f"got {value}")


@pytest.mark.parametrize("milestones", [(0, 3), (5, 3), (3, 3)])
def test_milestones_rise_from_epoch_1(milestones: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"optim.milestones must be rising"):
        make_config({"optim.milestones": milestones})


def test_multistep_needs_milestones() -> None:
    with pytest.raises(ConfigError, match=r"multistep needs optim.milestones"):
        make_config({"optim.schedule": "multistep"})


def test_a_factor_of_zero_is_refused_by_its_part() -> None:
    with pytest.raises(ConfigError, match=r"optim.lr_factors: model.0 must be in .*got 0"):
        make_config({"optim.lr_factors": {"model.0": 0.0}})


def test_a_saved_config_without_newer_settings_has_their_defaults() -> None:
    tree = to_dict(TrainConfig())
    del tree["model"]["freeze"], tree["optim"]["lr_factors"], tree["optim"]["nesterov"]
    assert from_dict(TrainConfig, tree) == TrainConfig()


@pytest.mark.parametrize("path", ["optim.lr", "optim.momentum", "loss.box", "augment.scale"])
def test_nan_is_in_no_range(path: str) -> None:
    section, name = path.split(".")
    settings_type = type(getattr(TrainConfig(), section))
    with pytest.raises(ConfigError, match=path):
        settings_type(**{name: math.nan})


@settings(deadline=None, max_examples=60)
@given(changes=st.fixed_dictionaries({}, optional=CHANGES))
def test_config_to_yaml_to_config_is_the_identity(changes: dict[str, object]) -> None:
    config = make_config(changes)
    assert through_yaml(config) == config


def test_a_setting_of_every_section_can_be_read_by_its_path() -> None:
    config = TrainConfig()
    sections = {path.split(".")[0] for path in leaf_paths(TrainConfig) if "." in path}
    assert sections == {
        f.name
        for f in dataclasses.fields(config)
        if dataclasses.is_dataclass(getattr(config, f.name))
    }
    assert value_at(config, "optim.lr") == 0.01


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3  # type: ignore[misc]  # what is tested


def test_yolov5s_defaults_are_those_published() -> None:
    config = TrainConfig()
    assert (config.epochs, config.batch_size_per_worker, config.data.image_size) == (100, 16, 640)
    optim = config.optim
    assert (optim.lr, optim.final_lr_fraction, optim.momentum) == (0.01, 0.01, 0.937)
    assert (optim.weight_decay, optim.warmup_epochs, optim.warmup_bias_lr) == (5e-4, 3.0, 0.1)
    assert (config.loss.box, config.loss.cls, config.loss.obj) == (0.05, 0.5, 1.0)
    assert (config.eval.confidence, config.eval.nms_iou, config.eval.patience) == (0.001, 0.6, 100)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "a b", "-x" * 100])
def test_a_run_name_that_is_no_plain_folder_name_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"run_name must be"):
        TrainConfig(run_name=name)


@pytest.mark.parametrize("change", [("data.rect", True), ("data.multi_scale", 0.5)])
def test_a_graph_of_one_image_size_refuses_images_of_several(change: tuple[str, object]) -> None:
    config = replace_at(TrainConfig(), "optim.cuda_graph", True)
    with pytest.raises(ConfigError, match=r"optim.cuda_graph .*data.rect or data.multi_scale"):
        replace_at(config, *change)
