"""Run a job's command from argv to exit code: parse, launch, summarize. Each job's module calls it."""

import logging
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.command import SUCCESS, run_command
from trainjobs.demo import Demo
from trainjobs.interrupt import Interrupted

if TYPE_CHECKING:
    from trainjobs.command_line import Command
    from trainjobs.run_folder import RunResult

logger = logging.getLogger(__name__)


def run_job(argv: Sequence[str], job: str, demo: Demo, show: Callable[[str], None]) -> int:
    """Train as `argv` says; `show` prints the result.

    Returns:
        0 done, 1 the run failed, 2 a mistake of the user's, 128 + signal if interrupted.
    """

    def run() -> int:
        # Not at the top: these need packages that `exit_code` looks for first.
        from cluster.logs import configure_logging  # noqa: PLC0415
        from trainjobs.command_line import parse  # noqa: PLC0415

        configure_logging()
        command = parse(argv, job, demo)
        configure_logging(command.log_level)
        if command.run.data.source is None:
            logger.info("%s", demo.note)
        return _run(command, job, show)

    return exit_code(run)


def exit_code(run: Callable[[], int]) -> int:
    """`run_command`, for commands that a second Ctrl-C or SIGTERM ends at once."""

    def run_until_interrupted() -> int:
        try:
            return run()
        except Interrupted as interrupted:
            return 128 + interrupted.signum

    return run_command(run_until_interrupted)


def _run(command: "Command", job: str, show: Callable[[str], None]) -> int:
    # Torch and Ray load here: help and mistakes in the command line answer before.
    from trainjobs.launch import launch  # noqa: PLC0415
    from trainjobs.preview import preview  # noqa: PLC0415

    if command.dry_run:
        show(preview(command.run, job=job))
        return SUCCESS
    result = launch(command.run, job=job)
    show(summary(result))
    return SUCCESS if result.status != "interrupted" else 128 + (result.signal or signal.SIGINT)


def summary(result: "RunResult") -> str:
    """Where everything is, and what came out."""
    scores = "  ".join(f"{name} {value:.3f}" for name, value in result.metrics.items())
    lines = [
        f"run {result.run_name}: {result.status} after {result.epochs} epochs, "
        f"{result.optimizer_steps} steps, {result.wall_s:.0f} s "
        f"({result.images_per_second:.0f} images/s in training)",
        f"best       epoch {result.best_epoch}: {scores}" if scores else "",
        f"weights    {result.weights.get('best') or result.weights.get('last', 'none yet')}",
        f"folder     {result.folder}",
        f"MLflow     run {result.mlflow_run_id}" if result.mlflow_run_id else "",
    ]
    if result.status == "interrupted":
        lines.append(f"go on with the same command and --run-name {result.run_name}")
    return "\n".join(line for line in lines if line)
