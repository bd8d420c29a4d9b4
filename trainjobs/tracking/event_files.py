"""TensorBoard's event files, one for each epoch's row of metrics.csv.

TensorBoard reads the files of a folder in the order of their names, so a run that is continued adds to
its curve, and an epoch that is trained again replaces its own points.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path


def event_file_name(epoch: int) -> str:
    """Name of the file of an epoch, from 1; names sort as epochs do."""
    return f"events.out.tfevents.{epoch:06d}"


def event_file(row: Mapping[str, float]) -> bytes:
    """Content of the file for a row of metrics.csv: a point for each metric, its step the epoch."""
    from tensorboardX import SummaryWriter  # noqa: PLC0415  where nobody asks, it is not needed

    with tempfile.TemporaryDirectory(prefix="trainjobs-events-") as scratch:
        writer = SummaryWriter(scratch)
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name, value, global_step=int(row["epoch"]))
        writer.close()
        (file,) = Path(scratch).iterdir()
        return file.read_bytes()
