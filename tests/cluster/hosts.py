"""Hosts on one machine: each a set of Linux namespaces with its own address, name, processes and home.

A host is its pid 1: kill it, and the kernel ends all that runs there. Pid 1 ends by itself when
this process does, so nothing outlives a test. The hosts' cables meet in a bridge that has a network
namespace of its own. Folders of this machine are what the hosts share.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

NETWORK = "10.77.0"
INTERFACE = "eth0"
TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2"}
TEARDOWN_S = 30.0

_SWITCH = "set -e; ip link add br0 type bridge; ip link set br0 up; echo up; read -r _"
# `read` lasts until the other end of the pipe closes; meanwhile bash reaps orphans.
_PID_1 = """
set -e
hostname "$1"
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount --bind "$2/ray" /tmp/ray
mount --bind "$4" /etc/hosts
mount --bind "$3/resolv.conf" /etc/resolv.conf
ip link set lo up
echo up
read -r _
"""


def why_not() -> str | None:
    """Why there can be no hosts on this machine; None if there can."""
    if not sys.platform.startswith("linux"):
        return "needs Linux namespaces"
    if missing := [f"{tool} ({TOOLS[tool]})" for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)}"
    if os.geteuid() != 0:
        return "needs root, which `unshare --user --map-root-user pytest ...` gives where allowed"
    # A cable and a bridge, in a namespace that ends with the command.
    trial = "ip link add port0 type veth peer name eth0 && ip link add br0 type bridge"
    command = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run(
        [*command, "sh", "-ec", trial], capture_output=True, text=True, check=False
    )
    return f"cannot make namespaces: {done.stderr.strip()}" if done.returncode else None


class Host:
    """One host. What it keeps over a power-off: its name, address, home and `/tmp/ray`."""

    def __init__(self, number: int, folder: Path, switch_pid: int) -> None:
        self.name, self.ip = f"host{number}", f"{NETWORK}.{10 + number}"
        self.disk = folder / self.name
        self.home = self.disk / "home"
        self.names = folder / "hosts"
        """Its /etc/hosts: usually one that all share."""
        self.variables: dict[str, str] = {}
        """Environment of all that is started here, besides PATH, HOME and LANG."""
        self._shared, self._switch_pid = folder, switch_pid
        self._port, self._mac = f"port{number}", f"02:00:00:00:00:{number:02x}"
        self._unshare: subprocess.Popen[str] | None = None
        self._pid_1 = 0
        self._started: list[subprocess.Popen[str]] = []
        for mounted in (self.home, self.disk / "ray", Path("/tmp/ray")):
            mounted.mkdir(parents=True, exist_ok=True)

    @property
    def is_on(self) -> bool:
        """Whether its pid 1 runs."""
        return self._unshare is not None and self._unshare.poll() is None

    def power_on(self) -> None:
        """Boot, with the cable plugged in."""
        assert not self.is_on
        self._unshare = _start(
            ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc",
             "--kill-child=SIGKILL", "bash", "-c", _PID_1,
             "pid-1", self.name, str(self.disk), str(self._shared), str(self.names)]
        )  # fmt: skip
        pid = self._unshare.pid
        self._pid_1 = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        _ip(
            self._switch_pid, "link", "add", self._port, "type", "veth",
            # A host that boots again has the card that its neighbors remember.
            "peer", "name", INTERFACE, "address", self._mac, "netns", str(self._pid_1),
        )  # fmt: skip
        _ip(self._switch_pid, "link", "set", self._port, "master", "br0", "up")
        _ip(self._pid_1, "addr", "add", f"{self.ip}/24", "dev", INTERFACE)
        _ip(self._pid_1, "link", "set", INTERFACE, "up")

    def power_off(self) -> None:
        """Pull the power plug: no process says goodbye, and no connection is closed to the others."""
        if self._unshare is None:
            return
        if self.is_on:
            _ip(self._switch_pid, "link", "del", self._port)
            os.kill(self._pid_1, signal.SIGKILL)
        _end(self._unshare)
        for process in self._started:
            process.wait(TEARDOWN_S)
        self._unshare, self._started = None, []

    def unplug(self) -> None:
        """Cut the cable: packets are lost, processes run on."""
        _ip(self._switch_pid, "link", "set", self._port, "down")

    def plug(self) -> None:
        """Mend the cable."""
        _ip(self._switch_pid, "link", "set", self._port, "up")

    @contextmanager
    def slow_cable(self, delay_s: float) -> Iterator[None]:
        """A cable that holds every packet up, each way. Packets are lost when it is changed."""
        near, far = f"near{self._port}"[:15], f"far{self._port}"[:15]
        _ip(self._switch_pid, "link", "add", near, "type", "veth", "peer", "name", far)
        for end in (near, far):
            _ip(self._switch_pid, "link", "set", end, "up")
        _python(self._switch_pid, "no_offload.py", near, far, self._port)
        _python(self._pid_1, "no_offload.py", INTERFACE)
        _ip(self._switch_pid, "link", "set", self._port, "nomaster")
        _ip(self._switch_pid, "link", "set", far, "master", "br0")
        relay = _start(_script(self._switch_pid, "slow_cable.py", self._port, near, str(delay_s)))
        try:
            yield
        finally:
            _end(relay)
            _ip(self._switch_pid, "link", "del", near)
            _ip(self._switch_pid, "link", "set", self._port, "master", "br0")

    def popen(
        self,
        command: Sequence[str | Path],
        *,
        log: Path | None = None,
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command here. It ends with the host at the latest.

        Args:
            command: argv.
            log: Gets what the command prints. Default: nobody does.
            cwd: Default: the host's home.
            variables: Environment on top of the host's.
        """
        assert self.is_on, f"{self.name} is off"
        with ExitStack() as stack:
            output = stack.enter_context(log.open("a")) if log else subprocess.DEVNULL
            process = subprocess.Popen(
                self._enter(command, cwd),
                env=self._environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self._started.append(process)
        return process

    def run(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end; stdout holds all that it printed."""
        assert self.is_on, f"{self.name} is off"
        return subprocess.run(
            self._enter(command, cwd),
            env=self._environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _enter(self, command: Sequence[str | Path], cwd: Path | None) -> list[str]:
        namespaces = ["--net", "--mount", "--uts", "--ipc", "--pid"]
        enter = ["nsenter", "--target", str(self._pid_1), *namespaces, "--"]
        # Another mount namespace is entered at its root.
        return [*enter, "env", "--chdir", str(cwd or self.home), *map(str, command)]

    def _environment(self, variables: Mapping[str, str] | None) -> dict[str, str]:
        bins = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
        return {
            "PATH": f"{bins}:/sbin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            **self.variables,
            **(variables or {}),
        }


@contextmanager
def hosts(count: int, folder: Path, *, has_loopback_names: bool = False) -> Iterator[list[Host]]:
    """Hosts that are on and reach each other; all they started ends with the context.

    Args:
        count: How many.
        folder: Holds their disks.
        has_loopback_names: Whether its own name means 127.0.1.1 to each host, as on Debian.
    """
    switch = _start(["unshare", "--net", "bash", "-c", _SWITCH])
    with ExitStack() as stack:
        stack.callback(_end, switch)
        made = [Host(number, folder, switch.pid) for number in range(count)]
        names = "".join(f"{host.ip} {host.name}\n" for host in made)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        for host in made if has_loopback_names else ():
            host.names = host.disk / "hosts"
            others = names.replace(f"{host.ip} ", "127.0.1.1 ")
            host.names.write_text(f"127.0.0.1 localhost\n{others}")
        # Nobody answers there: a name that is not in `hosts` is unknown at once.
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        for host in made:
            stack.callback(host.power_off)
            host.power_on()
        yield made


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start the first process of new namespaces and wait until they are set up."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    if process.stdout.readline() != "up\n":
        raise OSError(f"namespaces could not be set up: {process.stderr.read()}")
    return process


def _end(process: subprocess.Popen[str]) -> None:
    """Let go of a process that `_start` has started, which ends it, and wait."""
    with process:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(TEARDOWN_S)


def _script(pid: int, script: str, *arguments: str) -> list[str]:
    """A script of this folder in the network namespace of a process."""
    python = [sys.executable, "-I", str(Path(__file__).with_name(script))]
    return ["nsenter", "--target", str(pid), "--net", *python, *arguments]


def _python(pid: int, script: str, *arguments: str) -> None:
    subprocess.run(_script(pid, script, *arguments), check=True)


def _ip(pid: int, *arguments: str) -> None:
    """Call `ip` in the network namespace of a process."""
    command = ["nsenter", "--target", str(pid), "--net", "ip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
