"""The Slurm script, run with stand-ins for Slurm, Ray and the network: what it asks them for.

tests/cluster/test_slurm_script.py runs it on several hosts with Ray.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch_files import SLURM_SCRIPT, ray_start

HOSTS = ["node7", "node8", "node9"]
EPHEMERAL = 32768  # Linux's default: /proc/sys/net/ipv4/ip_local_port_range
RAYS_WORKERS = 19999  # its default for them begins at 10002, and it refuses to start in between
TIMEOUT_S = 60.0

STAND_INS = {
    # A step that starts Ray runs until it is told to stop; another one is run.
    "srun": """
echo "$$ $*" >>"$RECORD/srun"
while [[ $1 == --* ]]; do shift; done
[[ $1 == ray ]] || exec "$@"
exec sleep 1000
""",
    "scontrol": """
echo "$*" >>"$RECORD/scontrol"
[[ $1 == requeue ]] || printf '%s\\n' $SLURM_JOB_NODELIST
""",
    "ip": 'echo "2: eth0    inet 10.1.2.3/24 brd 10.1.2.255 scope global eth0"',
    # `python -` waits for Ray's nodes.
    "python": f'[[ $1 == - ]] && exec cat >"$RECORD/wait"; exec {shlex.quote(sys.executable)} "$@"',
}
# Says what it was given, waits if asked to, and ends as told.
COMMAND = """
import json, os, pathlib, signal, sys, time
record = pathlib.Path(os.environ["RECORD"])
token = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
said = {
    "arguments": sys.argv[3:], "token": token.read_text(), "mode": oct(token.stat().st_mode),
    "folder_mode": oct(token.parent.stat().st_mode), "variables": dict(os.environ),
}
(record / "partial").write_text(json.dumps(said))
(record / "partial").rename(record / "said")
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


