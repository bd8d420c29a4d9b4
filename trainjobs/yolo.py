"""`python -m trainjobs.yolo`: train a YOLOv5 detector."""

import sys

from trainjobs.config import (
    AugmentConfig,
    DataConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from trainjobs.demo import Demo
from trainjobs.job import run_job

DEMO = Demo(
    config=TrainConfig(
        epochs=20,
        batch_size_per_worker=16,
        data=DataConfig(image_size=128),
        model=ModelConfig(name="yolov5n"),
        augment=AugmentConfig(mosaic=0.5, close_mosaic=4),
        # Four classes only: the usual gain, scaled by classes / 80, would hardly train them.
        loss=LossConfig(cls=2.0),
        # Short: Adam needs fewer steps than SGD from scratch, and the EMA has to settle in time.
        optim=OptimConfig(
            name="adamw",
            lr=0.002,
            final_lr_fraction=0.05,
            warmup_epochs=1.0,
            warmup_bias_lr=0.01,
            nominal_batch_size=16,
            ema_warmup_steps=200,
        ),
        eval=EvalConfig(every_epochs=7),
    ),
    note="no --data given: training on generated shapes with the demo recipe, which flags override",
)


def main() -> int:
    """Train as the command line says. Returns the exit code."""
    return run_job(sys.argv[1:], "yolo", DEMO, print)


if __name__ == "__main__":
    sys.exit(main())
