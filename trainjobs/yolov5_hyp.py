"""YOLOv5's hyp.yaml, read as it is: its keys by our settings' paths."""

import logging
from collections.abc import Mapping
from typing import Any

from cluster.config_io import Tree, unknown_name
from cluster.errors import ConfigError

logger = logging.getLogger(__name__)

SETTINGS = {
    "lr0": "optim.lr",
    "lrf": "optim.final_lr_fraction",
    "momentum": "optim.momentum",
    "weight_decay": "optim.weight_decay",
    "warmup_epochs": "optim.warmup_epochs",
    "warmup_momentum": "optim.warmup_momentum",
    "warmup_bias_lr": "optim.warmup_bias_lr",
    "box": "loss.box",
    "cls": "loss.cls",
    "obj": "loss.obj",
    "anchor_t": "loss.anchor_threshold",
    "label_smoothing": "loss.label_smoothing",
    "hsv_h": "augment.hsv_h",
    "hsv_s": "augment.hsv_s",
    "hsv_v": "augment.hsv_v",
    "degrees": "augment.degrees",
    "translate": "augment.translate",
    "scale": "augment.scale",
    "shear": "augment.shear",
    "flipud": "augment.flip_vertical",
    "fliplr": "augment.flip_horizontal",
    "perspective": "augment.perspective",
    "mosaic": "augment.mosaic",
    "mixup": "augment.mixup",
    "copy_paste": "augment.copy_paste",
}
"""Key of hyp.yaml -> path of the setting that means the same."""

WITHOUT_EFFECT: dict[str, float] = {
    "cls_pw": 1.0,
    "obj_pw": 1.0,
    "fl_gamma": 0.0,
}
"""Keys that have no setting here -> the value with which YOLOv5, too, does nothing."""
UNUSED = ("iou_t", "anchors")
"""Keys that YOLOv5's training does not use either, or that ours takes from the model."""


def read_hyp(hyp: Mapping[str, Any], source: str) -> Tree:
    """Settings, as a tree, from the content of a hyp.yaml.

    A key without meaning here is named in a warning, unless its value has no effect.

    Raises:
        ConfigError: a key that no hyp.yaml has.
    """
    tree: Tree = {}
    ignored = [key for key in UNUSED if key in hyp]
    for key, value in hyp.items():
        if key in SETTINGS:
            section, _, name = SETTINGS[key].partition(".")
            tree.setdefault(section, {})[name] = value
        elif key in WITHOUT_EFFECT:
            if value != WITHOUT_EFFECT[key]:
                ignored.append(key)
        elif key not in UNUSED:
            known = (*SETTINGS, *WITHOUT_EFFECT, *UNUSED)
            raise ConfigError(f"{source}: unknown key {key!r}; {unknown_name(str(key), known)}")
    if ignored:
        logger.warning("%s: no such setting here, ignored: %s", source, ", ".join(ignored))
    return tree