class Slurm:
    """A node on which a batch script runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        for name in ("bin", "home", "record"):
            (folder / name).mkdir()
        for name, text in STAND_INS.items():
            (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / "bin" / name).chmod(0o755)

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Start the script as Slurm would."""
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"), "RECORD": str(self.folder / "record"),
            "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": " ".join(HOSTS),
            "SLURM_CPUS_PER_TASK": "4", "SLURM_GPUS_ON_NODE": "2",
            "RAY_AUTH_TOKEN": "an-old-one", **variables,
        }  # fmt: skip
        process = subprocess.Popen(
            ["bash", SLURM_SCRIPT, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # what a failed test leaves is one group
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, code: int = 0, **variables: str) -> int:
        """Run the script with a command that takes arguments and ends with a code, to its end."""
        process = self.start("python", "-c", COMMAND, "0", str(code), *arguments, **variables)
        process.communicate(timeout=TIMEOUT_S)
        return process.returncode

    @property
    def said(self) -> dict[str, Any]:
        """What the command said when it started."""
        said: dict[str, Any] = json.loads((self.folder / "record" / "said").read_text())
        return said

    def wait_for_command(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not (self.folder / "record" / "said").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def calls(self, program: str) -> list[str]:
        """The argument lines that a stand-in was called with."""
        file = self.folder / "record" / program
        return file.read_text().splitlines() if file.exists() else []

    def ray_starts(self) -> list[list[str]]:
        """The arguments of `ray start`, the head's first."""
        found = [line.partition(" ray start ")[2] for line in self.calls("srun")]
        return sorted(
            (shlex.split(line) for line in found if line), key=lambda a: "--head" not in a
        )


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path)
    yield slurm
    for process in slurm.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ports(arguments: list[str]) -> list[int]:
    found = [int(arguments[i + 1]) for i, name in enumerate(arguments) if name.endswith("port")]
    return [port for port in found if port]  # 0: any that is free


def test_the_command_gets_its_arguments_as_they_were_given(slurm: Slurm) -> None:
    arguments = ["a b", "$(touch injected)", "; exit 3", "*", "--run-name=x", ""]
    assert slurm.run(*arguments) == 0
    assert slurm.said["arguments"] == arguments
    assert not list(Path.cwd().glob("injected"))


def test_its_exit_code_is_the_jobs(slurm: Slurm) -> None:
    assert slurm.run(code=7) == 7


def test_without_a_command_it_says_how_it_is_used(slurm: Slurm) -> None:
    process = slurm.start()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "usage: sbatch" in output
    assert slurm.calls("srun") == []


def test_each_start_has_a_token_of_its_own_that_nobody_else_reads(slurm: Slurm) -> None:
    seen = []
    for _ in range(2):
        slurm.run()
        said = slurm.said
        seen.append(said["token"])
        assert len(said["token"]) == 64
        assert (said["mode"][-3:], said["folder_mode"][-3:]) == ("600", "700")
        assert said["variables"]["RAY_AUTH_MODE"] == "token"
        assert "RAY_AUTH_TOKEN" not in said["variables"]  # it would win over the file
    assert seen[0] != seen[1]
    assert list((slurm.folder / "home").iterdir()) == []
    assert not any(token in line for token in seen for line in slurm.calls("srun"))


def test_ray_takes_the_head_and_the_nodes_that_are_started(slurm: Slurm) -> None:
    slurm.run()
    head, node = (ray_start(arguments) for arguments in slurm.ray_starts())
    assert (head["head"], head["node_ip_address"]) == (True, "10.1.2.3")
    assert node["address"] == f"10.1.2.3:{head['port']}"
    assert slurm.said["variables"]["RAY_ADDRESS"] == node["address"]
    assert slurm.said["variables"]["GLOO_SOCKET_IFNAME"] == "eth0"
    for params in (head, node):
        assert (params["num_cpus"], params["num_gpus"]) == (4, 2)
        # Two jobs' workers on one node take what is free.
        assert (params["min_worker_port"], params["max_worker_port"]) == (0, 0)
    step = next(line for line in slurm.calls("srun") if "--address" in line)
    assert "--nodes=2 --ntasks=2 --exclude=node7" in step


def test_a_node_that_cannot_start_ends_the_job(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "bin" / "srun").write_text("#!/bin/bash\nexit 1\n")
    (tmp_path / "bin" / "python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    process = slurm.start("touch", str(tmp_path / "ran"))
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "`ray start` has ended on a node" in output
    assert not (tmp_path / "ran").exists()


def test_one_node_is_the_head_alone(slurm: Slurm) -> None:
    assert slurm.run(SLURM_JOB_NODELIST="node7") == 0
    assert ["--head" in arguments for arguments in slurm.ray_starts()] == [True]


def test_two_jobs_on_one_node_have_ports_and_folders_of_their_own(slurm: Slurm) -> None:
    taken: list[int] = []
    for number in ("4711", "4712"):
        slurm.run(SLURM_JOB_ID=number)
        head, _ = slurm.ray_starts()
        taken += ports(head)
        assert head[head.index("--temp-dir") + 1] == f"/tmp/ray-{number}"
        (slurm.folder / "record" / "srun").unlink()
    assert len(set(taken)) == len(taken) == 18
    assert all(RAYS_WORKERS < port < EPHEMERAL for port in taken)


def test_the_last_port_is_below_the_ephemeral_ones(slurm: Slurm) -> None:
    slurm.run(SLURM_JOB_ID="599")
    assert max(ports(slurm.ray_starts()[0])) < EPHEMERAL


def test_it_ends_its_own_steps_and_nobody_elses(slurm: Slurm) -> None:
    other = subprocess.Popen(["bash", "-c", "exec -a 'ray start --block' sleep 1000"])
    try:
        slurm.run()
        steps = [int(line.split()[0]) for line in slurm.calls("srun") if " ray start " in line]
        assert len(steps) == 2
        assert not [pid for pid in steps if Path(f"/proc/{pid}").exists()]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("told", "requeued"), [(signal.SIGTERM, []), (signal.SIGUSR1, ["requeue 4711"])]
)
def test_the_command_is_told_to_stop_and_goes_on_after_the_time_limit(
    slurm: Slurm, told: signal.Signals, requeued: list[str]
) -> None:
    process = slurm.start("python", "-c", COMMAND, "1000", "0")
    slurm.wait_for_command()
    process.send_signal(told)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143  # what the command made of it
    assert [call for call in slurm.calls("scontrol") if "requeue" in call] == requeued
    assert list((slurm.folder / "home").iterdir()) == []


def test_a_command_that_ends_by_itself_at_the_time_limit_is_not_requeued(slurm: Slurm) -> None:
    ignores = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    command = COMMAND.replace("signal.signal(", "0 and signal.signal(", 1)
    process = slurm.start("python", "-c", ignores + command, "1", "0")
    slurm.wait_for_command()
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert not any("requeue" in call for call in slurm.calls("scontrol"))
