"""`python -m cluster doctor`: look a cluster over before a long job."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cluster.config import ClusterConfig, ResourceRequest
from cluster.errors import ServiceError
from cluster.logs import configure_logging
from cluster.places import dataset_cache, in_job
from cluster.redact import redact
from cluster.storage import is_uri, resolve_storage

PASSED, FAILED, MISTAKE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check every node, what they share and what lies between them, for the job that is to come.

    Exit code 1 if a check failed.
    """

    resources: Annotated[ResourceRequest, tyro.conf.arg(name="")] = field(
        default_factory=ResourceRequest
    )
    tracking_uri: str | None = None
    """MLflow server. Default: MLFLOW_TRACKING_URI."""
    data: str | None = None
    """The dataset: a data.yaml, a folder or a URI."""
    address: str | None = None
    """Of the cluster, host:port. Default: RAY_ADDRESS, else the one on this machine, else an
    embedded one."""
    json: bool = False
    """Print JSON instead of a table."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    """Least important lines to show."""


def main(argv: Sequence[str]) -> int:
    """Run a command of this package. Returns the exit code."""
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            {"doctor": Doctor}, args=argv, prog="python -m cluster"
        )
        configure_logging(command.log_level)
        return _doctor(command)
    except ServiceError as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        return 130


def _doctor(command: Doctor) -> int:
    # Ray loads here: help and mistakes in the command line answer before.
    from cluster.doctor import Subject, examine  # noqa: PLC0415
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
    )
    checks = examine(subject, ClusterConfig(address=command.address))
    if command.json:
        plain = [dataclasses.asdict(check) for check in checks]
        told = json.dumps({"ok": is_ok(checks), "checks": plain}, indent=1)
    else:
        told = "\n".join(table(checks))
    print(redact(told))
    return PASSED if is_ok(checks) else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
