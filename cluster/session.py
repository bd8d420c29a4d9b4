"""The connection to Ray: attach to a cluster, or start one inside this process for one command.

What is started here is stopped here; a cluster that was found stays as it was. An embedded cluster
listens on loopback and gets a random token of its own, because other users of the host reach that.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray.exceptions import AuthenticationError, RayError, RaySystemError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.address import find_cluster, is_on_loopback_alone
from cluster.config import ClusterConfig
from cluster.credentials import Credentials, call_with
from cluster.environment import (
    AUTH_VARIABLE,
    GLOO_VARIABLE,
    TOKEN_VARIABLE,
    authentication,
    loopback_only,
    ray_settings,
    variables,
)
from cluster.errors import ResourceError
from cluster.packages import REMEDY
from cluster.resources import NodeInfo

logger = logging.getLogger(__name__)

START_ATTEMPTS = 2
"""Ray gives its node 30 s to start, which a busy laptop may miss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A connection to Ray."""

    address: str
    """Of the cluster's GCS, host:port."""
    embedded: bool
    """Whether the cluster was started by this process, and ends with the session."""
    timeout_s: float

    def nodes(self) -> list[NodeInfo]:
        """The live nodes, in order of their host names."""
        found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray
        nodes = [_node_info(node) for node in found if node["Alive"]]
        return sorted(nodes, key=lambda node: (node.host, node.node_id))

    def worker_nodes(self) -> dict[str, NodeInfo]:
        """Nodes that can hold a worker, and the driver's, by their host names."""
        here = ray.get_runtime_context().get_node_id()
        nodes = [node for node in self.nodes() if node.cpus or node.gpus or node.node_id == here]
        return {_unique_name(node, nodes): node for node in nodes}

    def dashboard(self) -> str | None:
        """Address of Ray's dashboard, host:port; None if there is none."""
        found: str = ray_worker.get_dashboard_url()  # type: ignore[no-untyped-call]  # Ray
        return found or None

    def try_everywhere(self, function: Callable[..., Any], *args: object) -> dict[str, Any]:
        """Call a function in a worker process on every such node.

        Returns:
            Host -> what the function returned there, or the exception that it ended with.
        """
        calls = {host: _call_on(n, function, args) for host, n in self.worker_nodes().items()}
        ray.wait([*calls.values()], num_returns=len(calls), timeout=self.timeout_s)
        found: dict[str, Any] = {}
        for host, call in calls.items():
            try:
                found[host] = ray.get(call, timeout=1.0)
            except RayTaskError as error:
                found[host] = _cause(error, host)
            except RayError as error:
                found[host] = ResourceError(f"the node does not answer: {error}")
        return found

    def run_everywhere(self, function: Callable[..., Any], *args: object) -> dict[str, Any]:
        """Call a function on every node that can hold a worker; on the driver's node right here.

        Args:
            function: Module-level, so that the nodes find it.
            args: Its arguments.

        Returns:
            Host -> what the function returned there.

        Raises:
            ResourceError: A node did not answer in time, or died.
        """
        here = ray.get_runtime_context().get_node_id()
        nodes = self.worker_nodes()
        calls = {
            host: _call_on(node, function, args)
            for host, node in nodes.items() if node.node_id != here
        }  # fmt: skip
        return {
            host: self._result(node, calls[host]) if host in calls else function(*args)
            for host, node in nodes.items()
        }

    def _result(self, node: NodeInfo, call: Any) -> Any:
        try:
            return ray.get(call, timeout=self.timeout_s)
        except RayTaskError as error:
            raise _cause(error, node.host) from error
        except RayError as error:
            raise ResourceError(f"node {node.host} cannot run a check: {error}") from error


@contextmanager
def connect(config: ClusterConfig, log_level: str = "INFO") -> Iterator[Session]:
    """Connect to Ray for the length of a command.

    In a process that is connected already (a trial of a search), that connection is used and left.

    Args:
        config: Which cluster.
        log_level: Level of the command; at DEBUG, Ray's own messages are logged from INFO on.

    Raises:
        ConfigError: The address is not one that a driver can use.
        ResourceError: The cluster does not answer in time or refuses us, or none can be started.
    """
    with ExitStack() as stack:
        _adopt_ray_logger(logging.INFO if log_level.upper() == "DEBUG" else logging.WARNING)
        stack.enter_context(ray_settings())
        if ray.is_initialized():
            yield _session(config, embedded=False)
            return
        address = find_cluster(config)
        stack.enter_context(authentication(embedded=address is None))
        stack.enter_context(_raylet_lines_logged())
        stack.callback(ray.shutdown)
        with _signal_handlers_kept():
            if address is None:
                _start(stack)
            else:
                _attach(address)
        yield _session(config, embedded=address is None)


def _session(config: ClusterConfig, *, embedded: bool) -> Session:
    address = ray.get_runtime_context().gcs_address
    return Session(address=address, embedded=embedded, timeout_s=config.start_timeout_s)


