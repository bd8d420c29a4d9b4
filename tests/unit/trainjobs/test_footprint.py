"""What a launch's rate and memory are measured over."""

from pathlib import Path

import torch

from trainjobs.footprint import WARM_STEPS, SteadyRate, peak_memory


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_steps_and_what_lies_between_epochs_do_not_count() -> None:
    clock = Clock()
    rate = SteadyRate(clock)
    for _ in range(WARM_STEPS):
        clock.now += 5.0
        rate.step_done(8)
    assert rate.images_per_second == 0
    clock.now += 0.5
    rate.step_done(8)
    clock.now += 60.0  # an evaluation
    rate.resume()
    clock.now += 0.5
    rate.step_done(4)
    assert rate.images_per_second == (8 + 4) / 1.0


def test_a_peak_is_at_least_what_is_held_now_and_no_more_than_there_is() -> None:
    held = torch.ones(2**24)  # 64 MiB
    resident, total = (memory("/proc/self/status", "VmRSS"), memory("/proc/meminfo", "MemTotal"))
    peak = peak_memory(torch.device("cpu"))
    # The kernel counts pages per thread and adds them up now and then.
    assert held.nbytes < 0.95 * resident <= peak.host < total and peak.gpu == 0


def memory(file: str, key: str) -> int:
    """Bytes that the kernel states, in KiB, after `key`."""
    lines = dict(line.split(":") for line in Path(file).read_text().splitlines())
    return int(lines[key].split()[0]) * 1024
