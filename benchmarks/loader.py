"""CPU time per training image of our loader and of YOLOv5's, in one run, on the same images.

    python -m benchmarks.loader [--rounds N]

prints a table of docs/performance.md. YOLOv5 is PyPI's package `yolov5` (AGPL), installed into an
environment of its own below the user's cache folder and called there, in a process of its own
(`benchmarks/loader_yolov5.py`). Mosaic is on, YOLOv5 keeps no decoded images, and the dataset holds
each image of BCCD (or of the generated dataset) several times, so that no bounded window holds a
large part of it. The two take turns; `cv2.imread` of the same files is measured between them.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.trainer import WORKER_ENVIRONMENT

IMAGE_SIZES = (320, 640)
DATASET_SIZE = 2400
"""Training images, at least; ours keeps 320 decoded."""
PEER = ("yolov5==7.0.14", "setuptools<81", "torch==2.14.*", "torchvision==0.29.*")
ENVIRONMENT = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "trainjobs-yolov5"
BCCD = Path("../shared/data/bccd")
IMREAD_MS = {"imread": 0.79, "imread_half": 0.51}
"""Of the machine that the targets were set for."""
TARGETS_MS = {320: 1.7, 640: 3.2}


class Side:
    """A process that measures when it is asked to."""

    def __init__(self, python: Path | str, module: str, data: Path) -> None:
        self._process = subprocess.Popen(
            [python, "-m", module, data],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        )

    def measure(self, what: object) -> float:
        """Milliseconds of CPU time per image of what the process offers under a name."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("CPU_MS "):
                return float(line.split()[1])
        raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def peer_python() -> Path:
    """The interpreter of YOLOv5's environment, which is made if it is missing."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "complete").exists():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run(["uv", "venv", "--python", sys.executable, ENVIRONMENT], check=True)
        subprocess.run(["uv", "pip", "install", "--python", python, *PEER], check=True)
        (ENVIRONMENT / "complete").touch()
    return python


def make_dataset(folder: Path) -> Path:
    """A YOLO-layout dataset of DATASET_SIZE training images, hard links or copies; its data.yaml."""
    source = BCCD
    if not source.exists():
        source = folder / "generated"
        generate_shapes(source, num_train=200, num_val=20, image_size=640, seed=0)
    files = sorted((source / "images" / "train").iterdir())
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    for number in range(-(-DATASET_SIZE // len(files))):
        for file in files:
            label = source / "labels" / "train" / f"{file.stem}.txt"
            shutil.copyfile(file, folder / "images" / "train" / f"{number}_{file.name}")
            shutil.copyfile(label, folder / "labels" / "train" / f"{number}_{label.name}")
    description = yaml.safe_load((source / "data.yaml").read_text())
    description |= {"path": str(folder), "train": "images/train", "val": "images/train"}
    description.pop("test", None)
    target = folder / "data.yaml"
    target.write_text(yaml.safe_dump(description))
    return target


def compare(data: Path, rounds: int) -> dict[str, list[float]]:
    """Per figure its value in each round, in ms."""
    sides = {
        "ours": Side(sys.executable, "benchmarks.loader_ours", data),
        "yolov5": Side(peer_python(), "benchmarks.loader_yolov5", data),
    }
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        for size in IMAGE_SIZES:
            for name, side in sides.items():
                seen.setdefault(f"{name} {size}", []).append(side.measure(size))
        for name in IMREAD_MS:
            seen.setdefault(name, []).append(sides["ours"].measure(name))
    for side in sides.values():
        side.close()
    return seen


def table(seen: dict[str, list[float]]) -> str:
    """Medians over the rounds, and the targets scaled to this machine."""
    median = {name: statistics.median(values) for name, values in seen.items()}
    lines = [
        "| image size | ours, ms CPU an image | YOLOv5's | ratio | ours, images/s per core | target |",
        "|---|---|---|---|---|---|",
    ]
    for size, target in TARGETS_MS.items():
        ours, theirs = median[f"ours {size}"], median[f"yolov5 {size}"]
        # At 320 px images are read at half scale.
        name = "imread" if size > 320 else "imread_half"
        scaled = target * median[name] / IMREAD_MS[name]
        cells = [f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}", f"{1000 / ours:.0f}"]
        lines.append(f"| {size} px | " + " | ".join(cells) + f" | {scaled:.2f} |")
    lines.append("")
    lines.append(
        f"cv2.imread of one image: {median['imread']:.2f} ms, at half scale "
        f"{median['imread_half']:.2f} ms (targets: {TARGETS_MS} ms where it is {IMREAD_MS})"
    )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each figure")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        seen = compare(make_dataset(Path(folder).resolve()), rounds)
    print(table(seen))
    print("rounds:", {name: [round(value, 2) for value in values] for name, values in seen.items()})


if __name__ == "__main__":
    main()
