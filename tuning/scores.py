"""Which measurements of a sweep may be compared: finite ones, of the search's own trials.

Trials that confirm or retrain repeat a chosen config, so they are no evidence about the space.
"""

import math
from collections.abc import Sequence

from tuning.config import Mode
from tuning.records import TrialRecord

REPEATS = frozenset({"confirm", "retrain"})


def search_trials(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that the search proposed, in order of proposal."""
    found = [record for record in records if record.origin not in REPEATS]
    return sorted(found, key=lambda record: record.number)


def finite_curve(record: TrialRecord) -> dict[int, float]:
    """Epoch -> metric, without what is not a number, in order of epochs."""
    return {epoch: value for epoch, value in sorted(record.curve.items()) if math.isfinite(value)}


def best_score(record: TrialRecord, mode: Mode) -> tuple[int, float] | None:
    """(epoch, value) of the best finite measurement, the earliest of equals; None if there is none."""
    curve = finite_curve(record)
    if not curve:
        return None
    pick = max if mode == "max" else min
    epoch = pick(curve, key=lambda measured: curve[measured])
    return epoch, curve[epoch]


def ranked(records: Sequence[TrialRecord], mode: Mode) -> list[TrialRecord]:
    """The search's trials that have a value and did not fail, best first, the earlier of equals first."""
    scores = {
        record.number: score[1]
        for record in search_trials(records)
        if record.state != "failed" and (score := best_score(record, mode)) is not None
    }
    sign = -1 if mode == "max" else 1
    measured = [record for record in search_trials(records) if record.number in scores]
    return sorted(measured, key=lambda record: sign * scores[record.number])


def best_values(records: Sequence[TrialRecord], mode: Mode) -> list[float]:
    """The best value of each trial; all of them have one."""
    return [score[1] for record in records if (score := best_score(record, mode)) is not None]


def base_trial(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The one that trains the base config as it is."""
    return next((record for record in records if record.origin == "default"), None)


def common_epoch(records: Sequence[TrialRecord]) -> int | None:
    """The latest epoch at which the most trials can be compared.

    Trials that the scheduler stopped count as much as those that went on: their values at the end
    of training are unknown, and leaving them out would compare survivors only. So this is the
    latest epoch that all trials that ended by plan have measured; if they share none, the one that
    most of them have.
    """
    curves = [
        finite_curve(record)
        for record in search_trials(records)
        if record.state in {"finished", "stopped"}
    ]
    epochs = {epoch for curve in curves for epoch in curve}
    if not epochs:
        return None
    return max(epochs, key=lambda epoch: (sum(epoch in curve for curve in curves), epoch))
