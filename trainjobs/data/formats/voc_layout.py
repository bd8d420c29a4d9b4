"""Pascal VOC: an XML file per image, `<annotation>` with `<object>`s of a name and a box in px.

Corners are plain coordinates (width = xmax - xmin), without the shift by one of VOC's own tools.
`difficult` and `truncated` objects are objects like others; `<filename>` is not looked at, since
tools leave it behind when files are renamed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from cluster.errors import DatasetError
from trainjobs.data.exif import UPRIGHT
from trainjobs.data.formats.class_names import unknown_class
from trainjobs.data.formats.files import read_bytes
from trainjobs.data.formats.labels import (
    BadLabelsError,
    Box,
    LabeledSplit,
    Labels,
    SplitFiles,
    find_fault,
    to_norm,
)
from trainjobs.data.formats.orientation import find_orientation, turn_upright
from trainjobs.data.formats.stored import StoredImage, store_files

_LINE = "line"  # attribute of each element: where in the file it starts
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_voc(files: SplitFiles) -> LabeledSplit:
    """A split whose labels lie in an XML file per image; an image without one has no objects."""

    def read(image: StoredImage, height: int, width: int) -> Labels:
        xml_file = xml_path(image.file, files)
        if not xml_file.exists():
            return Labels()
        return read_annotation(xml_file, image.file, (height, width), files.names)

    images = files.images
    if files.is_shared:
        images = [image for image in images if xml_path(image, files).exists()]
    return LabeledSplit(images=store_files(images), read=read)


def voc_label_files(files: SplitFiles) -> list[Path]:
    """The XML file of each image, whether it exists or not."""
    return [xml_path(image, files) for image in files.images]


def xml_path(image: Path, files: SplitFiles) -> Path:
    """Where an image's XML lies: below `annotations` as the image lies below its folder."""
    assert files.annotations is not None
    below = (image.relative_to(f) for f in files.folders if image.is_relative_to(f))
    return files.annotations / next(below, Path(image.name)).with_suffix(".xml")


def read_annotation(
    file: Path, image: Path, upright: tuple[int, int], names: Sequence[str]
) -> Labels:
    """Read one XML file. Objects without area and repeated ones are dropped.

    Args:
        file: The XML file.
        image: That it is for.
        upright: The image's height and width.
        names: Class names by class id.

    Raises:
        DatasetError: An object's class is not in `names`.
        BadLabelsError: Any other fault; the row is the line on which the object starts.
    """
    root = parse_xml(file)
    if root.tag != "annotation":
        raise BadLabelsError(str(file), f"is no VOC annotation, but <{root.tag[:40]}>")
    stated = _side(root, "size/height", file), _side(root, "size/width", file)
    orientation = find_orientation(image, stated, upright, file)
    height, width = upright if orientation == UPRIGHT else upright[::-1]
    class_ids = {name: class_id for class_id, name in enumerate(names)}
    labels = Labels(file)
    for found in root.findall("object"):
        row = int(found.attrib[_LINE])
        name = (found.findtext("name") or "").strip()
        if name not in class_ids:
            raise DatasetError(str(file), unknown_class(name, names), row)
        box = _read_box(found, file, row)
        fault = find_fault(box, height, width)
        if fault is not None:
            raise BadLabelsError(str(file), fault, row)
        labels.add(row, class_ids[name], to_norm(box, height, width))
    turn_upright(labels, orientation)
    return labels


def parse_xml(file: Path) -> Element:
    """The root of an XML file; each element's only attribute is its line.

    A file with a DOCTYPE is refused before it is read: without one, no entity can be declared, so
    none can grow beyond bounds or name another file.

    Raises:
        BadLabelsError: It cannot be read, is not XML, or has a DOCTYPE.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def start(tag: str, _attributes: dict[str, str]) -> None:
        builder.start(tag, {_LINE: str(parser.CurrentLineNumber)})

    def refuse(*_: Any) -> None:
        reason = "has a DOCTYPE, which may define entities; remove it"
        raise BadLabelsError(str(file), reason, parser.CurrentLineNumber)

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(read_bytes(file), True)
        return builder.close()
    except expat.ExpatError as error:
        reason = f"is not XML: {expat.ErrorString(error.code)}"
        raise BadLabelsError(str(file), reason, error.lineno) from error
    except (LookupError, ValueError) as error:  # an encoding that Python or expat does not know
        raise BadLabelsError(str(file), f"is not XML: {error}") from error
    except DatasetError as error:
        raise BadLabelsError(str(file), error.reason, error.row) from error


def _side(root: Element, path: str, file: Path) -> float | None:
    element = root.find(path)
    return None if element is None else _number(element, file)


def _read_box(found: Element, file: Path, row: int) -> Box:
    corners = [found.find(f"bndbox/{corner}") for corner in _CORNERS]
    missing = [name for name, corner in zip(_CORNERS, corners, strict=True) if corner is None]
    if missing:
        raise BadLabelsError(str(file), f"<bndbox> has no {', '.join(missing)}", row)
    x1, y1, x2, y2 = (_number(corner, file) for corner in corners if corner is not None)
    return x1, y1, x2, y2


def _number(element: Element, file: Path) -> float:
    try:
        return float(element.text or "")
    except ValueError as error:
        reason = f"<{element.tag}> is no number: {element.text!r:.40}"
        raise BadLabelsError(str(file), reason, int(element.attrib[_LINE])) from error
