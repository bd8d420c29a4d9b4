"""Which trial comes next: those left unfinished, the base config, known points, then the search."""

import json
from collections.abc import Sequence

from cluster.config_io import replace_at
from trainjobs.config import TrainConfig
from tuning.config import Mode
from tuning.ledger import Ledger
from tuning.records import DONE, TrialRecord, Values
from tuning.scores import best_score, ranked, search_trials
from tuning.search import Observation, Search
from tuning.settings import SweepSettings


class Proposer:
    """Gives out the trials of a sweep's search, each once per launch."""

    def __init__(
        self,
        settings: SweepSettings,
        ledger: Ledger,
        search: Search,
        *,
        points: Sequence[Values],
        earlier: Sequence[Observation] = (),
    ) -> None:
        self.settings, self.ledger, self.search = settings, ledger, search
        self.points, self.earlier = points, earlier
        self.given: set[int] = set()

    def next_trial(self) -> TrialRecord | None:
        """The next trial to run; None: there is none."""
        for record in search_trials(self.ledger.records):
            if record.state not in DONE and record.number not in self.given:
                self.given.add(record.number)
                return record
        number = len(search_trials(self.ledger.records))
        if number >= self.settings.num_trials:
            return None
        new = self._new(number)
        if new is not None:
            self.given.add(new.number)
        return new

    def _new(self, number: int) -> TrialRecord | None:
        seed = self.settings.train.seed
        if number == 0:
            return self.ledger.add("default", {}, seed)
        if number <= len(self.points):
            return self.ledger.add("point", self.points[number - 1], seed)
        observed = [
            *self.earlier,
            *observations(search_trials(self.ledger.records), self.settings.mode),
        ]
        values = self.search.propose(number - 1 - len(self.points), observed)
        return (
            None if values is None else self.ledger.add(self.settings.search.search, values, seed)
        )


def observations(records: Sequence[TrialRecord], mode: Mode) -> list[Observation]:
    """What a search may learn from: each trial's values and its best measurement, if it has ended."""
    scores = {r.number: best_score(r, mode) for r in records if r.state in DONE}
    return [
        Observation(
            number=record.number,
            values=record.values,
            value=score[1] if (score := scores.get(record.number)) else None,
            stopped_at=record.epochs if record.state == "stopped" else None,
        )
        for record in records
        if record.state != "failed"
    ]


def check_points(points: Sequence[Values], base: TrainConfig) -> None:
    """Raise `ConfigError` for a point with an unknown path or a value that is not allowed."""
    for point in points:
        config = base
        for path, value in point.items():
            config = replace_at(config, path, value)


def best_points(records: Sequence[TrialRecord], mode: Mode, count: int) -> list[Values]:
    """Values of the best trials of an earlier sweep, best first, each once."""
    found = [record.values for record in ranked(records, mode) if record.values]
    unique = {json.dumps(values, sort_keys=True): values for values in found}
    return list(unique.values())[:count]
