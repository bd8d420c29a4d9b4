"""What goes on, as gauges for Prometheus, through Ray's metrics.

The agent of this process's node exports them as `ray_<name>`. It drops a gauge that was not set for
20 s, so gauges are set again and again, and end with what they describe. There are no counters: the
agent would keep them until its node ends.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ray.util.metrics import Gauge

REFRESH_S = 5.0
"""A process hands the agent what was set in the last 10 s (Ray's `metrics_report_interval_ms`)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One gauge's value."""

    name: str
    value: float
    tags: Mapping[str, str] = field(default_factory=dict)
    """Besides those that all gauges of an export have; always the same keys for a name."""


@contextmanager
def export_gauges(
    descriptions: Mapping[str, str], read: Callable[[], Sequence[Reading]], **tags: str
) -> Iterator[None]:
    """Export what `read` returns for the length of the body; Ray must be connected.

    Without an agent the values go nowhere. They are gone 30 s after the body at the latest.

    Args:
        descriptions: Name of each gauge that there may be, and what it is.
        read: Called every few seconds, in a thread. Values that are not finite are left out.
        tags: Of all gauges. Few values of each: Prometheus keeps a series for every combination.
    """
    closing = threading.Event()
    thread = threading.Thread(
        target=_export, args=(descriptions, read, tags, closing), name="gauges", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join()


def _export(
    descriptions: Mapping[str, str],
    read: Callable[[], Sequence[Reading]],
    tags: Mapping[str, str],
    closing: threading.Event,
) -> None:
    gauges: dict[str, Gauge] = {}
    while True:
        ends = closing.wait(REFRESH_S if gauges else 0.0)
        for reading in read():
            all_tags = {**tags, **reading.tags}
            if reading.name not in gauges:
                description = descriptions[reading.name]
                gauges[reading.name] = Gauge(reading.name, description, tuple(all_tags))
            if math.isfinite(reading.value):
                gauges[reading.name].set(reading.value, all_tags)
        if ends:
            return
