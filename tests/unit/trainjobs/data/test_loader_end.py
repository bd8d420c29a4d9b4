"""A process that ends while its loader is at work ends at once, with its own exit code."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, time
from tests.builders import TinySamples
from trainjobs.data.loader import build_loader
from trainjobs.data.ordering.sampler import SampleRef

class Slow(TinySamples):
    def __getitem__(self, ref):
        time.sleep(0.02)
        if ref.position == 37:
            raise MemoryError("no room")
        return super().__getitem__(ref)

batches = [[SampleRef(0, 4 * step + i, i) for i in range(4)] for step in range(10_000)]
for number, batch in enumerate(build_loader(Slow(), batches, workers=3, pin_memory=False)):
    if sys.argv[1] == "raise" and number == 3:
        raise RuntimeError("in training")
    if sys.argv[1] == "exit" and number == 3:
        sys.exit(7)
"""


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("raise", 1, "RuntimeError: in training"),
        ("exit", 7, ""),
        ("fail", 1, "DatasetError: 1: no sample can be made of it (MemoryError: no room)"),
    ],
)
def test_it_ends_at_once(how: str, code: int, message: str) -> None:
    # 10,000 batches would take minutes; a thread that goes on would run into the time-out.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code
    assert message in done.stderr
