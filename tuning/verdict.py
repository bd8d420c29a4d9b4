"""What a sweep found, in a summary that every report shares and a paragraph that claims no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuning.confidence import Standing
from tuning.config import Mode
from tuning.records import TrialRecord
from tuning.scores import best_score, finite_curve
from tuning.table import BASE_NAME, short_value

NO_NOISE = "single runs; no statement about noise"
BIAS = (
    "The search's own best is biased by selection: the best of many noisy values is too good, and "
    "more so with more trials. --confirm trains the best trials and the base config again with "
    "fresh seeds, and would tell."
)
MAX_NAMED = 4
"""Standings that the paragraph names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSummary:
    """A sweep, as the reports tell it."""

    name: str
    job: str
    metric: str
    mode: Mode
    epochs: int
    """Of a trial that nothing stops."""
    status: str
    """finished, or what ended or will end it."""
    records: Sequence[TrialRecord]
    paths: Sequence[str]
    """Dotted paths of the settings that the search chooses."""
    best: TrialRecord | None
    default: TrialRecord | None
    """The trial of the base config."""
    standings: Sequence[Standing]
    """Of the confirmation, the best mean first; the base config's is named `table.BASE_NAME`."""
    utilization: float
    wall_s: float
    folder: str
    """Absolute path or URI of the sweep's folder."""
    plots: Sequence[Path]
    """Local PNG files."""


def verdict(summary: SweepSummary) -> str:
    """The conclusion in one paragraph of plain text."""
    found = _confirmed(summary) if summary.standings else _single_runs(summary)
    return found if summary.status == "finished" else f"So far ({summary.status}): {found}"


def gap(summary: SweepSummary) -> float | None:
    """By how much the best trial is better than the base config, if both have trained as long."""
    pair = _values(summary)
    if pair is None or summary.default is None or not _is_fair(summary):
        return None
    best, base = pair
    return best - base if summary.mode == "max" else base - best


def _single_runs(summary: SweepSummary) -> str:
    best, default = summary.best, summary.default
    score = best_score(best, summary.mode) if best else None
    if best is None or score is None:
        return f"No trial has measured {summary.metric}, so there is no best one."
    value = short_value(score[1])
    pair = _values(summary)
    if default is None or pair is None:
        return (
            f"The best trial ({best.number}) reached {summary.metric} {value}; the base config has "
            f"no value to compare it with ({NO_NOISE})."
        )
    if best.number == default.number:
        return f"No trial beats the base config ({summary.metric} {value}; {NO_NOISE})."
    difference = gap(summary)
    if difference is None:
        return _unequal(summary, best, default, value)
    against = f"{summary.metric} {value} against {short_value(pair[1])}"
    if difference <= 0:
        return f"No trial beats the base config ({against}; {NO_NOISE})."
    return (
        f"The best trial ({best.number}) beats the base config by {difference:.3g} "
        f"({against}; {NO_NOISE})."
    )


def _unequal(summary: SweepSummary, best: TrialRecord, default: TrialRecord, value: str) -> str:
    # A longer training alone raises a score, so the two are compared where both were measured.
    curves = finite_curve(best), finite_curve(default)
    shared = max(curves[0].keys() & curves[1].keys(), default=None)
    went_on = f"trial {best.number} went on to {value}"
    if shared is None:
        return (
            f"The best trial ({best.number}) reached {summary.metric} {value}; it and the base "
            f"config, which ended at epoch {default.epochs}, were never measured at the same epoch."
        )
    at_best, at_base = curves[0][shared], curves[1][shared]
    ahead = at_best - at_base if summary.mode == "max" else at_base - at_best
    where = f"at epoch {shared}, the last that both have measured"
    against = f"{summary.metric} {short_value(at_best)} against {short_value(at_base)}"
    if ahead <= 0:
        return (
            f"No trial is shown to beat the base config: {where}, the best trial ({best.number}) "
            f"is not ahead ({against}; {NO_NOISE}); {went_on}."
        )
    return (
        f"The best trial ({best.number}) beats the base config by {ahead:.3g} {where} "
        f"({against}; {NO_NOISE}); {went_on}."
    )


def _confirmed(summary: SweepSummary) -> str:
    first, *others = summary.standings
    seeds = sorted({standing.n for standing in summary.standings})
    count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    opening = "no trial beats the base config" if first.name == BASE_NAME else f"{first.name} leads"
    chance = (
        "too few seeds for a probability"
        if first.p_best is None
        else f"the best with probability {first.p_best:.2f}"
    )
    told = "".join(f"; {_measured(standing)}" for standing in others[:MAX_NAMED])
    more = f"; and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
    return (
        f"Confirmed over {count} fresh seed{'s' * (seeds[-1] > 1)} each: {opening} with mean "
        f"{summary.metric} {_spread(first)}, {chance}{told}{more}."
    )


def _measured(standing: Standing) -> str:
    chance = "" if standing.p_best is None else f", probability {standing.p_best:.2f}"
    return f"{standing.name} {_spread(standing)}{chance}"


def _spread(standing: Standing) -> str:
    spread = "" if standing.spread is None else f" (spread {standing.spread:.2g})"
    return f"{short_value(float(standing.mean))}{spread}"


def _values(summary: SweepSummary) -> tuple[float, float] | None:
    found = [
        best_score(record, summary.mode) if record else None
        for record in (summary.best, summary.default)
    ]
    return (found[0][1], found[1][1]) if found[0] and found[1] else None


def _is_fair(summary: SweepSummary) -> bool:
    best, default = summary.best, summary.default
    return best is not None and default is not None and default.epochs >= best.epochs
