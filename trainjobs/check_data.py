"""`python -m trainjobs.pack --check SRC`: what a dataset holds, as text, in report.json and pictures.

Everything is read on this machine, without a cluster, and nothing of SRC is written.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from cluster.errors import ConfigError
from cluster.storage import RunPaths, is_uri
from trainjobs.config import DataConfig
from trainjobs.data.packed.cache import CachedShards, LocalShards
from trainjobs.data.packed.index import INDEX
from trainjobs.data.prepare import open_packed, packed_location
from trainjobs.data.sources import read_data_yaml
from trainjobs.data.survey.findings import find_refusals, find_warnings
from trainjobs.data.survey.reading import ReadDataset, read_packed, read_source
from trainjobs.data.survey.statistics import (
    QUANTILES,
    Survey,
    survey_dataset,
    tabulate_boxes,
)
from trainjobs.evaluation.survey_images import plot_repeats, plot_split_samples
from trainjobs.evaluation.survey_plots import plot_centers, plot_classes, plot_sizes
from trainjobs.evaluation.survey_text import class_table, left_out_text, size_table, split_table

REPORT = "report.json"
PICTURES = CLASSES, SIZES, CENTERS, SAMPLES, DUPLICATES, LEAKS = (
    "classes.png",
    "sizes.png",
    "centers.png",
    "samples.png",
    "duplicates.png",
    "leaks.png",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedDataset:
    """What a check found."""

    refusals: list[str]
    """Why a run should not or would not start; empty if nothing stands against it."""
    text: str
    """For people."""


def check_dataset(source: str, output: str | None, data: DataConfig) -> CheckedDataset:
    """Read a dataset, and write pictures and a report of it.

    Args:
        source: a packed dataset (its folder, index.json or URI), a data.yaml or its folder, or one
            that needs none.
        output: folder for them. Default: `<name of source>-check` in the working directory.
        data: the image size and the share of bad images that a run would have.

    Raises:
        ServiceError: the source cannot be read, or the folder not be written, or it lies in the source.
    """
    folder = Path(_absolute(output or f"{source_name(source)}-check")).resolve()
    location = packed_location(source)
    if location is None:
        spec = read_data_yaml(Path(source))
        entries = [entry for entries in spec.splits.values() for entry in entries]
        _check_output(folder, [spec.root, *(entry for entry in entries if entry.is_dir())])
        return _report(source, read_source(spec), folder, data)
    if not is_uri(location):
        _check_output(folder, [Path(location)])
    # What is fetched is read once: there is no use in keeping it.
    with tempfile.TemporaryDirectory(prefix="trainjobs-check-") as cache:
        remote = CachedShards(location, Path(cache), limit_bytes=0)
        fetch = remote if is_uri(location) else LocalShards(Path(location))
        return _report(source, read_packed(open_packed(location, fetch)), folder, data)


def source_name(source: str) -> str:
    """What a person calls a dataset: the name of its folder, or of a yaml that is not data.yaml."""
    path = PurePosixPath(urlsplit(source).path if is_uri(source) else _absolute(source))
    if path.name in ("data.yaml", INDEX):
        path = path.parent
    return (path.stem if path.suffix in (".yaml", ".yml") else path.name) or "dataset"


def _absolute(path: str) -> str:
    home = os.path.expanduser(path)  # noqa: PTH111  pathlib's raises for a user that is unknown
    return os.path.normpath(Path.cwd() / home)


def _check_output(folder: Path, places: Sequence[Path]) -> None:
    for place in places:
        if folder.is_relative_to(place.resolve()):
            raise ConfigError(
                f"the report would be written to {folder}, which is inside the dataset ({place}), "
                "where nothing is changed; give another folder: --output DIR"
            )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is no folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / REPORT).is_file():
        raise ConfigError(f"--output {folder} holds other files; give a new folder")


def _report(source: str, found: ReadDataset, folder: Path, data: DataConfig) -> CheckedDataset:
    survey = survey_dataset(found.names, found.contents, data.image_size)
    refusals = found.faults + find_refusals(survey, data.max_bad_fraction)
    warnings = found.unread + find_warnings(survey)
    report = {
        "source": source,
        "refusals": refusals,
        "warnings": warnings,
        "quantiles": QUANTILES,
        **asdict(survey),
        "left_out": {
            split: [asdict(row) for row in rows] for split, rows in found.left_out.items()
        },
    }
    files = RunPaths(str(folder), "")
    files.write_text(REPORT, json.dumps(report, indent=1))
    pictures = _draw(survey, found, folder)
    parts = [
        split_table(survey),
        class_table(survey),
        "" if survey.is_classification else size_table(survey),
        left_out_text(found.left_out),
        "\n".join(f"warning: {warning}" for warning in warnings),
        "\n".join([f"report: {folder}/{REPORT}", f"pictures: {', '.join(pictures)}"]),
        "\n".join(f"not fit for a run: {reason}" for reason in refusals) or "a run would start",
    ]
    return CheckedDataset(refusals=refusals, text="\n\n".join(part for part in parts if part))


def _draw(survey: Survey, found: ReadDataset, folder: Path) -> list[str]:
    """Draw what there is. Returns the pictures' names."""
    for name in PICTURES:  # of an earlier check
        (folder / name).unlink(missing_ok=True)
    boxes = {split: tabulate_boxes(part.records) for split, part in found.contents.items()}
    plot_classes(survey, folder / CLASSES)
    if not survey.is_classification:
        plot_sizes(boxes, survey.image_size, folder / SIZES)
        plot_centers(boxes, folder / CENTERS)
    if any(part.records for part in found.contents.values()):
        plot_split_samples(found, folder / SAMPLES)
    for repeats, name in ((survey.duplicates, DUPLICATES), (survey.leaks, LEAKS)):
        if repeats:
            plot_repeats(found, repeats, folder / name)
    return [name for name in PICTURES if (folder / name).is_file()]
