"""A sweep's trials as text: the live table, which a job's log shows too, and trials.csv."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tuning.config import Mode
from tuning.records import TrialRecord
from tuning.scores import REPEATS, base_trial, best_score, ranked

MAX_COLUMNS = 120
"""Width of the table in characters; a job's log is rarely wider."""
MAX_ROWS = 20
MAX_RUNNING_ROWS = 8
"""Of the rows of a long table."""
MAX_TEXT = 14
"""Characters of a value, or of a long column name."""
MISSING = "-"
BASE_NAME = "base config"
GAP = "  "
LEFT_ALIGNED = 2
"""Leading columns that are text: trial and state."""
FACTS = (
    "images_per_step", "weight_decay_in_force", "world_size",
    "training_s", "wall_s", "startup_s", "seed", "origin",
)  # fmt: skip
"""Fields of a record that trials.csv has as they are."""


def trial_lines(
    records: Sequence[TrialRecord], paths: Sequence[str], metric: str, mode: Mode, epochs: int
) -> list[str]:
    """The trials as an aligned table of at most 120 columns and about 20 rows.

    Args:
        records: all trials; of many, the best, the running ones and a count of the rest are shown.
        paths: dotted paths of the settings that the search chooses, a column each as far as they fit.
        metric: name of what is optimized.
        mode: which way it is better.
        epochs: that a trial trains for if nothing stops it.
    """
    shown = _shown(records, mode)
    best = next(iter(ranked(records, mode)), None)
    names = list(short_names(paths).values())
    header = ["trial", "state", "epoch", f"best {_clip(metric)}", "images/step", "decay in force"]
    rows = [header + [_clip(name) for name in names]]
    rows += [_row(record, paths, mode, epochs, is_best=record is best) for record in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while sum(widths) + len(GAP) * (len(widths) - 1) > MAX_COLUMNS and len(widths) > len(header):
        widths.pop()
    lines = [_aligned(row, widths) for row in rows]
    hidden = Counter(record.state for record in records) - Counter(r.state for r in shown)
    if hidden:
        states = ", ".join(f"{count} {state}" for state, count in hidden.most_common())
        lines.append(f"and {hidden.total()} more: {states}")
    if left_out := names[len(widths) - len(header) :]:
        lines.append(f"not shown, see trials.csv: {', '.join(left_out)}")
    return lines


def trials_csv(
    records: Sequence[TrialRecord], paths: Sequence[str], metric: str, mode: Mode
) -> str:
    """The trials at full precision; what a trial does not have is empty.

    Args:
        records: all trials.
        paths: dotted paths of the settings that the search chooses, a column each.
        metric: name of what is optimized; the column holds a trial's best value.
        mode: which way it is better.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "epochs", metric, "best_epoch", *FACTS, *paths, "run_name"])
    for record in records:
        epoch, value = best_score(record, mode) or (None, None)
        settings = [
            exact_value(record.settings[path]) if path in record.settings else None
            for path in paths
        ]
        facts = [getattr(record, name) for name in FACTS]
        newest = next(reversed(record.run_names), None)
        writer.writerow(
            [record.number, record.state, record.epochs, value, epoch, *facts, *settings, newest]
        )
    return text.getvalue()


def utilization(records: Sequence[TrialRecord], *, slots_worker_seconds: float) -> float:
    """Share of the workers' time that went into optimizer steps, in [0, 1].

    A worker's time counts as used while its trial is in optimizer steps. Start-up, evaluation,
    checkpoints and the search's own waiting are not, and neither is a free slot that no trial was
    left to fill. Steps that a restarted trial repeats count each time they were measured.

    Args:
        records: all trials, those that confirm or retrain included.
        slots_worker_seconds: workers that the sweep could have had at a time, times its wall time.
    """
    used_s = sum(record.world_size * record.training_s for record in records)
    if slots_worker_seconds <= 0:
        return 0.0
    return min(max(used_s / slots_worker_seconds, 0.0), 1.0)


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Dotted path -> as few of its last components as tell it from the other paths."""
    names = {}
    for path in paths:
        parts = path.split(".")
        endings = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        others = [f".{other}" for other in paths if other != path]
        names[path] = next(
            (end for end in endings if not any(other.endswith(f".{end}") for other in others)), path
        )
    return names


def short_value(value: Any) -> str:
    """A setting or a metric as a person reads it: one line, 4 significant digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(exact_value(value).split())


def exact_value(value: Any) -> str:
    """A setting as YAML and JSON write it; text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def trial_title(record: TrialRecord) -> str:
    """The number of a trial, and what it is for if the search did not propose it."""
    word = {"default": " base"} | {origin: f" {origin}" for origin in REPEATS}
    repeated = "" if record.repeats is None else f" {record.repeats}"
    return f"{record.number}{word.get(record.origin, '')}{repeated}"


def epoch_text(record: TrialRecord, epochs: int) -> str:
    """Epochs completed, of how many; a retraining has a length of its own."""
    return str(record.epochs) if record.origin == "retrain" else f"{record.epochs}/{epochs}"


def _shown(records: Sequence[TrialRecord], mode: Mode) -> list[TrialRecord]:
    if len(records) <= MAX_ROWS:
        return list(records)
    running = [record for record in records if record.state == "running"][:MAX_RUNNING_ROWS]
    base = base_trial(records)
    others = [r for r in ranked(records, mode) if r not in running and r is not base]
    first = [] if base is None or base in running else [base]
    return first + others[: MAX_ROWS - len(running) - len(first)] + running


def _row(
    record: TrialRecord, paths: Sequence[str], mode: Mode, epochs: int, *, is_best: bool
) -> list[str]:
    score = best_score(record, mode)
    in_force = (record.images_per_step, record.weight_decay_in_force)
    return [
        trial_title(record) + (" best" if is_best else ""),
        record.state,
        epoch_text(record, epochs),
        short_value(score[1]) if score else MISSING,
        *(MISSING if value is None else short_value(value) for value in in_force),
        *(
            _clip(short_value(record.settings[path])) if path in record.settings else MISSING
            for path in paths
        ),
    ]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if position < LEFT_ALIGNED else cell.rjust(width)
        for position, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]
    return GAP.join(cells).rstrip()


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 2] + ".."
