"""One trial of a sweep: a Tune trainable that launches a run and hands on its epochs.

The run's whole state is in its own folder, so Tune checkpoints nothing: a trial that starts again
tells first what its run has on record, then goes on.
"""

import contextlib
import logging
import queue
import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray import tune
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.config_io import from_dict
from cluster.credentials import Credentials
from cluster.errors import RunInUseError, ServiceError
from cluster.lease import STALE_AFTER_S
from cluster.placement_groups import remove_orphaned_groups
from cluster.redact import redact
from cluster.storage import RunPaths
from trainjobs.config import TrainConfig
from trainjobs.events import EpochDone, Event, GroupStarted, StepProgress
from trainjobs.interrupt import StopRequest
from trainjobs.launch import launch
from trainjobs.run_folder import RunResult, load_metrics

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""How often a trial asks whether it is to stop."""
TEARDOWN_S = 300.0
"""Longest wait for a stopped run to store its checkpoint and give its workers back."""
FACTS = "facts"
"""Key, in what Tune gets, of what is about the trial rather than a metric."""
Outcome = Literal["stopped", "interrupted"]


class Referee:
    """An actor beside the driver that says which runs are to stop; the trials ask it."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.everybody: Outcome | None = None

    def stop(self, run_name: str, outcome: Outcome) -> None:
        """Stop one run."""
        self.outcomes[run_name] = outcome

    def stop_all(self) -> None:
        """Interrupt every run."""
        self.everybody = "interrupted"

    def outcome(self, run_name: str) -> Outcome | None:
        """How this run is to end; None: it goes on."""
        return self.outcomes.get(run_name) or self.everybody


def start_referee() -> Any:
    """Start the actor on this node, with which the sweep ends anyway."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Referee).options(num_cpus=0, scheduling_strategy=here).remote()


@dataclass(frozen=True, slots=True)
class Ended:
    """The run's last word."""

    status: str
    error: str | None = None
    result: RunResult | None = None


class Trial(tune.Trainable):
    """Runs `launch` in a thread; each `step` returns one of its epochs."""

    def setup(
        self, config: dict[str, Any], referee: Any = None, credentials: Credentials | None = None
    ) -> None:
        """Start the run; `config` is what `Sweep.request` made. The credentials have arrived."""
        self.referee = referee
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch that was evaluated, or for the end."""
        item, last_row = self.items.get(), dict[str, float]()
        if isinstance(item, dict) and item["epoch"] >= self.train_config.epochs:
            last_row, item = item, self.items.get()  # comes with the end: no scheduler cuts it off
        if isinstance(item, Ended):
            self.facts |= {"status": item.status, "error": item.error}
            if item.result is not None:
                self.facts["mlflow_run_id"] = item.result.mlflow_run_id
            return {**last_row, FACTS: self._facts(), "done": True}
        return {**item, FACTS: self._facts()}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Another trial in this process, whose imports are done."""
        self._end()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Stop the run, with a checkpoint, and wait until its workers are gone."""
        self._end()

    def _begin(self, config: dict[str, Any]) -> None:
        self.train_config = from_dict(TrainConfig, config["train"])
        self.run_name: str = config["run_name"]
        self.paths = RunPaths(str(self.train_config.resources.storage), self.run_name)
        self.items: queue.SimpleQueue[dict[str, float] | Ended] = queue.SimpleQueue()
        self.facts: dict[str, Any] = {"run_name": self.run_name}
        self.epoch_s: dict[float, float] = {}
        self.started = time.monotonic()
        self.stop_request = StopRequest()
        self.thread = threading.Thread(target=self._run, args=(config["job"],), daemon=True)
        self.thread.start()
        threading.Thread(target=self._watch, args=(self.thread,), daemon=True).start()

    def _end(self) -> None:
        self.stop_request.make(self._verdict() or "interrupted")
        self.thread.join(TEARDOWN_S)

    def _run(self, job: str) -> None:
        try:
            remove_orphaned_groups()  # of an earlier process of this or another trial
            for row in load_metrics(self.paths):
                self._add(row)
            result = self._launch(job)
            self.items.put(Ended(result.status, result.error, result))
        except ServiceError as error:
            self.items.put(Ended("failed", redact(str(error))))
        except BaseException as error:
            logger.exception("trial %s", self.run_name)
            self.items.put(Ended("failed", redact(f"{type(error).__name__}: {error}")))

    def _launch(self, job: str) -> RunResult:
        deadline = time.monotonic() + STALE_AFTER_S + POLL_S
        while True:
            try:
                return launch(self.train_config, [self._on_event], job=job, stop=self.stop_request)
            except RunInUseError:  # by a process of this trial that was lost with its node
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, GroupStarted):
            self.facts["world_size"] = event.world_size
        if isinstance(event, StepProgress | EpochDone):
            self.facts.setdefault("startup_s", time.monotonic() - self.started)
        if isinstance(event, EpochDone):
            self._add(event.row)

    def _add(self, row: dict[str, float]) -> None:
        self.epoch_s[row["epoch"]] = row.get("epoch_s", 0.0)
        self.items.put(dict(row))

    def _facts(self) -> dict[str, Any]:
        return {
            **self.facts,
            "training_s": sum(self.epoch_s.values()),
            "attempt_s": time.monotonic() - self.started,
        }

    def _watch(self, run: threading.Thread) -> None:
        stop = self.stop_request
        while run.is_alive() and stop.outcome is None:
            if verdict := self._verdict():
                stop.make(verdict)
            run.join(POLL_S)

    def _verdict(self) -> Outcome | None:
        with contextlib.suppress(RayError):  # no referee: the driver is gone, and so are we soon
            verdict: Outcome | None = ray.get(self.referee.outcome.remote(self.run_name))
            return verdict
        return "interrupted"
