"""Looks a cluster over before a long job: what `python -m cluster doctor` does.

It runs probes on all nodes at a time and hands what they found to the verdicts: what goes wrong is a
check that failed.
"""

import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from cluster import resources
from cluster.config import ClusterConfig, ResourceRequest
from cluster.credentials import credentials_apart
from cluster.dry_run import NAME as DRY_RUN
from cluster.dry_run import dry_run
from cluster.environment import AUTH_VARIABLE
from cluster.errors import ConfigError, ServiceError, StorageError
from cluster.link_verdicts import judge_storage
from cluster.links import check_links
from cluster.probes import NodeReport, probe_node
from cluster.resources import describe
from cluster.service_probes import (
    PROBE_BYTES,
    StorageSpeed,
    open_without_token,
    read_data,
    tracking_problem,
    unseen,
    use_storage,
)
from cluster.session import Session, connect
from cluster.storage import RunPaths
from cluster.storage_check import CHECK_FOLDER, clear_check
from cluster.verdicts import CLUSTER, Check, is_ok, judge_gpu_speeds, judge_node, judge_versions

SESSION_FOLDER = "/tmp/ray"


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What a job is going to want of the cluster."""

    resources: ResourceRequest
    """Its workers, and the storage as `resolve_storage` gives it."""
    tracking_uri: str | None
    data: str | None
    """Absolute path or URI of the dataset."""
    cache: str
    """Folder for prepared datasets on each node."""
    job: tuple[str, ...] = ()
    """Command of a job to take the first steps of; none: no dry run."""
    cost_per_hour: float | None = None
    """Of the whole cluster, in any currency."""


def examine(subject: Subject, cluster: ClusterConfig) -> list[Check]:
    """All checks, in the order of the table.

    Raises:
        ConfigError: what was asked makes no sense.
    """
    try:
        with credentials_apart(subject) as bare:
            with connect(cluster) as session:
                checks = _examine(bare, session)
                address = None if session.embedded else session.address
            return checks + check_job(bare, address, is_sound=is_ok(checks))
    except ConfigError:  # a mistake in what was asked, not a fault of the cluster
        raise
    except ServiceError as error:
        return [Check("connection", CLUSTER, "fail", str(error), "see the message")]


def _examine(subject: Subject, session: Session) -> list[Check]:
    nodes = session.try_everywhere(probe_node, (SESSION_FOLDER, subject.cache))
    return [
        Check("connection", CLUSTER, "ok", _greeting(session)),
        check_authentication(session),
        check_room(subject.resources, session),
        *check_nodes(nodes),
        *check_links(session, slowest_link(nodes)),
        *check_storage_everywhere(session, str(subject.resources.storage)),
        *check_data(session, subject.data),
        *check_tracking(session, subject.tracking_uri),
    ]


def check_job(subject: Subject, address: str | None, *, is_sound: bool) -> list[Check]:
    """Whether the job that is given starts and trains on the cluster at `address`, and what it takes."""
    if not subject.job:
        return []
    if not is_sound:
        return [Check(DRY_RUN, CLUSTER, "skip", "something above failed", "mend that first")]
    return dry_run(
        subject.job, str(subject.resources.storage), address, cost_per_hour=subject.cost_per_hour
    )


def check_authentication(session: Session) -> Check:
    """Whether the cluster wants a token of whoever submits jobs to it."""
    if session.embedded:
        return Check("authentication", CLUSTER, "ok", "token, and no dashboard")
    url = session.dashboard()
    is_open = open_without_token(f"http://{url}") if url else None
    if is_open is None:
        told = "not known: no dashboard answers"
        return Check("authentication", CLUSTER, "skip", told, "")
    if not is_open:
        return Check("authentication", CLUSTER, "ok", f"http://{url} wants a token")
    remedy = f"start every node with {AUTH_VARIABLE}=token and the token of `ray get-auth-token --generate`"
    return Check(
        "authentication", CLUSTER, "fail",
        f"http://{url} lets anybody who reaches it run code on all nodes", remedy,
    )  # fmt: skip


def check_room(request: ResourceRequest, session: Session) -> Check:
    """Whether the workers that are asked for fit."""
    try:
        return Check("workers", CLUSTER, "ok", describe(resources.plan(request, session.nodes())))
    except ServiceError as error:
        return Check("workers", CLUSTER, "fail", str(error), "ask for fewer, or add nodes")


def check_nodes(found: Mapping[str, Any]) -> list[Check]:
    """Every node by itself, and all compared with each other."""
    reports = {host: value for host, value in found.items() if isinstance(value, NodeReport)}
    checks = [
        Check("node", host, "fail", f"{type(error).__name__}: {error}",
              "install the same environment there as here, and start Ray again")
        for host, error in found.items() if isinstance(error, Exception)
    ]  # fmt: skip
    if reports:
        checks += judge_versions(reports)
    for host, report in reports.items():
        checks += judge_node(host, report, num_nodes=len(found))
    return checks + judge_gpu_speeds(reports)


def slowest_link(found: Mapping[str, Any]) -> int | None:
    """Megabits per second of the slowest interface; None if that of any node is unknown."""
    speeds = [
        value.facts.link_mbit if isinstance(value, NodeReport) else None for value in found.values()
    ]
    known = [speed for speed in speeds if speed is not None]
    return min(known) if len(known) == len(speeds) and known else None


def check_storage_everywhere(session: Session, storage: str) -> list[Check]:
    """Whether each node reads what every other one has written."""
    scratch, token = RunPaths(storage, CHECK_FOLDER), secrets.token_hex(8)
    here, written = socket.gethostname(), [token]
    remedy = "give a folder that all nodes share, or a URI; see that this node may write there"
    try:
        scratch.write_bytes(token, secrets.token_bytes(PROBE_BYTES))
        used = session.try_everywhere(use_storage, storage, token)
        written += [value.file for value in used.values() if isinstance(value, StorageSpeed)]
        seen = session.try_everywhere(unseen, storage, tuple(written))
    except StorageError as error:
        return [Check("storage", here, "fail", str(error), remedy)]
    finally:
        clear_check(storage, written)
    return [judge_storage(host, used[host], seen[host], PROBE_BYTES, remedy) for host in used]


def check_data(session: Session, source: str | None) -> list[Check]:
    """Whether each node reads the dataset, and how fast."""
    if source is None:
        return [Check("data", CLUSTER, "skip", "no --data given")]
    checks = []
    for host, found in session.try_everywhere(read_data, source).items():
        if isinstance(found, Exception):
            remedy = "put the dataset where every node reads it under the same path or URI"
            checks.append(Check("data", host, "fail", str(found), remedy))
        else:
            speed = found.num_bytes / max(found.read_s, 1e-9) / 1e6
            told = f"read {found.num_bytes / 1e6:.1f} MB at {speed:.0f} MB/s"
            checks.append(Check("data", host, "ok", told))
    return checks


def check_tracking(session: Session, uri: str | None) -> list[Check]:
    """Whether each node reaches the MLflow server: a sweep's trials may be driven from any."""
    if uri is None or not uri.startswith(("http://", "https://")):
        return [Check("tracking", CLUSTER, "skip", "no server: runs are kept in a local file")]
    checks = []
    for host, found in session.try_everywhere(tracking_problem, uri).items():
        if found:
            remedy = "start the server, or let this node reach it; without it runs only keep files"
            checks.append(Check("tracking", host, "fail", str(found), remedy))
        else:
            checks.append(Check("tracking", host, "ok", "answers"))
    return checks


def _greeting(session: Session) -> str:
    nodes = session.nodes()
    kind = "started on this machine" if session.embedded else f"at {session.address}"
    return f"Ray {ray.__version__} {kind}, {len(nodes)} node(s)"
