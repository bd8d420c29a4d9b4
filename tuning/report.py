"""A sweep as one HTML page: what is best and how sure that is, every trial, pictures, and time."""

import shlex
from statistics import median
from typing import Any

from tuning.confidence import METHOD
from tuning.page import Cell, cards, commands, figure, heading, page, paragraph, table
from tuning.records import TrialRecord
from tuning.scores import best_score
from tuning.table import (
    MISSING,
    epoch_text,
    exact_value,
    short_names,
    short_value,
    trial_title,
)
from tuning.verdict import BIAS, SweepSummary, gap, verdict

CAPTIONS = {
    "curves": "The metric of each trial over its epochs.",
    "importance": (
        "What each setting explains of the metric, all trials compared at the same epoch. Each "
        "setting alone: interactions are not seen. A bar that hardly passes its mark says nothing."
    ),
    "parameters": "The best value of each trial against each setting; hollow: stopped early.",
    "parallel_coordinates": "Each line is a trial; dashed: stopped early, so its value is too low.",
    "early_stopping": "Epochs trained, and epochs that early stopping saved.",
}


def report_html(summary: SweepSummary) -> str:
    """The whole report; it needs no other file and no network."""
    sections = [
        heading(f"Sweep {summary.name}", level=1),
        paragraph(_subtitle(summary), "soft"),
        paragraph(verdict(summary), "lead"),
        cards(_facts(summary)),
        *_confidence(summary),
        *_best_settings(summary),
        heading("How to go on"),
        commands(_commands(summary)),
        *([heading("Pictures")] if summary.plots else []),
        *(figure(path, CAPTIONS.get(path.stem, path.stem)) for path in summary.plots),
        heading("Trials"),
        _trials(summary),
        *_time(summary),
    ]
    return page(f"Sweep {summary.name}", sections)


def _subtitle(summary: SweepSummary) -> str:
    goal = "highest" if summary.mode == "max" else "lowest"
    return (
        f"{summary.status}; {len(summary.records)} trials of {summary.job}, "
        f"{summary.epochs} epochs if not stopped; {goal} {summary.metric} wanted; {summary.folder}"
    )


def _facts(summary: SweepSummary) -> list[tuple[str, str]]:
    facts = [("best trial", MISSING if summary.best is None else trial_title(summary.best))]
    for name, record in (("its", summary.best), ("the base config's", summary.default)):
        score = best_score(record, summary.mode) if record else None
        told = f"{short_value(score[1])} at epoch {score[0]}" if score else MISSING
        facts.append((f"{name} {summary.metric} in the search", told))
    difference = gap(summary)
    if difference is not None:
        facts.append(("better than the base config by", f"{difference:+.3g}"))
    if summary.standings and summary.standings[0].p_best is not None:
        facts.append(("probability of being the best", f"{summary.standings[0].p_best:.0%}"))
    return [*facts, ("wall time", _clock(summary.wall_s))]


def _confidence(summary: SweepSummary) -> list[str]:
    opening = heading("How sure it is")
    if not summary.standings:
        return [opening, paragraph(BIAS)]
    rows = [
        [
            Cell(standing.name),
            _number(standing.mean),
            _number(standing.spread),
            _number(standing.n),
            _number(standing.p_best),
        ]
        for standing in summary.standings
    ]
    header = ["config", f"mean {summary.metric}", "spread", "seeds", "probability of being best"]
    return [
        opening,
        table(header, rows, marked=[0]),
        paragraph(f"From fresh seeds alone. Spread: standard deviation. {METHOD}.", "soft"),
    ]


def _best_settings(summary: SweepSummary) -> list[str]:
    if summary.best is None:
        return []
    rows = [[Cell(path), Cell(exact_value(value))] for path, value in summary.best.values.items()]
    told = table(["setting", "value"], rows) if rows else paragraph("The base config as it is.")
    return [heading(f"Settings of the best trial ({trial_title(summary.best)})"), told]


def _commands(summary: SweepSummary) -> list[str]:
    name = shlex.quote(summary.name)
    folder = summary.folder.rstrip("/")
    best = shlex.quote(f"{folder}/best.yaml")
    sweep = f"python -m tuning.sweep --storage {shlex.quote(folder.rpartition('/')[0])}"
    train = ["# train the best config", f"python -m trainjobs.{summary.job} --config {best}", ""]
    sure = [
        "# find out whether it really is the best",
        f"{sweep} --resume {name} --confirm 3x3",
        "",
    ]
    return [
        *(train if summary.best is not None else []),
        *(sure if summary.best is not None and not summary.standings else []),
        "# go on after an interruption",
        f"{sweep} --resume {name}",
        "",
        "# more trials, or longer ones",
        f"{sweep} --extend {name} --num-trials +10",
        f"{sweep} --extend {name} --epochs 2x",
    ]


def _trials(summary: SweepSummary) -> str:
    names = short_names(summary.paths)
    header = ["trial", "state", "epoch", summary.metric, "at epoch", "images/step"]
    header += ["decay in force", *names.values(), "training s", "wall s", "start-up s"]
    header += ["workers", "seed", "origin", "run", "notes"]
    rows = [_trial_row(record, summary) for record in summary.records]
    best = summary.best and summary.best.number
    marked = [i for i, record in enumerate(summary.records) if record.number == best]
    return table(header, rows, marked=marked)


def _trial_row(record: TrialRecord, summary: SweepSummary) -> list[Cell]:
    epoch, value = best_score(record, summary.mode) or (None, None)
    notes = [f"epoch {note.epoch}: {note.text}" for note in record.notes]
    return [
        Cell(trial_title(record), record.number),
        Cell(record.state),
        Cell(epoch_text(record, summary.epochs), record.epochs),
        _number(value),
        _number(epoch),
        _number(record.images_per_step),
        _number(record.weight_decay_in_force),
        *(_setting(record, path) for path in summary.paths),
        _number(round(record.training_s, 1)),
        _number(round(record.wall_s, 1)),
        _number(None if record.startup_s is None else round(record.startup_s, 1)),
        _number(record.world_size),
        _number(record.seed),
        Cell(record.origin),
        Cell(next(reversed(record.run_names), "")),
        Cell("\n".join([*notes, *([record.error] if record.error else [])]), is_long=True),
    ]


def _time(summary: SweepSummary) -> list[str]:
    training_s = sum(record.training_s * record.world_size for record in summary.records)
    starts = [r.startup_s for r in summary.records if r.startup_s is not None]
    facts = [
        ("of the workers' time was training", f"{summary.utilization:.0%}"),
        ("wall time", _clock(summary.wall_s)),
        ("worker time in optimizer steps", _clock(training_s)),
    ]
    if starts:
        facts.append(("start-up of a trial, median", f"{median(starts):.1f} s"))
        facts.append(("start-up of a trial, longest", f"{max(starts):.1f} s"))
    rest = (
        "The rest is start-up, evaluation, checkpoints, the search's own waiting, and places for "
        "workers that no trial was left to fill. Start-up is from a trial's start to its first "
        "step; each trial's is in the table."
    )
    return [heading("Time"), cards(facts), paragraph(rest, "soft")]


def _setting(record: TrialRecord, path: str) -> Cell:
    value = record.settings.get(path)
    if isinstance(value, bool) or (value is None and path in record.settings):
        return Cell(exact_value(value))
    return _number(value)


def _number(value: Any) -> Cell:
    # Shown short, sorted exactly; what is missing is sorted last.
    if value is None:
        return Cell(MISSING, "")
    return Cell(short_value(value), value if isinstance(value, int | float) else None)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"
