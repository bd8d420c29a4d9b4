"""The class names of a dataset. Their order decides the class ids; most formats match them by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cluster.errors import DatasetError

MAX_LISTED_NAMES = 30


class Columns(NamedTuple):
    """Columns of a table of images."""

    image: str = "image"
    label: str = "label"


DEFAULT_COLUMNS = Columns()


class ClassSource(NamedTuple):
    """Where the classes of a dataset for classification are looked for."""

    file: Path
    """That describes the dataset, for errors."""
    splits: dict[str, tuple[Path, ...]]
    """Folders or files of each split."""
    names: tuple[str, ...]
    """That its data.yaml has; empty: none."""
    columns: Columns


class FoundClasses(NamedTuple):
    """The classes of a dataset."""

    names: tuple[str, ...]
    """By class id."""
    notes: tuple[str, ...] = ()
    """What is odd about them."""


def unknown_class(name: object, names: Sequence[str]) -> str:
    """What to say of a label whose class is not among the names."""
    known = listed(names)
    return f"class {name!r:.60} is not among the {len(names)} names of the dataset: {known}"


def listed(names: Sequence[str]) -> str:
    """The names in a line, the first of them if there are many."""
    return ", ".join(names[:MAX_LISTED_NAMES]) + (", ..." if len(names) > MAX_LISTED_NAMES else "")


def read_names(file: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """Class names by class id, made up from `nc` where there are none.

    Raises:
        DatasetError: `names` or `nc` is missing, of a wrong kind, or they contradict each other.
    """
    names, num_classes = content.get("names"), content.get("nc")
    if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
        raise DatasetError(str(file), f"nc must be an integer >= 1, got {num_classes!r}")
    if names is None:
        if num_classes is None:
            raise DatasetError(str(file), "has no key 'names': the class names by class id")
        return tuple(f"class {class_id}" for class_id in range(num_classes))
    if isinstance(names, dict):
        names = _names_by_id(file, names)
    if not isinstance(names, list) or not names:
        raise DatasetError(str(file), "names must be a list, or a mapping of class id to name")
    for name in names:
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise DatasetError(str(file), f"names: {name!r} is not text; put it in quotes")
    texts = tuple(str(name) for name in names)
    repeated = sorted({name for name in texts if texts.count(name) > 1})
    if repeated:
        raise DatasetError(str(file), f"names must differ; twice or more: {', '.join(repeated)}")
    if num_classes not in (None, len(texts)):
        raise DatasetError(str(file), f"nc is {num_classes} but there are {len(texts)} names")
    return texts


def _names_by_id(file: Path, names: dict[Any, Any]) -> list[Any]:
    wanted = range(len(names))
    if any(type(key) is not int for key in names) or sorted(names) != list(wanted):
        found = ", ".join(map(str, names))
        reason = f"names must have the ids 0 to {len(names) - 1} without a gap, got {found}"
        raise DatasetError(str(file), reason)
    return [names[class_id] for class_id in wanted]
