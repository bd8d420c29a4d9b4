"""The wheel: what is in it, and that it works far from this repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

UV = os.environ.get("UV") or shutil.which("uv")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(UV is None, reason="needs uv, which builds the wheel"),
]

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("cluster", "trainjobs", "tuning")
METADATA = {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE"}
SMALL = (
    "--epochs", "1", "--image-size", "64", "--data.generated-images", "24",
    "--batch-size-per-worker", "8", "--num-workers", "1",
)  # fmt: skip


def uv(*arguments: str | Path) -> None:
    assert UV
    done = subprocess.run([UV, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--out-dir", folder, REPOSITORY)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel and what this one has, but not this repository."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    found = folder / "bin" / "python"
    uv("pip", "install", "--no-deps", "--python", found, wheel)
    # The .pth files of a folder that a .pth file names, such as an editable install's, do not count.
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return found


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_ADDRESS": "local", "TRAINJOBS_CACHE": str(folder / "cache")}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_it_holds_the_files_of_the_three_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    info = wheel.name.partition("-py3")[0] + ".dist-info/"
    files = {
        file.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for file in (REPOSITORY / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert set(names) == files | {info + name for name in METADATA}
    assert {name for name in names if name.endswith("py.typed")} == {
        f"{package}/py.typed" for package in PACKAGES
    }
    assert {"cluster/kuberay/rayjob.yaml", "cluster/slurm/train.sbatch"} <= set(names)


def test_its_code_is_what_runs(python: Path, tmp_path: Path) -> None:
    code = "import cluster, trainjobs, tuning; print(cluster.__file__, trainjobs.__file__)"
    done = run(python, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert all(str(python.parents[1]) in file for file in done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trainjobs.yolo", "--help"), "--optim.lr"),
        (("tuning.sweep", "--help"), "--num-trials"),
        (("cluster", "doctor", "--help"), "--tracking-uri"),
    ],
)
def test_its_commands_answer_in_an_empty_folder(
    python: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = run(python, tmp_path, "-m", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_trains(python: Path, tmp_path: Path) -> None:
    planned = run(python, tmp_path, "-m", "trainjobs.yolo", *SMALL, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "of weights and optimizer" in planned.stdout
    done = run(python, tmp_path, "-m", "trainjobs.yolo", *SMALL, "--run-name", "far")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs" / "far" / "result.json").read_text())
    assert (result["status"], result["epochs"]) == ("finished", 1)
