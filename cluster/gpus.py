"""The GPUs of the node that this runs on, as nvidia-smi tells. No torch: it sees what Ray hides."""

import shutil
import subprocess
from dataclasses import dataclass

QUERY = (
    "index", "name", "driver_version", "memory.total", "memory.used", "utilization.gpu",
    "ecc.errors.uncorrected.volatile.total", "clocks_throttle_reasons.hw_slowdown",
    "clocks_throttle_reasons.hw_thermal_slowdown", "clocks_throttle_reasons.sw_thermal_slowdown",
)  # fmt: skip
NUM_PLAIN = 7
"""Fields before the reasons for throttling, each of which is Active or Not Active."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    driver: str
    memory_total_mib: float
    memory_used_mib: float
    utilization_percent: float
    ecc_errors: float
    """Uncorrected, since the driver was loaded; NaN where it does not count them."""
    throttled: tuple[str, ...]
    """Reasons why hardware or heat holds the clocks down."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody computes or keeps anything to speak of on it."""
        return self.utilization_percent < 10 and self.memory_used_mib < 0.05 * self.memory_total_mib


def probe_gpus() -> tuple[tuple[Gpu, ...], str]:
    """The node's GPUs, and what went wrong with asking; "" if nothing."""
    if shutil.which("nvidia-smi") is None:
        return (), ""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return parse_gpus(done.stdout), ""
    except subprocess.CalledProcessError as error:
        return (), f"nvidia-smi: {(error.stdout + error.stderr).strip()}"
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return (), f"nvidia-smi: {error}"


def parse_gpus(told: str) -> tuple[Gpu, ...]:
    """Read nvidia-smi's lines for `QUERY`."""
    return tuple(_parse(line.split(", ")) for line in told.strip().splitlines())


def _parse(fields: list[str]) -> Gpu:
    index, name, driver, total, used, utilization, ecc = fields[:NUM_PLAIN]
    reasons = zip(QUERY[NUM_PLAIN:], fields[NUM_PLAIN:], strict=True)
    return Gpu(
        index=int(index),
        name=name,
        driver=driver,
        memory_total_mib=_number(total),
        memory_used_mib=_number(used),
        utilization_percent=_number(utilization),
        ecc_errors=_number(ecc),
        throttled=tuple(r.partition(".")[2] for r, state in reasons if state.strip() == "Active"),
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # [N/A], [Not Supported]
        return float("nan")
