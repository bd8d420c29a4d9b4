"""`python -m tuning.sweep`: search for the best training config."""

import dataclasses
import logging
import secrets
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from cluster.command import SUCCESS
from cluster.config import ResourceRequest
from trainjobs.classify import DEMO as CLASSIFY_DEMO
from trainjobs.config import AugmentConfig, DataConfig
from trainjobs.demo import Demo
from trainjobs.job import exit_code
from trainjobs.yolo import DEMO as YOLO_DEMO

if TYPE_CHECKING:
    from tuning.conclusion import SweepResult

logger = logging.getLogger(__name__)

HALVES = ResourceRequest(num_workers=2, cpus_per_worker=0.5)
DEMOS = {
    "yolo": Demo(
        config=dataclasses.replace(
            YOLO_DEMO.config,
            epochs=9,
            batch_size_per_worker=8,
            data=DataConfig(image_size=96, generated_images=480),
            augment=AugmentConfig(mosaic=0.0),
            eval=dataclasses.replace(YOLO_DEMO.config.eval, every_epochs=1),
            resources=HALVES,
        ),
        note="no --train.data given: trials train on generated shapes with the demo recipe",
    ),
    "classify": Demo(
        config=dataclasses.replace(
            CLASSIFY_DEMO.config,
            epochs=4,
            batch_size_per_worker=32,
            data=dataclasses.replace(CLASSIFY_DEMO.config.data, generated_images=2000),
            resources=HALVES,
        ),
        defaults=CLASSIFY_DEMO.defaults,
        note="no --train.data given: trials train on generated thumbnails with the demo recipe",
    ),
}
"""Of each job; trials are short, and two workers on one CPU are as quick as one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Search as the command line says. Returns the exit code."""

    def run() -> int:
        # Not at the top: these need packages that `exit_code` looks for first.
        from cluster.logs import configure_logging  # noqa: PLC0415
        from tuning.command_line import parse  # noqa: PLC0415

        configure_logging()
        new_name = f"sweep-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)[:3]}"
        settings, command = parse(sys.argv[1:] if argv is None else argv, DEMOS, new_name)
        configure_logging(command.log_level)
        if settings.train.data.source is None and not command.config:
            logger.info("%s", DEMOS[settings.job].note)
        # Torch and Ray load here: help and mistakes in the command line answer before.
        from tuning.launch import launch_sweep  # noqa: PLC0415

        result = launch_sweep(settings)
        sys.stdout.write(summary(result) + "\n")
        if result.status == "interrupted":
            return 128 + (result.signal or signal.SIGINT)
        return SUCCESS

    return exit_code(run)


def summary(result: "SweepResult") -> str:
    """Where everything is, and what came out."""
    lines = [
        f"sweep {result.name}: {result.status} after {result.wall_s:.0f} s, {len(result.trials)} "
        f"trials; {result.utilization:.0%} of the workers' time in optimizer steps",
        result.verdict,
        f"best       {result.folder}/best.yaml: python -m trainjobs.{result.job} --config it"
        if result.best_config
        else "",
        f"retrained  {result.retrained}" if result.retrained else "",
        f"report     {result.folder}/report.html",
        f"MLflow     run {result.mlflow_run_id}" if result.mlflow_run_id else "",
    ]
    if result.status == "interrupted":
        lines.append(f"go on with: python -m tuning.sweep --resume {result.name}")
    return "\n".join(line for line in lines if line)


if __name__ == "__main__":
    sys.exit(main())
