"""A side of `benchmarks.loader`: reads what to measure from stdin, prints CPU time per image.

It is imported in YOLOv5's environment too, so it imports nothing of ours.
"""

import sys
import time
from collections.abc import Callable, Iterator

WARM_UP_IMAGES = 256
IMAGES = 512


def serve(measure: Callable[[str], float]) -> None:
    """Answer each line of stdin with the milliseconds it takes."""
    for line in sys.stdin:
        print("CPU_MS", measure(line.strip()), flush=True)


def cpu_ms_per_image(batch_sizes: Iterator[int]) -> float:
    """CPU time of this process, all threads, per image of a loader that runs steadily.

    Args:
        batch_sizes: Images in each batch that a loader delivers; ends late or never.
    """
    _draw(batch_sizes, WARM_UP_IMAGES)
    start = time.process_time()
    images = _draw(batch_sizes, IMAGES)
    return 1000 * (time.process_time() - start) / images


def _draw(batch_sizes: Iterator[int], wanted: int) -> int:
    drawn = 0
    while drawn < wanted:
        drawn += next(batch_sizes)
    return drawn
