"""A new run that goes on from another one: its newest epoch is copied into the new run's folder, where
the start of a run looks for checkpoints anyway."""

import logging
import tempfile
from pathlib import Path

from cluster.errors import CheckpointError, RunError, StorageError
from cluster.storage import RunPaths
from trainjobs.checkpoint import MANIFEST, STATE, TENSORS, load_state, replace_state
from trainjobs.run_folder import CHECKPOINTS, attempt_name, list_checkpoints

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""A run that still trains may delete a checkpoint while it is read; a newer one is there then."""


def fork_from(source: str, paths: RunPaths) -> None:
    """Copy the newest whole epoch of the run in folder `source` to the run of `paths`.

    Its history is kept; what was best is forgotten, because those weights are not copied.

    Raises:
        RunError: there is no run, or none of its checkpoints is whole and at the end of an epoch.
    """
    storage, _, name = source.rstrip("/").rpartition("/")
    donor = RunPaths(storage, name)
    for _ in range(ATTEMPTS):
        for relative in list_checkpoints(donor):
            with tempfile.TemporaryDirectory(prefix="trainjobs-fork-") as scratch:
                if _fetch(donor, relative, Path(scratch)):
                    target = f"{CHECKPOINTS}/{attempt_name(0)}/{relative.rpartition('/')[2]}"
                    for file in (TENSORS, STATE, MANIFEST):  # a folder without the last is ignored
                        paths.copy_from(Path(scratch) / file, f"{target}/{file}")
                    logger.info("going on from %s", donor.location(relative))
                    return
    raise RunError(
        f"checkpoint.start_from: {source} has no checkpoint at the end of an epoch; give the folder "
        "of a run that has trained at least one"
    )


def _fetch(donor: RunPaths, relative: str, folder: Path) -> bool:
    """Copy one checkpoint here. Returns whether it can be started from."""
    try:
        for file in (MANIFEST, STATE, TENSORS):
            (folder / file).write_bytes(donor.read_bytes(f"{relative}/{file}"))
        state = load_state(folder)
    except (CheckpointError, StorageError) as error:
        logger.warning("%s; trying the one before", error)
        return False
    if state.step != 0:
        return False
    state.best, state.best_epoch = None, None
    replace_state(folder, state)
    return True
