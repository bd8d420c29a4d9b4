"""The order of a sweep's trials: unfinished ones, the base config, known points, the search."""

from collections.abc import Sequence
from pathlib import Path

from cluster.storage import RunPaths
from tuning.config import SearchConfig
from tuning.ledger import Ledger
from tuning.proposals import Proposer, best_points, observations
from tuning.records import Values
from tuning.search import Observation
from tuning.settings import SweepSettings


class Counting:
    """Proposes its number, three times."""

    def propose(self, number: int, observed: Sequence[Observation]) -> Values | None:
        return {"optim.lr": 0.1 * (number + 1)} if number < 3 else None


def make_proposer(ledger: Ledger, points: Sequence[Values] = (), num_trials: int = 10) -> Proposer:
    settings = SweepSettings(name="s", search=SearchConfig(num_trials=num_trials))
    return Proposer(settings, ledger, Counting(), points=points)


def proposed(proposer: Proposer) -> list[tuple[int, str, Values]]:
    found = []
    while record := proposer.next_trial():
        found.append((record.number, record.origin, record.values))
    return found


def make_ledger(folder: Path) -> Ledger:
    return Ledger(RunPaths(str(folder), "s"))


def test_the_base_config_comes_first_then_points_then_the_search_until_it_is_exhausted(
    tmp_path: Path,
) -> None:
    point = {"optim.lr": 0.5}
    assert proposed(make_proposer(make_ledger(tmp_path), [point])) == [
        (0, "default", {}),
        (1, "point", point),
        (2, "random", {"optim.lr": 0.1}),
        (3, "random", {"optim.lr": 0.2}),
        (4, "random", {"optim.lr": 0.1 * 3}),
    ]


def test_there_are_no_more_trials_than_asked_for(tmp_path: Path) -> None:
    assert len(proposed(make_proposer(make_ledger(tmp_path), num_trials=2))) == 2


def test_a_resumed_sweep_gives_out_what_is_unfinished_and_goes_on_counting(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    first = proposed(make_proposer(ledger, num_trials=3))
    for record, state in zip(ledger.records, ("finished", "interrupted", "failed"), strict=True):
        record.state = state  # type: ignore[assignment]  # of the loop
    again = proposed(make_proposer(ledger, num_trials=4))
    assert again == [first[1], (3, "random", {"optim.lr": 0.1 * 3})]


def test_only_what_has_ended_is_an_observation_with_a_value(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    for state in ("finished", "running", "failed"):
        record = ledger.add("random", {"optim.lr": 0.1}, 0)
        record.state, record.curve = state, {1: 0.3}  # type: ignore[assignment]  # of the loop
    assert [(o.number, o.value) for o in observations(ledger.records, "max")] == [
        (0, 0.3),
        (1, None),
    ]


def test_the_best_points_of_an_earlier_sweep_come_once_each(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path)
    for value, lr in ((0.1, 0.01), (0.3, 0.02), (0.2, 0.02)):
        record = ledger.add("random", {"optim.lr": lr}, 0)
        record.state, record.curve = "finished", {1: value}
    assert best_points(ledger.records, "max", 3) == [{"optim.lr": 0.02}, {"optim.lr": 0.01}]
