"""Small datasets for classification, as folders, Parquet and CIFAR's batches."""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from pyarrow.parquet import write_table

from trainjobs.data.formats.cifar_batches import CifarFiles


def make_png(number: int) -> bytes:
    """An image of 12 x 16 px in a color of its own."""
    color = (number % 256, number // 256, 77)
    return cv2.imencode(".png", np.full((12, 16, 3), color, np.uint8))[1].tobytes()


def write_folders(root: Path, classes: Mapping[str, Sequence[str]], num_images: int = 2) -> Path:
    """Folder of a split -> its classes; each has so many images."""
    number = 0
    for split, names in classes.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            for image in range(num_images):
                (root / split / name / f"{image}.png").write_bytes(make_png(number))
                number += 1
    return root


def write_parquet(
    file: Path, images: Sequence[Any], labels: Any, *, group: int = 4, **metadata: object
) -> Path:
    """Columns `image` and `label`; metadata is written as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": images, "label": labels})
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    write_table(table.replace_schema_metadata(texts), file, row_group_size=group)
    return file


def python2_text(value: bytes) -> bytes:
    """A string of Python 2 in a pickle: BINSTRING."""
    return b"T" + struct.pack("<i", len(value)) + value


def python2_list(items: Sequence[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def python2_int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def python2_array(pixels: np.ndarray, code: bytes = b"u1") -> bytes:
    """As numpy 1 wrote an array under Python 2, protocol 2."""
    shape = b"".join(map(python2_int, pixels.shape))
    kind = b"cnumpy\ndtype\n" + python2_text(code) + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + python2_text(b"|") + b"NNN" + python2_int(-1) * 2 + b"K\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python2_text(b"b")
    state = b"(K\x01(" + shape + b"t" + kind + b"\x89" + python2_text(pixels.tobytes()) + b"tb"
    return empty + b"\x87R" + state


def python2_pickle(content: Mapping[bytes, bytes]) -> bytes:
    """A dict whose values are pickled already."""
    items = b"".join(python2_text(key) + value for key, value in content.items())
    return b"\x80\x02}(" + items + b"u."


def make_batch(pixels: np.ndarray, labels: Sequence[int]) -> bytes:
    return python2_pickle(
        {
            b"batch_label": python2_text(b"a batch"),
            b"labels": python2_list([python2_int(label) for label in labels]),
            b"data": python2_array(pixels),
        }
    )


def write_cifar(folder: Path, files: Mapping[str, bytes]) -> CifarFiles:
    """Write files under the names of CIFAR-10, and give the sums by which they are known."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    return CifarFiles(
        title="CIFAR-10",
        folder=folder.name,
        train={name: sums[name] for name in sums if name.startswith("data")},
        test={name: sums[name] for name in sums if name.startswith("test")},
        meta={name: sums[name] for name in sums if name.endswith("meta")},
        names_key=b"label_names",
        labels_key=b"labels",
    )
