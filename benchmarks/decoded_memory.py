"""Memory of the ranks of a classification run whose images are kept decoded, epoch by epoch.

    python -m benchmarks.decoded_memory --data D [--num-workers 2] [any other flag of trainjobs.classify]

starts that run and reads the kernel's account of the pages of every process that maps the decoded images.
Printed for each epoch: the most that all of them together held of the mapped files, over the files' size
(1: a node holds them once, whatever the number of ranks), and of all else, over what that was in epoch 2.
The last line is what comes after the last epoch: one more evaluation, and rank 0's plots.
"""

import csv
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.pages import count_pages, mapped_files
from trainjobs.run_folder import METRICS

DECODED = "/decoded-v"
"""Part of the path of every decoded split."""
INTERVAL_S = 2.0
RUN = "memory"
FIRST_EPOCH = 2
"""By its end everything is loaded: what all else is compared with."""


def look(process: Path) -> tuple[Counter[str], set[Path]]:
    """See `count_pages`, and the decoded files that are mapped; nothing of who maps none.

    Args:
        process: Its folder below /proc.
    """
    try:
        files = set(mapped_files(process, DECODED))
        return (count_pages(process, DECODED) + Counter(ranks=1) if files else Counter()), files
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return Counter(), set()  # it has ended, or is somebody else's


def epochs_done(folder: Path) -> int:
    """Rows of the run's metrics so far."""
    file = folder / RUN / METRICS
    return len(list(csv.DictReader(file.read_text().splitlines()))) if file.exists() else 0


def watch(flags: list[str], storage: Path) -> tuple[dict[int, Counter[str]], int]:
    """The most that was seen in each epoch, and the files' size in KiB. Ends this process if the run
    fails."""
    command = [sys.executable, "-m", "trainjobs.classify", "--run-name", RUN, *flags]
    run = subprocess.Popen([*command, "--resources.storage", str(storage)])
    most: dict[int, Counter[str]] = {}
    sizes: dict[Path, int] = {}
    while run.poll() is None:
        time.sleep(INTERVAL_S)
        epoch = epochs_done(storage) + 1
        seen: Counter[str] = Counter()
        for process in Path("/proc").glob("[0-9]*"):
            counted, files = look(process)
            seen += counted
            sizes |= {file: file.stat().st_size // 1024 for file in files}
        if seen:
            most[epoch] = most.get(epoch, Counter()) | seen
    if run.wait():
        sys.exit(run.returncode)
    return most, sum(sizes.values())


def main() -> None:
    """Watch a run and print."""
    with tempfile.TemporaryDirectory() as scratch:
        most, size = watch(sys.argv[1:], Path(scratch))
    print("| epoch | ranks | decoded, MB | of the files | all else, MB | of epoch 2 |")
    print("|---|---|---|---|---|---|")
    start = most[FIRST_EPOCH]["rest"] if FIRST_EPOCH in most else 0
    for epoch, seen in most.items():
        held, rest = seen["mapped"], seen["rest"]
        growth = f"{rest / start:.2f}" if start and epoch >= FIRST_EPOCH else ""
        cells = (epoch, seen["ranks"], f"{held * 1024 / 1e6:.0f}", f"{held / size:.2f}")
        print("|", *(f"{cell} |" for cell in (*cells, f"{rest * 1024 / 1e6:.0f}", growth)))


if __name__ == "__main__":
    main()
