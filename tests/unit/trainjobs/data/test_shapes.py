import hashlib
from pathlib import Path

import numpy as np
import pytest

from trainjobs.config import DataConfig
from trainjobs.data.generated.shapes import MIN_VISIBLE, SHAPE_NAMES, _claim, generate_shapes
from trainjobs.data.packed.shards import Split
from trainjobs.data.prepare import prepare_dataset

IMAGE_SIZE = 64
BLIND_LIMIT = 0.40
"""What a guesser that never looks at shape may score; chance is 0.25."""
NUM_NEIGHBORS = 15


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    cache = tmp_path_factory.mktemp("shapes")
    config = DataConfig(image_size=IMAGE_SIZE, generated_images=120)
    prepared = prepare_dataset(None, cache, config, seed=0)  # 200 validation images
    return prepared.open("train"), prepared.open("val")


def digest(folder: Path, num_val: int = 2, seed: int = 0) -> dict[str, str]:
    folder.mkdir()
    generate_shapes(folder, num_train=2, num_val=num_val, image_size=64, seed=seed)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_another_seed_gives_other_pictures(tmp_path: Path) -> None:
    first, second = digest(tmp_path / "a"), digest(tmp_path / "b", seed=1)
    same = {name for name in first if first[name] == second[name]}
    assert same == {"data.yaml"}


def test_the_splits_share_no_picture(tmp_path: Path) -> None:
    pictures = digest(tmp_path / "a")
    del pictures["data.yaml"]
    assert len(set(pictures.values())) == len(pictures)


def test_a_picture_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, many = digest(tmp_path / "a"), digest(tmp_path / "b", num_val=4)
    assert few.items() <= many.items()


def test_every_image_has_three_to_twelve_objects(splits: tuple[Split, Split]) -> None:
    counts = {len(split.labels(index)[0]) for split in splits for index in range(len(split))}
    assert counts <= set(range(3, 13))
    assert {3, 12} <= counts


def test_objects_lie_in_the_image_and_have_the_promised_sizes(
    splits: tuple[Split, Split],
) -> None:
    boxes = np.concatenate([splits[0].labels(index)[1] for index in range(len(splits[0]))])
    centers, sides = boxes[:, :2], boxes[:, 2:]
    rounding = 2e-6  # labels have six digits
    assert (centers - sides / 2).min() >= -rounding
    assert (centers + sides / 2).max() <= 1 + rounding
    longest = sides.max(axis=1)
    assert longest.min() >= 0.06 - rounding
    assert longest.max() <= 0.5 + rounding
    assert 0.12 < np.median(longest) < 0.25


def test_an_object_that_would_hide_another_is_refused() -> None:
    owners = np.zeros((40, 40), np.uint8)
    areas, visible = np.zeros((2, 4), np.int64)
    square = np.array([[6.0, 0], [15, 0], [15, 9], [6, 9]])  # 10 x 10 px
    to_right, to_left = np.array([6.0, 0]), np.array([-6.0, 3])
    assert _claim(owners, areas, visible, square, number=1)
    assert not _claim(owners, areas, visible, square + to_right - [1, 0], number=2)  # leaves half
    assert _claim(owners, areas, visible, square + to_right, number=2)
    assert visible[1] == 60 >= MIN_VISIBLE * areas[1]
    # This one alone would leave 72 px of the first, both together leave 32.
    assert not _claim(owners, areas, visible, square + to_left, number=3)


Samples = tuple[np.ndarray, np.ndarray]
"""Mean RGB inside each box (N, 3), and its class (N,)."""


def mean_colors(split: Split) -> Samples:
    colors, classes = [], []
    for index in range(len(split)):
        image = split.read_image(index)
        ids, boxes = split.labels(index)
        low = ((boxes[:, :2] - boxes[:, 2:] / 2) * IMAGE_SIZE).round().astype(int).clip(0)
        high = ((boxes[:, :2] + boxes[:, 2:] / 2) * IMAGE_SIZE).round().astype(int)
        for (x1, y1), (x2, y2) in zip(low, high, strict=True):
            colors.append(image[y1:y2, x1:x2].mean(axis=(0, 1)))
        classes.append(ids)
    return np.array(colors), np.concatenate(classes)


@pytest.fixture(scope="module")
def samples(splits: tuple[Split, Split]) -> tuple[Samples, Samples]:
    return mean_colors(splits[0]), mean_colors(splits[1])


def test_the_most_frequent_class_is_a_poor_guess(samples: tuple[Samples, Samples]) -> None:
    (_, known_classes), (_, asked_classes) = samples
    guess = np.bincount(known_classes).argmax()
    assert (asked_classes == guess).mean() < BLIND_LIMIT


def test_color_does_not_give_the_class_away(samples: tuple[Samples, Samples]) -> None:
    (known, known_classes), (asked, asked_classes) = samples
    distances = ((asked[:, None] - known) ** 2).sum(axis=2)
    nearest = known_classes[np.argsort(distances, axis=1)[:, :NUM_NEIGHBORS]]
    votes = (nearest[..., None] == np.arange(len(SHAPE_NAMES))).sum(axis=1)
    accuracy = (votes.argmax(axis=1) == asked_classes).mean()
    assert accuracy < BLIND_LIMIT
