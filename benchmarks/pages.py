"""The kernel's account of a process' pages, by the files they are mapped from; for benchmarks."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)")


def count_pages(process: Path, part: str) -> Counter[str]:
    """KiB of a process: its proportional set by whether `mapped` from files or the `rest`, and what of
    the rest is `anonymous`, no file's.

    Args:
        process: Its folder below /proc.
        part: Of the paths of the files that count as `mapped`.
    """
    found: Counter[str] = Counter()
    kind = ""
    for line in (process / "smaps").read_text().splitlines():
        if mapping := _MAPPING.fullmatch(line):
            kind = "mapped" if part in mapping[1] else "rest"
        elif line.startswith("Pss:"):
            found[kind] += int(line.split()[1])
        elif line.startswith("Anonymous:") and kind == "rest":
            found["anonymous"] += int(line.split()[1])
    return found


def mapped_files(process: Path, part: str) -> Iterator[Path]:
    """The files with `part` in their path that a process maps; one may come more than once."""
    for line in (process / "maps").read_text().splitlines():
        if (mapping := _MAPPING.fullmatch(line)) and part in mapping[1]:
            yield Path(mapping[1])
