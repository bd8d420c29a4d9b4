"""The generated dataset for classification: ten shapes, which only their outline tells apart."""

from pathlib import Path

import cv2
import numpy as np

from trainjobs.data.generated.thumbnails import THUMBNAIL_NAMES, generate_thumbnails


def make(folder: Path, seed: int = 0, num_train: int = 200, num_val: int = 100) -> Path:
    folder.mkdir()
    generate_thumbnails(folder, num_train=num_train, num_val=num_val, image_size=32, seed=seed)
    return folder


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) and classes (N,) of a split."""
    files = sorted(folder.glob("*/*.png"))
    classes = [THUMBNAIL_NAMES.index(file.parent.name) for file in files]
    return np.stack([cv2.imread(str(file)) for file in files]), np.array(classes)


def test_each_class_comes_as_often_and_splits_share_no_image(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    (train, classes), (val, _) = read(root / "train"), read(root / "val")
    assert np.bincount(classes).tolist() == [20] * 10
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in val}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [make(tmp_path / "a"), make(tmp_path / "b"), make(tmp_path / "c", seed=1)]
    contents = [[f.read_bytes() for f in sorted(folder.rglob("*.png"))] for folder in folders]
    assert contents[0] == contents[1] != contents[2]


def test_the_mean_color_does_not_tell_the_class(tmp_path: Path) -> None:
    root = make(tmp_path / "data", num_train=2000, num_val=500)
    (train, classes), (val, wanted) = read(root / "train"), read(root / "val")
    means = train.mean(axis=(1, 2)), val.mean(axis=(1, 2))
    # The nearest mean of a class, and the class of the 15 nearest images: both know no outline.
    centers = np.stack([means[0][classes == number].mean(axis=0) for number in range(10)])
    nearest = np.linalg.norm(means[1][:, None] - centers, axis=2).argmin(axis=1)
    closest = np.linalg.norm(means[1][:, None] - means[0], axis=2).argsort(axis=1)[:, :15]
    voted = np.array([np.bincount(votes).argmax() for votes in classes[closest]])
    assert (nearest == wanted).mean() < 0.3 and (voted == wanted).mean() < 0.3
