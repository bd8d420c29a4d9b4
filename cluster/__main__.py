"""`python -m cluster doctor`: look a cluster over before a long job."""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cluster.command import FAILED, SUCCESS, run_command
from cluster.config import ClusterConfig, ResourceRequest
from cluster.errors import ConfigError
from cluster.places import dataset_cache, in_job
from cluster.redact import redact


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check every node, what they share and what lies between them, for the job that is to come.

    A command after `--` is a job: its first 20 steps are taken, to say what an epoch takes
    (`doctor -- python -m trainjobs.yolo --data D`). Exit code 1 if a check failed.
    """

    resources: ResourceRequest = field(default_factory=ResourceRequest)
    tracking_uri: str | None = None
    """MLflow server. Default: MLFLOW_TRACKING_URI."""
    data: str | None = None
    """The dataset: a data.yaml, a folder or a URI."""
    address: str | None = None
    """Of the cluster, host:port. Default: RAY_ADDRESS, else the one on this machine, else an
    embedded one."""
    cost_per_hour: float | None = None
    """What all nodes cost an hour, to say what an epoch costs; in any currency."""
    json: bool = False
    """Print JSON instead of a table."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    """Least important lines to show."""


def main(argv: Sequence[str]) -> int:
    """Run a command of this package. Returns the exit code."""

    def run() -> int:
        # Not at the top: these need packages that `run_command` looks for first.
        import tyro  # noqa: PLC0415

        from cluster.logs import configure_logging  # noqa: PLC0415

        options, job = split_job(argv)
        command = tyro.extras.subcommand_cli_from_dict(
            {"doctor": Doctor},
            args=options,
            prog="python -m cluster",
            config=(tyro.conf.OmitArgPrefixes,),
        )
        configure_logging(command.log_level)
        return _doctor(command, job)

    return run_command(run)


def split_job(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The options before `--`, and the command after it."""
    if "--" not in argv:
        return list(argv), ()
    end = argv.index("--")
    if end + 1 == len(argv):
        raise ConfigError("after `--` comes a job's command, such as python -m trainjobs.yolo")
    if shutil.which(argv[end + 1]) is None:
        raise ConfigError(f"{argv[end + 1]}: no such command")
    return list(argv[:end]), tuple(argv[end + 1 :])


def _doctor(command: Doctor, job: tuple[str, ...]) -> int:
    # Ray loads here: help and mistakes in the command line answer before.
    from cluster.doctor import Subject, examine  # noqa: PLC0415
    from cluster.storage import is_uri, resolve_storage  # noqa: PLC0415
    from cluster.verdicts import is_ok, table  # noqa: PLC0415

    storage = resolve_storage(
        command.resources.storage, environ=os.environ, cwd=Path.cwd(), in_job=in_job()
    )
    data = command.data
    subject = Subject(
        resources=dataclasses.replace(command.resources, storage=storage),
        tracking_uri=command.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"),
        data=data if data is None or is_uri(data) else str(Path(data).absolute()),
        cache=dataset_cache(),
        job=job,
        cost_per_hour=command.cost_per_hour,
    )
    checks = examine(subject, ClusterConfig(address=command.address))
    if command.json:
        plain = [dataclasses.asdict(check) for check in checks]
        told = json.dumps({"ok": is_ok(checks), "checks": plain}, indent=1)
    else:
        told = "\n".join(table(checks))
    print(redact(told))
    return SUCCESS if is_ok(checks) else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
