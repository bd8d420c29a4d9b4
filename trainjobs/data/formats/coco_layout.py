"""COCO: one JSON file per split with `images`, `annotations` and `categories`; boxes in px.

A category is matched to the data.yaml's names by its name; its id only ties annotations to it.
Several polygons of an object become one outline; a mask (RLE) becomes none.
"""

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from cluster.errors import DatasetError
from trainjobs.data.exif import UPRIGHT
from trainjobs.data.formats.class_names import unknown_class
from trainjobs.data.formats.coco_objects import CocoObject, FaultyObjectError, read_object
from trainjobs.data.formats.files import read_bytes
from trainjobs.data.formats.labels import BadLabelsError, LabeledSplit, Labels, SplitFiles
from trainjobs.data.formats.orientation import find_orientation, turn_upright
from trainjobs.data.formats.stored import StoredImage, store_files

MAX_SIDE_PX = 2**31


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image that the file lists, and the objects on it."""

    id: int | str
    file_name: str
    height: float | None
    width: float | None
    objects: list[CocoObject] = field(default_factory=list)


def open_coco(files: SplitFiles) -> LabeledSplit:
    """A split whose labels lie in one JSON file, which is read here.

    Raises:
        DatasetError: It is no COCO file; or an object's category is not among the names.
    """
    assert files.annotations is not None
    file = files.annotations
    content = _read_json(file)
    entries = _read_entries(content, file)
    dropped = _deal_objects(content, entries, files)
    by_image, missing = _locate(list(entries.values()), files)

    def read(image: StoredImage, height: int, width: int) -> Labels:
        return _read_labels(by_image.get(image.file, []), image.file, (height, width), file)

    images = files.images
    if files.is_shared:
        images = [image for image in images if image in by_image]
    stored = store_files(images)
    return LabeledSplit(images=stored, read=read, missing=missing, dropped=dropped)


def coco_label_files(files: SplitFiles) -> list[Path]:
    """The JSON file."""
    assert files.annotations is not None
    return [files.annotations]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(file))
    except ValueError as error:
        raise DatasetError(str(file), f"is not JSON: {error}") from error
    except RecursionError as error:
        raise DatasetError(str(file), "is nested too deeply") from error
    if not isinstance(content, dict):
        raise DatasetError(str(file), f"must hold an object, got a {type(content).__name__}")
    return content


def _list(content: dict[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list):
        raise DatasetError(str(file), f"has no list {key!r}; it is no COCO detection file")
    for number, item in enumerate(found, start=1):
        if not isinstance(item, dict):
            raise DatasetError(str(file), f"{key}: item {number} is no object but {item!r:.40}")
    return found


def _is_id(value: object) -> TypeGuard[int | str]:
    return type(value) in (int, str)


def _read_entries(content: dict[str, Any], file: Path) -> dict[int | str, _Entry]:
    entries: dict[int | str, _Entry] = {}
    for number, item in enumerate(_list(content, "images", file), start=1):
        key, name = item.get("id"), item.get("file_name")
        if not _is_id(key) or not isinstance(name, str) or not name:
            raise DatasetError(str(file), f"images: item {number} lacks an id or a file_name")
        if key in entries:
            raise DatasetError(str(file), f"images: id {key!r:.40} stands twice")
        height, width = (_side(item, side, number, file) for side in ("height", "width"))
        entries[key] = _Entry(key, name, height, width)
    return entries


def _side(item: dict[str, Any], key: str, number: int, file: Path) -> float | None:
    value = item.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < MAX_SIDE_PX:  # NaN is not
        raise DatasetError(str(file), f"images: item {number}: {key} is no size: {value!r:.40}")
    return float(value)


def _read_class_ids(
    content: dict[str, Any], files: SplitFiles, file: Path
) -> dict[int | str, int | str]:
    """Category id -> class id, or the name of a category that is no class."""
    class_ids = {name: class_id for class_id, name in enumerate(files.names)}
    found: dict[int | str, int | str] = {}
    for number, item in enumerate(_list(content, "categories", file), start=1):
        key, name = item.get("id"), item.get("name")
        if not _is_id(key) or not _is_id(name):
            raise DatasetError(str(file), f"categories: item {number} lacks an id or a name")
        class_id = class_ids.get(str(name), str(name))
        if found.setdefault(key, class_id) != class_id:
            raise DatasetError(str(file), f"categories: id {key!r:.40} has two names")
    return found


def _deal_objects(
    content: dict[str, Any], entries: dict[int | str, _Entry], files: SplitFiles
) -> list[tuple[int, str]]:
    """Put each annotation with its image.

    Returns:
        Id and reason of each that belongs to no image.

    Raises:
        DatasetError: A category is unknown.
    """
    file = files.annotations
    assert file is not None
    class_ids = _read_class_ids(content, files, file)
    dropped: list[tuple[int, str]] = []
    for number, item in enumerate(_list(content, "annotations", file), start=1):
        row = item["id"] if type(item.get("id")) is int else number
        image_id, category = item.get("image_id"), item.get("category_id")
        if not _is_id(image_id) or image_id not in entries:
            dropped.append((row, f"annotation {row}: no image has the id {image_id!r:.40}"))
            continue
        if not _is_id(category) or category not in class_ids:
            reason = f"annotation {row}: no category has the id {category!r:.40}"
            raise DatasetError(str(file), reason)
        class_id = class_ids[category]
        if isinstance(class_id, str):
            reason = f"annotation {row}: {unknown_class(class_id, files.names)}"
            raise DatasetError(str(file), reason)
        entries[image_id].objects.append(CocoObject(row, class_id, item))
    return dropped


def _locate(entries: list[_Entry], files: SplitFiles) -> tuple[dict[Path, list[_Entry]], list[str]]:
    """Find the image of each entry: its file_name is relative to a folder of the split, to the one
    above that, or to the dataset's root.

    Returns:
        Image -> its entries, of which there should be one; and the file_names without an image.

    Raises:
        DatasetError: A file_name could be two images.
    """
    images = {str(image): image for image in files.images}
    above = [folder.parent for folder in files.folders]
    places = dict.fromkeys(map(str, (*files.folders, *above, files.root)))
    by_image: dict[Path, list[_Entry]] = defaultdict(list)
    missing = []
    for entry in entries:
        name = entry.file_name.replace("\\", "/")  # as tools on Windows write it
        paths = (os.path.normpath(os.path.join(place, name)) for place in places)  # noqa: PTH118 - a Path is slow
        found = [images[path] for path in dict.fromkeys(paths) if path in images]
        if len(found) > 1:
            reason = f"images: {name!r:.60} may be {found[0]} or {found[1]}"
            raise DatasetError(str(files.annotations), reason)
        if found:
            by_image[found[0]].append(entry)
        else:
            missing.append(entry.file_name)
    return by_image, missing


def _read_labels(
    entries: list[_Entry], image: Path, upright: tuple[int, int], file: Path
) -> Labels:
    labels = Labels(file, unit="annotation")
    if not entries:
        return labels
    if len(entries) > 1:
        ids = ", ".join(f"{entry.id!r:.40}" for entry in entries)
        raise BadLabelsError(str(file), f"images: lists {image.name} more than once (ids {ids})")
    (entry,) = entries
    orientation = find_orientation(image, (entry.height, entry.width), upright, file)
    height, width = upright if orientation == UPRIGHT else upright[::-1]
    for found in entry.objects:
        try:
            read_object(found, height, width, labels)
        except FaultyObjectError as error:
            reason = f"annotation {found.row} on {image.name}: {error}"
            raise BadLabelsError(str(file), reason, found.row) from error
    turn_upright(labels, orientation)
    labels.dropped = [
        (row, f"annotation {row} on {image.name}: {why}") for row, why in labels.dropped
    ]
    return labels