@contextmanager
def _raylet_lines_logged() -> Iterator[None]:
    """What Ray prints on standard output for a raylet goes the way of its log messages."""

    def log(data: dict[str, Any], ignore_prefix: bool = True) -> None:
        for line in data["lines"]:
            logging.getLogger("ray").warning("%s", line)

    before = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = log
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = before


def _adopt_ray_logger(level: int) -> None:
    """Ray's messages go the way of ours, in our format (cluster/logs.py)."""
    ray_logger = logging.getLogger("ray")
    ray_logger.handlers.clear()
    ray_logger.propagate = True
    ray_logger.setLevel(level)


def _start(stack: ExitStack) -> None:
    # One host: nothing is preempted under us, and all ranks are here, whatever its name is.
    # At Ray's niceness of 15 the kernel leaves two busy threads on one core: half the speed.
    settings = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_worker_niceness": "0"}
    if sys.platform == "linux":
        settings[GLOO_VARIABLE] = "lo"
    stack.enter_context(variables(settings))
    stack.enter_context(loopback_only())
    logger.info("starting Ray on this machine")
    for attempt in range(1, START_ATTEMPTS + 1):
        before = _child_processes()
        try:
            ray.init("local", include_dashboard=False, log_to_driver=False, configure_logging=False)
            return
        except Exception as error:  # what Ray raises when its node is late
            for pid in _child_processes() - before:
                os.kill(pid, signal.SIGKILL)
            if attempt == START_ATTEMPTS:
                raise ResourceError(
                    f"Ray could not be started on this machine: {error} Its logs are in "
                    "/tmp/ray/session_latest/logs"
                ) from error
            logger.warning("Ray did not start (%s); trying once more", error)


def _child_processes() -> set[int]:
    lists = Path("/proc/self/task").glob("*/children")  # Linux; none elsewhere
    return {int(pid) for children in lists for pid in children.read_text().split()}


def _attach(address: str) -> None:
    logger.info("connecting to the Ray cluster at %s", address)
    try:
        # The port answers, so a few attempts of a second tell whether Ray does.
        reach = loopback_only() if is_on_loopback_alone(address) else nullcontext()
        with variables({"RAY_gcs_server_port_wait_time_s": "5"}), reach:
            ray.init(address, log_to_driver=False, configure_logging=False)
    except AuthenticationError as error:
        raise ResourceError(_refused(address)) from error
    except (RayError, RuntimeError, OSError, ValueError) as error:
        causes = f"{error} {error.__cause__}"
        if "AuthenticationError" in causes:
            raise ResourceError(_refused(address)) from error
        if "No node info found" in causes:
            raise ResourceError(
                f"the Ray cluster at {address} has no node on this host, and a driver needs one: "
                "use `ray job submit`, or `ray start --address` here first"
            ) from error
        raise ResourceError(f"cannot connect to the Ray cluster at {address}: {error}") from error


def _refused(address: str) -> str:
    return (
        f"the Ray cluster at {address} wants an authentication token that this process does not "
        f"have: set {AUTH_VARIABLE}=token and {TOKEN_VARIABLE} (or RAY_AUTH_TOKEN_PATH)"
    )


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """`ray.init` replaces the handler of SIGTERM; put back one that this process has installed."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _call_on(node: NodeInfo, function: Callable[..., Any], args: tuple[object, ...]) -> Any:
    task: Any = ray.remote(call_with)
    there = task.options(num_cpus=0, scheduling_strategy=on_node(node), max_retries=0)
    return there.remote(Credentials.of_this_process(), function, args)


def _cause(error: RayTaskError, host: str) -> Exception:
    if isinstance(error.cause, RaySystemError):  # the call could not be read there
        problem = str(error.cause).partition("\n")[0]
        return ResourceError(f"node {host} cannot run our code ({problem}); {REMEDY}")
    cause: Exception = error.as_instanceof_cause()  # type: ignore[no-untyped-call]  # Ray
    return cause


def on_node(node: NodeInfo) -> NodeAffinitySchedulingStrategy:
    """Ray's way to say: there and nowhere else."""
    return NodeAffinitySchedulingStrategy(node.node_id, soft=False)


def _unique_name(node: NodeInfo, nodes: list[NodeInfo]) -> str:
    twins = sum(other.host == node.host for other in nodes) > 1
    return f"{node.host} ({node.node_id[:8]})" if twins else node.host


def _node_info(node: Mapping[str, Any]) -> NodeInfo:
    amounts: dict[str, float] = node["Resources"]
    types = [name.partition(":")[2] for name in amounts if name.startswith("accelerator_type:")]
    return NodeInfo(
        host=node["NodeManagerHostname"],
        cpus=amounts.get("CPU", 0.0),
        gpus=amounts.get("GPU", 0.0),
        memory_bytes=int(amounts.get("memory", 0)),
        accelerator_type=types[0] if types else None,
        node_id=node["NodeID"],
    )
