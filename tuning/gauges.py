"""A sweep as Prometheus sees it while it runs (docs/operations.md). Its trials are runs, and seen as such."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from cluster.gauges import Reading
from tuning.config import Mode
from tuning.ledger import Ledger
from tuning.records import State
from tuning.scores import best_values, ranked
from tuning.table import utilization

SWEEP_GAUGES = {
    "trainjobs_sweep_trials": "Trials in each state",
    "trainjobs_sweep_best": "Best value of the sweep's metric so far",
    "trainjobs_sweep_utilization": "Share of the workers' time that went into optimizer steps",
}
STATES: tuple[State, ...] = get_args(State)


class SweepGauges:
    """The newest figures of one sweep."""

    def __init__(self, ledger: Ledger, mode: Mode, *, slots: int) -> None:
        self.ledger, self.mode, self.slots = ledger, mode, slots
        self.started, self.wall_before_s = time.monotonic(), ledger.wall_s

    def read(self) -> Sequence[Reading]:
        """All that is known."""
        records = list(self.ledger.records)
        states = Counter(record.state for record in records)
        wall_s = self.wall_before_s + time.monotonic() - self.started
        used = utilization(records, slots_worker_seconds=self.slots * wall_s)
        best = best_values(ranked(records, self.mode)[:1], self.mode)
        return [
            *(Reading("trainjobs_sweep_trials", states[s], {"state": s}) for s in STATES),
            *(Reading("trainjobs_sweep_best", value) for value in best),
            Reading("trainjobs_sweep_utilization", used),
        ]
