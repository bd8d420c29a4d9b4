"""Settings of a classifier's run where nothing else is said, and those that mean nothing to it."""

from trainjobs.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig, TrainConfig

DEFAULTS = TrainConfig(
    epochs=60,
    batch_size_per_worker=64,
    data=DataConfig(image_size=32),
    model=ModelConfig(name="resnet18"),
    # Shifts by an eighth (4 px of 32) and mirror images: what CIFAR's networks are trained with.
    augment=AugmentConfig(
        mosaic=0.0, mosaic_window=0, translate=0.125, scale=0.0, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0
    ),
    optim=OptimConfig(
        lr=0.05,
        final_lr_fraction=0.001,
        schedule="cosine",
        momentum=0.9,
        weight_decay=0.0005,
        warmup_epochs=1.0,
        warmup_bias_lr=0.0,
        ema_decay=0.999,
        ema_warmup_steps=200,
    ),
)
UNUSED = (
    "augment.mosaic",
    "augment.mosaic_nine",
    "augment.mosaic_window",
    "augment.mixup",
    "augment.close_mosaic",
    "augment.copy_paste",
    "data.rect",
    "data.multi_scale",
    "loss.box",
    "loss.cls",
    "loss.obj",
    "loss.anchor_threshold",
    "eval.confidence",
    "eval.nms_iou",
    "eval.max_detections",
)
"""Settings of detection: a run that is given another value than the default's would ignore it."""
