"""`python -m trainjobs.yolo`: train a YOLOv5 detector."""

import sys

from trainjobs.command_line import Demo
from trainjobs.config import (
    AugmentConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from trainjobs.job import run_job

DEMO = Demo(
    config=TrainConfig(
        epochs=14,
        batch_size_per_worker=16,
        data=DataConfig(image_size=160),
        model=ModelConfig(name="yolov5n"),
        augment=AugmentConfig(mosaic=0.5, close_mosaic=4),
        optim=OptimConfig(nominal_batch_size=16, warmup_epochs=1.0, ema_warmup_steps=100),
        eval=EvalConfig(every_epochs=2),
    ),
    note="no --data given: training the demo recipe (yolov5n at 160 px on generated shapes)",
)


def main() -> int:
    """Train as the command line says. Returns the exit code."""
    return run_job(sys.argv[1:], "yolo", DEMO, print)


if __name__ == "__main__":
    sys.exit(main())
