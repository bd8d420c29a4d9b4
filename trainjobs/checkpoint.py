"""The whole state of a run <-> a directory; and weights files, which hold tensors and nothing else."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor, nn

from cluster.config_io import from_dict
from cluster.errors import CheckpointError
from cluster.storage import RunPaths, is_uri
from trainjobs.optim_config import Precision

logger = logging.getLogger(__name__)

FORMAT_VERSION = "1"
TENSORS, STATE, MANIFEST = "training.pt", "state.json", "manifest.json"


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Where a run stands, apart from its tensors. Equal on every rank between steps."""

    epoch: int = 0
    """Completed epochs."""
    step: int = 0
    """Completed steps of the current epoch."""
    updates: int = 0
    """Optimizer steps that changed the weights."""
    skipped_in_a_row: int = 0
    epoch_s: float = 0.0
    """Seconds of training spent in the current epoch."""
    precision: Precision | None = None
    """What it was last computed in; None: of a version that did not note it."""
    loss_sums: list[float] = field(default_factory=list)
    """Of the current epoch, if it was interrupted: loss terms summed over images, and the images."""
    best: float | None = None
    best_epoch: int | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    """A row of metrics.csv per completed epoch."""

    def close_epoch(self, row: dict[str, float], key_metric: float | None) -> bool:
        """Count an epoch as completed. Returns whether its weights are the best so far."""
        self.epoch, self.step, self.epoch_s, self.loss_sums = self.epoch + 1, 0, 0.0, []
        self.history.append(row)
        is_best = key_metric is not None and (self.best is None or key_metric > self.best)
        if is_best:
            self.best, self.best_epoch = key_metric, self.epoch
        return is_best


def save_checkpoint(folder: Path, state: TrainState, tensors: Mapping[str, Any]) -> None:
    """Write state, tensors and a manifest of their checksums into the empty `folder`.

    The manifest comes last: a folder without one, or with one that disagrees, is not a checkpoint.
    """
    torch.save(dict(tensors), folder / TENSORS)
    replace_state(folder, state)


def replace_state(folder: Path, state: TrainState) -> None:
    """Write the state beside the tensors in `folder`, and a manifest of both."""
    (folder / STATE).write_text(json.dumps({"format": FORMAT_VERSION, **asdict(state)}))
    sums = {name: _checksum(folder / name) for name in (TENSORS, STATE)}
    (folder / MANIFEST).write_text(json.dumps(sums))


def check_checkpoint(folder: Path) -> None:
    """Raise `CheckpointError` unless every file of `folder` is there as it was written."""
    try:
        sums = json.loads((folder / MANIFEST).read_text())
        damaged = [name for name in (TENSORS, STATE) if sums[name] != _checksum(folder / name)]
        foreign = sorted(set(sums) - {TENSORS, STATE})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(str(folder), f"incomplete checkpoint ({error})") from error
    if foreign:  # a checkpoint has its two files, and reads nothing that it names
        raise CheckpointError(str(folder), f"{MANIFEST} names other files: {foreign[:3]}")
    if damaged:
        raise CheckpointError(str(folder), f"damaged checkpoint: {', '.join(damaged)} changed")


def load_checkpoint(folder: Path, device: torch.device) -> tuple[TrainState, dict[str, Any]]:
    """State and tensors of a checkpoint.

    Raises:
        CheckpointError: it is incomplete, damaged or of another format.
    """
    state = load_state(folder)
    try:
        # weights_only: plain containers and tensors, no code from the file is run.
        tensors = torch.load(folder / TENSORS, map_location=device, weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise  # says nothing about the checkpoint
    except Exception as error:  # bytes that are no such file make torch raise anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(str(folder), f"{TENSORS} cannot be read: {reason}") from error
    if not isinstance(tensors, dict):
        raise CheckpointError(str(folder), f"{TENSORS} holds no tensors by name")
    return state, tensors


def load_state(folder: Path) -> TrainState:
    """State of a checkpoint that is whole.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    check_checkpoint(folder)
    try:
        raw = dict(json.loads((folder / STATE).read_text()))
        if (found := raw.pop("format", None)) != FORMAT_VERSION:
            raise ValueError(f"format {found}, this version reads {FORMAT_VERSION}")
        from_dict(TrainState, raw)  # to check it; built, its whole numbers would be floats
    except (ValueError, TypeError, RecursionError) as error:
        reason = "; ".join(str(error).splitlines())
        raise CheckpointError(str(folder), f"{STATE}: {reason}") from error
    return TrainState(**raw)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_weights(path: Path, state: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file of a model's state; `header` says what the model is."""
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, path, metadata={"format_version": FORMAT_VERSION, **header})


def decode_weights(data: bytes, source: str) -> dict[str, Tensor]:
    """Tensors of a weights file of this run.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(source, f"not a readable safetensors file ({error})") from error


def load_weights(location: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a weights file, by path or URI.

    Raises:
        CheckpointError: the file is missing, damaged, or no weights file of this service.
        StorageError: the URI does not answer.
    """
    if not is_uri(location):
        return _load_weights(Path(location), location)
    place, question, query = location.partition("?")  # an endpoint may follow the path
    folder, _, name = place.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="trainjobs-weights-") as scratch:
        copy = Path(scratch, "weights.safetensors")
        copy.write_bytes(RunPaths(folder + question + query, "").read_bytes(name))
        return _load_weights(copy, location)


def _load_weights(path: Path, location: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(location, f"not a readable safetensors file ({error})") from error
    if header.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            location,
            f"format_version {header.get('format_version')}, this version reads {FORMAT_VERSION}",
        )
    return tensors, header


def load_fitting(
    model: nn.Module, location: str, *, name: str, outputs: Collection[str]
) -> dict[str, Tensor]:
    """The tensors of a weights file that a network can start from: all, or all but the outputs.

    Args:
        model: to start; it is left as it is.
        location: path or URI of the file.
        name: of the model, for the error.
        outputs: names in its state of what depends on the classes.

    Raises:
        CheckpointError: the file cannot be read, or is of another model.
        StorageError: the URI does not answer.
    """
    tensors, header = load_weights(location)
    wanted = model.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    foreign = {k for k in wanted if k not in fitting}
    if odd := sorted(foreign - set(outputs)):
        found = header.get("model", "another model")
        reason = f"is of {found}, not of {name}"
        if found == name:
            with_stem = f", trained with model.stem {header['stem']}" if "stem" in header else ""
            reason = f"is of another {name}{with_stem}: {', '.join(odd[:3])} differ"
        raise CheckpointError(location, reason)
    if foreign:
        logger.warning(
            "%s has %s classes: its output layer is not used", location, header.get("classes")
        )
    return fitting
