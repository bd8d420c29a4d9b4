"""Image folders: `train/<class>/.../a.jpg`. The first folder below the split's is the class."""

from collections.abc import Mapping
from pathlib import Path

from cluster.errors import DatasetError
from trainjobs.data.formats.class_names import ClassSource, FoundClasses, unknown_class
from trainjobs.data.formats.files import has_images, is_utf8
from trainjobs.data.formats.labels import (
    BadLabelsError,
    LabeledSplit,
    Labels,
    SplitFiles,
    label_whole_image,
)
from trainjobs.data.formats.stored import StoredImage, store_files


def find_folder_classes(source: ClassSource) -> FoundClasses:
    """The names of the class folders, sorted, unless the source has names.

    Raises:
        DatasetError: train has no class folder; another split has one that train lacks; one is not
            among the names that the source has, or its name is not UTF-8.
    """
    found = {split: _class_folders(source, split) for split in source.splits}
    train = found["train"]
    if not train:
        reason = f"train: {source.splits['train'][0]} has no folder per class: train/<class>/a.jpg"
        raise DatasetError(str(source.file), reason)
    notes = []
    for split, folders in found.items():
        for name, folder in folders.items():
            if not is_utf8(name):
                raise DatasetError(ascii(str(folder)), "the name of a class must be UTF-8")
            if name not in train:
                raise DatasetError(str(folder), f"{split} has a class that train has not: {name!r}")
            if source.names and name not in source.names:
                raise DatasetError(str(folder), unknown_class(name, source.names))
        notes += _empty_folders(split, folders)
    return FoundClasses(source.names or tuple(sorted(train)), tuple(notes))


def _class_folders(source: ClassSource, split: str) -> dict[str, Path]:
    """Class -> a folder of it."""
    found: dict[str, Path] = {}
    for entry in source.splits[split]:
        if not entry.is_dir():
            reason = f"{split}: must be a folder with a folder per class, got {entry}"
            raise DatasetError(str(source.file), reason)
        below = (path for path in sorted(entry.iterdir()) if path.is_dir())
        found |= {path.name: path for path in below if not path.name.startswith(".")}
    return found


def _empty_folders(split: str, folders: Mapping[str, Path]) -> list[str]:
    empty = [name for name, folder in folders.items() if not has_images(folder)]
    return [f"{split}: no image in the folder of {', '.join(empty)}"] if empty else []


def open_folders(files: SplitFiles) -> LabeledSplit:
    """A split whose images are of the class whose folder they are in."""
    class_ids = {name: class_id for class_id, name in enumerate(files.names)}

    def read(image: StoredImage, _height: int, _width: int) -> Labels:
        folder, *below = _below(image.file, files)
        if not below:
            reason = "lies in no folder of a class"
            raise BadLabelsError(str(image.file), reason)
        if folder not in class_ids:
            raise DatasetError(str(image.file), unknown_class(folder, files.names))
        return label_whole_image(class_ids[folder])

    # Hidden folders are no classes: tools keep previews of images in them.
    shown = [image for image in files.images if not _below(image, files)[0].startswith(".")]
    return LabeledSplit(images=store_files(shown), read=read)


def _below(image: Path, files: SplitFiles) -> tuple[str, ...]:
    """The parts of an image's path below its split's folder."""
    return next(image.relative_to(f).parts for f in files.folders if image.is_relative_to(f))
