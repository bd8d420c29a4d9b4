"""Memory of the ranks of a classification run whose images are kept decoded, epoch by epoch.

    python -m benchmarks.decoded_memory --data D [--num-workers 2] [any other flag of trainjobs.classify]

starts that run and reads the kernel's account of the pages of every process that maps the decoded images.
Printed for each epoch: the most that all of them together held of the mapped file, and of all else. The
file's size is the limit for the first if a node holds it once; for the second, growth is what to look at.
"""

import csv
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from trainjobs.run_folder import METRICS

DECODED = "/decoded-v"
"""Part of the path of every decoded split."""
INTERVAL_S = 2.0
RUN = "memory"
MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)")


def count_pages(process: Path) -> Counter[str]:
    """MB of a process' proportional set, by whether it is of a decoded split; nothing if it maps none.

    Args:
        process: Its folder below /proc.
    """
    try:
        if DECODED not in (process / "maps").read_text():
            return Counter()
        lines = (process / "smaps").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return Counter()  # it has ended, or is somebody else's
    found: Counter[str] = Counter({"ranks": 1})
    kind = ""
    for line in lines:
        if mapping := MAPPING.fullmatch(line):
            kind = "decoded" if DECODED in mapping[1] else "else"
        elif line.startswith("Pss:"):
            found[kind] += int(line.split()[1]) * 1024 / 1e6  # type: ignore[assignment]  # of floats
    return found


def epochs_done(folder: Path) -> int:
    """Rows of the run's metrics so far."""
    file = folder / RUN / METRICS
    return len(list(csv.DictReader(file.read_text().splitlines()))) if file.exists() else 0


def watch(flags: list[str], storage: Path) -> tuple[dict[int, Counter[str]], int]:
    """The most that was seen in each epoch, and the exit code of the run."""
    command = [sys.executable, "-m", "trainjobs.classify", "--run-name", RUN, *flags]
    run = subprocess.Popen([*command, "--resources.storage", str(storage)])
    most: dict[int, Counter[str]] = {}
    while run.poll() is None:
        time.sleep(INTERVAL_S)
        epoch = epochs_done(storage) + 1
        processes = Path("/proc").glob("[0-9]*")
        seen = sum((count_pages(process) for process in processes), Counter())
        if seen:
            most[epoch] = most.get(epoch, Counter()) | seen
    return most, run.wait()


def main() -> None:
    """Watch a run and print."""
    with tempfile.TemporaryDirectory() as scratch:
        most, code = watch(sys.argv[1:], Path(scratch))
    if code:
        sys.exit(code)
    print("| epoch | ranks | decoded images, MB | all else, MB |\n|---|---|---|---|")
    for epoch, seen in most.items():
        print(f"| {epoch} | {seen['ranks']} | {seen['decoded']:.0f} | {seen['else']:.0f} |")


if __name__ == "__main__":
    main()
