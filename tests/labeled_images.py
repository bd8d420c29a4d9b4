"""One dataset of small images, its labels written as YOLO, COCO and VOC; and a JPEG with EXIF."""

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT = 40, 32
NAMES = ("cat", "dog", "owl")

Corners = tuple[float, float, float, float]
Objects = dict[str, list[tuple[str, Corners]]]
"""Image file -> class name and x1, y1, x2, y2 in px of each object."""

OBJECTS: Objects = {
    "train/a.png": [("owl", (2, 3, 12, 23)), ("cat", (0, 0, 40, 32))],
    "train/b.png": [("dog", (10.5, 4.25, 30, 8))],
    "train/c.png": [],
    "val/d.png": [("cat", (5, 5, 9, 30)), ("cat", (5, 5, 10, 30))],
}

# In the order of their ids, which is neither that of NAMES nor alphabetical.
CATEGORIES = [
    {"id": 1, "name": "owl"},
    {"id": 7, "name": "cat"},
    {"id": 90, "name": "dog"},
    {"id": 0, "name": "animal"},
]
CATEGORY_IDS = {str(category["name"]): category["id"] for category in CATEGORIES}


def write_dataset(folder: Path, label_format: str, objects: Objects = OBJECTS) -> Path:
    """Images and labels; returns the data.yaml. May be called for each format in one folder."""
    for image in objects:
        file = folder / "images" / image
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    if label_format == "yolo":
        write_yolo(folder, objects)
    elif label_format == "coco":
        for split in ("train", "val"):
            write_json(folder, split, coco_content(split, objects))
    else:
        for image, found in objects.items():
            write_xml(folder, image, voc_text(found))
    return write_yaml(folder, label_format)


def write_yaml(folder: Path, label_format: str, **changes: object) -> Path:
    places = {"yolo": None, "coco": "coco/{}.json", "voc": "xml/{}"}[label_format]
    content: dict[str, object] = {"path": str(folder), "format": label_format}
    content |= {"train": "images/train", "val": "images/val", "names": list(NAMES)}
    if places:
        content["annotations"] = {split: places.format(split) for split in ("train", "val")}
    file = folder / f"{label_format}.yaml"
    file.write_text(json.dumps(content | changes))
    return file


def write_yolo(folder: Path, objects: Objects) -> None:
    for image, found in objects.items():
        file = (folder / "labels" / image).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for name, (x1, y1, x2, y2) in found:
            center = f"{(x1 + x2) / 2 / WIDTH:.6f} {(y1 + y2) / 2 / HEIGHT:.6f}"
            sides = f"{(x2 - x1) / WIDTH:.6f} {(y2 - y1) / HEIGHT:.6f}"
            rows.append(f"{NAMES.index(name)} {center} {sides}\n")
        file.write_text("".join(rows))


def coco_content(split: str, objects: Objects = OBJECTS) -> dict[str, list[dict[str, Any]]]:
    """Image ids count from 50, annotation ids from 1."""
    images, annotations = [], []
    for image_id, image in enumerate(objects, start=50):
        if not image.startswith(split):
            continue
        name = Path(image).name
        images.append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for label, (x1, y1, x2, y2) in objects[image]:
            bbox = [x1, y1, x2 - x1, y2 - y1]
            row = {"id": len(annotations) + 1, "image_id": image_id, "bbox": bbox}
            annotations.append(row | {"category_id": CATEGORY_IDS[label]})
    return {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}


def write_json(folder: Path, split: str, content: object) -> None:
    file = folder / "coco" / f"{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


def voc_text(objects: list[tuple[str, Corners]], width: int = WIDTH, height: int = HEIGHT) -> str:
    """The size stands on line 2, the objects from line 3 on, one a line."""
    lines = [
        "<annotation>",
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for name, (x1, y1, x2, y2) in objects:
        box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        lines.append(f"<object><name>{name}</name><bndbox>{box}</bndbox></object>")
    return "\n".join([*lines, "</annotation>\n"])


def write_xml(folder: Path, image: str, text: str) -> Path:
    file = (folder / "xml" / image).with_suffix(".xml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    """Put an EXIF segment with one entry, the orientation (tag 0x0112), after the JPEG's start."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]
