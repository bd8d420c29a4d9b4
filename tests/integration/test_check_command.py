"""`python -m trainjobs.pack --check` as a user runs it: text, pictures, report and exit code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainjobs.check_data import PICTURES, REPORT
from trainjobs.data.generated.shapes import generate_shapes

pytestmark = pytest.mark.integration


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    generate_shapes(folder, num_train=6, num_val=4, image_size=32, seed=0)
    return folder


def run_pack(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainjobs.pack", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def content(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_dataset_is_reported_on_and_drawn_again(source: Path, tmp_path: Path) -> None:
    train, val = source / "images" / "train", source / "images" / "val"
    copy = shutil.copy(train / "000001.jpg", train / "copy.jpg")
    leak = shutil.copy(train / "000002.jpg", val / "leak.jpg")
    before = content(source)
    done = run_pack("--check", str(source), "--image-size", "64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train and val share 1 images" in done.stdout
    assert "< 8 px at 64" in done.stdout
    assert "a run would start" in done.stdout
    folder = tmp_path / "data-check"
    assert {file.name for file in folder.iterdir()} == {REPORT, *PICTURES}
    report = json.loads((folder / REPORT).read_text())
    assert report["splits"]["train"]["num_images"] == 7 and len(report["leaks"]) == 1
    assert content(source) == before

    Path(copy).unlink()
    Path(leak).unlink()
    assert run_pack("--check", str(source), cwd=tmp_path).returncode == 0
    assert {"leaks.png", "duplicates.png"}.isdisjoint(file.name for file in folder.iterdir())


def test_a_dataset_that_a_run_would_refuse_is_a_failure(source: Path, tmp_path: Path) -> None:
    for number in range(11):
        (source / "images" / "val" / f"bad{number}.jpg").write_bytes(b"")
    done = run_pack("--check", str(source), "--output", "out", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "not fit for a run: val: 11 of 15 images cannot be used" in done.stdout
    assert (tmp_path / "out" / "samples.png").is_file()


def test_mistakes_on_the_command_line_are_told(source: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--check", str(source)), "inside the dataset"),
        (("--check", str(source), "elsewhere"), "--check packs nothing"),
        ((str(source),), "give SRC and DST"),
    ):
        done = run_pack(*arguments, cwd=source)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr and "Traceback" not in done.stderr
