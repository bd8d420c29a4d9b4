"""The collection of faulty datasets beside the repository: each behaves as its table says."""

import re
from pathlib import Path

import pytest

from cluster.errors import ServiceError
from trainjobs.config import DataConfig
from trainjobs.data.prepare import prepare_dataset

COLLECTION = Path(__file__).parents[5] / "shared" / "data" / "bad"
TABLE_ROW = re.compile(r"^\| `(\w+)` \|.*?\| \*\*(.*?)\*\* \|", re.MULTILINE)


def required_behavior() -> dict[str, str]:
    table = COLLECTION / "README.md"
    return dict(TABLE_ROW.findall(table.read_text())) if table.is_file() else {}


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


@pytest.mark.skipif(not COLLECTION.is_dir(), reason=f"no {COLLECTION}")
@pytest.mark.parametrize(("name", "required"), required_behavior().items())
def test_a_faulty_dataset_behaves_as_required(name: str, required: str, tmp_path: Path) -> None:
    folder = COLLECTION / name
    before = stamps(folder)
    if required == "error (2)":
        with pytest.raises(ServiceError, match=re.escape(str(folder))):
            prepare_dataset(str(folder), tmp_path, DataConfig(), seed=0)
        assert stamps(folder) == before
        return
    prepared = prepare_dataset(str(folder), tmp_path, DataConfig(), seed=0)
    train = prepared.open("train")
    ids = [train.id(index) for index in range(len(train))]
    has_bad = any("bad." in image for image in ids)
    is_about_an_image = any(file.stem == "bad" and "images" in file.parts for file in before)
    is_listed = any("bad" in row.file for row in prepared.quarantine)
    assert has_bad == (required != "skip" and is_about_an_image)
    assert is_listed == (required != "train")
    assert all(train.read_image(index).shape[2] == 3 for index in range(len(train)))
    assert stamps(folder) == before
