"""TensorBoard's event files, one for each epoch's row of metrics.csv.

TensorBoard reads the files of a folder in the order of their names, so a run that is continued adds to
its curve, and an epoch that is trained again replaces its own points.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import ConfigError
from cluster.packages import RunEverywhere, lacking

NEEDED = {"tensorboard": "tensorboard"}
"""Module -> package; not one of those that every run needs."""


def check_tensorboard(run_everywhere: RunEverywhere) -> None:
    """Check, before a run starts, that every node can write event files.

    Raises:
        ConfigError: Names the hosts that cannot.
    """
    found = run_everywhere(lacking, NEEDED)
    if problems := [f"  {host}: {problem}" for host, problem in found.items() if problem]:
        raise ConfigError(
            "tracking.tensorboard needs a package that is missing; pip install tensorboard there, or "
            "leave the option off:\n" + "\n".join(problems)
        )


def event_file_name(epoch: int) -> str:
    """Name of the file of an epoch, from 1; names sort as epochs do."""
    return f"events.out.tfevents.{epoch:06d}"


def event_file(row: Mapping[str, float]) -> bytes:
    """Content of the file for a row of metrics.csv: a point for each metric, its step the epoch."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  its package is optional

    with tempfile.TemporaryDirectory(prefix="trainjobs-events-") as scratch:
        writer = SummaryWriter(scratch)
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name, value, global_step=int(row["epoch"]))
        writer.close()
        (file,) = Path(scratch).iterdir()
        return file.read_bytes()
