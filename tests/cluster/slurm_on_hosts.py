"""Slurm's part for a batch script on hosts: an allocation, the commands it calls, a time limit.

`srun` and `scontrol` are small programs on the script's PATH that leave a note in a folder; this
process reads the notes and starts the tasks of a step on the hosts, as Slurm's daemons would.
"""

import os
import secrets
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.hosts import Host
from tests.cluster.ray_on_hosts import BIN
from tests.launch_files import SLURM_SCRIPT

POLL_S = 0.2

SRUN = """#!/bin/bash
step=$(mktemp -d "$NOTES/step-XXXXXX")
trap 'touch "$step/cancel"' TERM
printf '%s\\0' "$@" >"$step/argv" && env -0 >"$step/environment" && touch "$step/ready"
until [[ -e $step/ended ]]; do sleep 0.2 & wait $!; done
exit "$(<"$step/ended")"
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then tr ' ' '\\n' <<<"$SLURM_JOB_NODELIST"; else echo "$*" >>"$NOTES/scontrol"; fi
"""
# Says its process id, by which the host knows it.
TASK = 'echo $$ >"$1.partial" && mv "$1.partial" "$1" && shift && exec "$@"'


@dataclass
class Step:
    """One call of `srun`."""

    note: Path
    tasks: list[tuple[Host, subprocess.Popen[str], Path]]
    cancelled: bool = False


@dataclass
class Allocation:
    """The hosts of one Slurm job."""

    hosts: list[Host]
    folder: Path
    """Shared by the hosts; also the home of the user."""
    job_id: str
    steps: list[Step] = field(default_factory=list)

    @property
    def notes(self) -> Path:
        """Where the stand-ins write."""
        return self.folder / "notes"

    def start(self, *command: str, log: Path, gpus: int = 0) -> subprocess.Popen[str]:
        """Start the script on the first host, as Slurm does, also after a requeue."""
        return self.hosts[0].popen(
            # `exec`: the pid that the test signals is the script's, seen from the host.
            ["bash", "-c", TASK, "task", self.notes / "script.pid", "bash", SLURM_SCRIPT, *command],
            log=log,
            cwd=self.folder,
            variables={
                "PATH": f"{self.folder / 'bin'}:{BIN}:{os.environ['PATH']}",
                "HOME": str(self.folder / "home"), "NOTES": str(self.notes),
                "SLURM_JOB_ID": self.job_id, "SLURM_CPUS_PER_TASK": "1",
                "SLURM_JOB_NODELIST": " ".join(host.name for host in self.hosts),
                "SLURM_GPUS_ON_NODE": str(gpus),
            },
        )  # fmt: skip

    def signal(self, name: str) -> None:
        """What `#SBATCH --signal=B:NAME` does at the time limit."""
        pid = (self.notes / "script.pid").read_text().strip()
        done = self.hosts[0].run(["kill", f"-{name}", pid])
        assert done.returncode == 0, done.stdout

    def requeued(self) -> list[str]:
        """What `scontrol` was asked besides the names of hosts."""
        file = self.notes / "scontrol"
        return file.read_text().splitlines() if file.exists() else []

    def serve(self, ended: threading.Event) -> None:
        """Run the steps that `srun` asks for until an event is set."""
        while not ended.wait(POLL_S):
            known = {step.note for step in self.steps}
            for ready in self.notes.glob("step-*/ready"):
                if ready.parent not in known:
                    self.steps.append(self._begin(ready.parent))
            for step in self.steps:
                self._tend(step)

    def _begin(self, note: Path) -> Step:
        words = (note / "argv").read_text().split("\0")[:-1]
        end = next(i for i, word in enumerate(words) if not word.startswith("--") or word == "--")
        options = dict(word[2:].partition("=")[::2] for word in words[:end])
        command = words[end + 1 :] if words[end] == "--" else words[end:]
        chosen = [
            host for host in self.hosts
            if host.name in options.get("nodelist", host.name) and host.name != options.get("exclude")
        ]  # fmt: skip
        assert len(chosen) == int(options["nodes"]) == int(options["ntasks"]), options
        pairs = (note / "environment").read_text().split("\0")[:-1]
        variables = dict(pair.split("=", 1) for pair in pairs)
        tasks = []
        for host in chosen:
            pid = note / f"{host.name}.pid"
            process = host.popen(
                ["bash", "-c", TASK, "task", pid, *command],
                log=self.folder / f"{host.name}-step.log",
                variables=variables,
            )
            tasks.append((host, process, pid))
        return Step(note, tasks)

    def _tend(self, step: Step) -> None:
        if (step.note / "cancel").exists() and not step.cancelled:
            step.cancelled = True
            for host, process, pid in step.tasks:
                if process.poll() is None and pid.exists():
                    host.run(["kill", "-TERM", pid.read_text().strip()])
        codes = [process.poll() for _, process, _ in step.tasks]
        if all(code is not None for code in codes) and not (step.note / "ended").exists():
            (step.note / "partial").write_text(str(max(abs(code or 0) for code in codes)))
            (step.note / "partial").rename(step.note / "ended")


@contextmanager
def allocation(hosts: list[Host], folder: Path) -> Iterator[Allocation]:
    """Hosts as Slurm gives them to a job.

    Args:
        hosts: That are on.
        folder: Shared by them.
    """
    made = Allocation(hosts, folder, str(100_000 + secrets.randbelow(900_000)))
    for name in ("bin", "home", "notes"):
        (folder / name).mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    temp = Path("/tmp") / f"ray-{made.job_id}"
    temp.mkdir()
    ended = threading.Event()
    thread = threading.Thread(target=made.serve, args=(ended,))
    try:
        for host in hosts:  # a disk of its own, as a node's /tmp is
            done = host.run(["mount", "--bind", host.disk / "ray", temp])
            assert done.returncode == 0, done.stdout
        thread.start()
        yield made
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
        temp.rmdir()


def processes(host: Host) -> list[str]:
    """Command lines of what runs on a host, besides its pid 1 and what asks."""
    done = host.run(["ps", "-eo", "pid=,args="])
    assert done.returncode == 0, done.stdout
    found = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    return [args for pid, args in found if pid != "1" and not args.startswith("ps -eo")]


def describe(allocated: Allocation) -> str:
    """What the tasks printed, for a failure's message."""
    logs = sorted(allocated.folder.glob("*.log"))
    return "\n".join(f"--- {shlex.quote(str(log))}\n{log.read_text()}" for log in logs)
