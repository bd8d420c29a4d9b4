import logging

import pytest

from cluster.config_io import leaf_paths, merge
from cluster.errors import ConfigError
from trainjobs.config import TrainConfig
from trainjobs.yolov5_hyp import SETTINGS, read_hyp


def test_every_key_leads_to_a_setting_that_exists() -> None:
    assert set(SETTINGS.values()) <= set(leaf_paths(TrainConfig))


def test_keys_become_the_settings_that_mean_the_same() -> None:
    tree = read_hyp({"lr0": 0.02, "lrf": 0.1, "fliplr": 0.0, "anchor_t": 3.0}, "hyp.yaml")
    config = merge(TrainConfig(), tree)
    assert (config.optim.lr, config.optim.final_lr_fraction) == (0.02, 0.1)
    assert (config.augment.flip_horizontal, config.loss.anchor_threshold) == (0.0, 3.0)


def test_an_unknown_key_is_an_error_with_the_nearest_key() -> None:
    with pytest.raises(ConfigError, match=r"hyp.yaml: unknown key 'lr_0'.*lr0"):
        read_hyp({"lr_0": 0.1}, "hyp.yaml")


def test_a_key_without_meaning_here_is_named_only_where_it_would_do_something(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        read_hyp({"cls_pw": 1.0, "fl_gamma": 0.0}, "hyp.yaml")
        assert not caplog.records
        read_hyp({"cls_pw": 0.5, "fl_gamma": 0.0}, "hyp.yaml")
    assert "cls_pw" in caplog.text
    assert "fl_gamma" not in caplog.text
