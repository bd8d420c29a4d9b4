"""What a user's `data.yaml` says: which images a dataset has, in which splits, and where labels lie.

A folder that needs no data.yaml is read as if it had one (`bare_folders`). Nothing of the user's is written.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.config_io import load_yaml
from cluster.errors import DatasetError
from trainjobs.data.formats.bare_folders import describe_folder
from trainjobs.data.formats.class_names import (
    DEFAULT_COLUMNS,
    ClassSource,
    Columns,
    FoundClasses,
    read_names,
)
from trainjobs.data.formats.files import list_images, normal_path
from trainjobs.data.formats.labels import SplitFiles
from trainjobs.data.formats.layouts import FORMATS

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
REQUIRED_SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSpec:
    """A data.yaml, read and checked; images and labels not yet."""

    file: Path
    """The data.yaml, or the folder that needs none."""
    root: Path
    """Absolute folder that its paths are relative to."""
    names: tuple[str, ...]
    """Class names by class id."""
    splits: dict[str, tuple[Path, ...]]
    """Folders and list files of each split, or files of many images, absolute."""
    format: str = "yolo"
    """A key of `FORMATS`."""
    annotations: dict[str, Path] = field(default_factory=dict)
    """JSON file (coco) or folder of XML files (voc) of each split, absolute."""
    columns: Columns = DEFAULT_COLUMNS
    """Of images and labels (parquet)."""
    notes: tuple[str, ...] = ()
    """What a person should know."""


def read_data_yaml(source: Path) -> DatasetSpec:
    """Read a data.yaml as YOLOv5 does, except that `path` is relative to the file's folder.

    Args:
        source: The file, or the folder that holds it, or one that needs none.

    Raises:
        DatasetError: Something in it is missing or wrong; names the file and the key.
        ConfigError: It is not YAML, not a mapping, or has a key twice.
    """
    file = normal_path(Path.cwd(), str(source))
    file, content, notes = _read_content(file)
    label_format = content.get("format", "yolo")
    if not isinstance(label_format, str) or label_format not in FORMATS:
        raise DatasetError(
            str(file), f"format must be {' or '.join(FORMATS)}, got {label_format!r:.40}"
        )
    kind = FORMATS[label_format]
    folder = file if file.is_dir() else file.parent
    root = normal_path(folder, str(content.get("path") or "."), file)
    may_lack_names = kind.find_classes and content.get("names") is content.get("nc") is None
    names = () if may_lack_names else read_names(file, content)
    splits = {
        split: _split_entries(file, root, split, content[split])
        for split in SPLITS
        if content.get(split) is not None
    }
    if kind.expand:
        splits = {s: tuple(f for e in found for f in kind.expand(e)) for s, found in splits.items()}
    for split in REQUIRED_SPLITS:
        if split not in splits:
            raise DatasetError(str(file), f"has no key {split!r}: the folder or list of its images")
        for entry in splits[split]:
            if not (entry.is_dir() or entry.is_file()):
                raise DatasetError(str(file), f"{split}: no such folder or file: {entry}")
    annotations = _read_annotations(file, root, label_format, content)
    columns, classes = _read_columns(file, content), FoundClasses(names)
    if kind.find_classes:
        classes = kind.find_classes(ClassSource(file, splits, names, columns))
    return DatasetSpec(
        file=file,
        root=root,
        names=classes.names,
        splits=splits,
        format=label_format,
        annotations=annotations,
        columns=columns,
        notes=notes + classes.notes,
    )


def log_notes(spec: DatasetSpec) -> None:
    """Tell, where a dataset is packed or checked, what a person should know."""
    for note in spec.notes:
        logger.warning("%s: %s", spec.file, note)


def _read_content(file: Path) -> tuple[Path, dict[str, Any], tuple[str, ...]]:
    """The data.yaml or the folder without one, what it says, and notes."""
    if file.is_dir() and not (file / "data.yaml").exists():
        return (file, *describe_folder(file))
    if file.is_dir():
        file /= "data.yaml"
    if not file.is_file():
        raise DatasetError(str(file), "no such file; data.source is a data.yaml or its folder")
    return file, load_yaml(file), ()


def _read_columns(file: Path, content: dict[str, Any]) -> Columns:
    given = {key: content[key] for key in Columns._fields if content.get(key) is not None}
    for key, name in given.items():
        if not isinstance(name, str):
            raise DatasetError(str(file), f"{key} must name a column, got {name!r:.40}")
    return Columns(**given)


def _read_annotations(
    file: Path, root: Path, label_format: str, content: dict[str, Any]
) -> dict[str, Path]:
    """Where labels lie that do not lie beside their images, by split."""
    found, wanted = content.get("annotations"), FORMATS[label_format].annotations
    if not wanted:
        if found is not None:
            raise DatasetError(str(file), "annotations are of format coco or voc; set `format`")
        return {}
    if content.get("names") is None:
        raise DatasetError(str(file), "has no key 'names': classes are matched by their names")
    if not isinstance(found, dict) or any(not isinstance(path, str) for path in found.values()):
        reason = f"annotations must give {wanted} for each split, got {found!r:.40}"
        raise DatasetError(str(file), reason)
    for split in REQUIRED_SPLITS:
        if split not in found:
            raise DatasetError(str(file), f"annotations has no key {split!r}: {wanted}")
    paths = {split: normal_path(root, path, file) for split, path in found.items()}
    for split, path in paths.items():
        if not path.exists():
            raise DatasetError(str(file), f"annotations: {split}: no such file or folder: {path}")
    return paths


def _split_entries(file: Path, root: Path, split: str, value: object) -> tuple[Path, ...]:
    entries = value if isinstance(value, list) else [value]
    texts = [entry for entry in entries if isinstance(entry, str)]
    if not texts or len(texts) < len(entries):
        reason = f"{split} must be a folder, a text file or a list of these, got {value!r}"
        raise DatasetError(str(file), reason)
    return tuple(_find_entry(root, entry, file) for entry in texts)


def _find_entry(root: Path, entry: str, file: Path) -> Path:
    path = normal_path(root, entry, file)
    if not path.exists() and entry.startswith("../"):
        # Exports of Roboflow say ../train/images for a folder beside the data.yaml; YOLOv5 knows.
        inside = normal_path(root, entry.removeprefix("../"), file)
        if inside.exists():
            return inside
    return path


def list_split(spec: DatasetSpec, split: str) -> list[Path]:
    """Absolute paths of a split's images, or of the files that hold them, in their order.

    Raises:
        DatasetError: The split is not in the data.yaml, a folder is gone, or it has no image.
    """
    if split not in spec.splits:
        raise DatasetError(str(spec.file), f"has no key {split!r}")
    if FORMATS[spec.format].expand:
        return list(spec.splits[split])
    return [image for entry in spec.splits[split] for image in list_images(entry, spec.root)]


def source_files(spec: DatasetSpec, split: str) -> list[Path]:
    """Images of a split and files of their labels: what a scan reads; some may not exist.

    Raises:
        DatasetError: As `list_split`.
    """
    files = split_files(spec, split)
    return files.images + FORMATS[spec.format].label_files(files)


def split_files(spec: DatasetSpec, split: str) -> SplitFiles:
    """Where a split's images and labels lie.

    Raises:
        DatasetError: As `list_split`, or its labels are not named.
    """
    images = list_split(spec, split)
    if FORMATS[spec.format].annotations and split not in spec.annotations:
        raise DatasetError(str(spec.file), f"annotations has no key {split!r}")
    folders = spec.splits[split]
    others = [entry for other in spec.splits if other != split for entry in spec.splits[other]]
    return SplitFiles(
        images=images,
        folders=folders,
        root=spec.root,
        names=spec.names,
        annotations=spec.annotations.get(split),
        columns=spec.columns,
        is_shared=any(
            folder.is_relative_to(other) or other.is_relative_to(folder)
            for folder in folders
            for other in others
        ),
    )
