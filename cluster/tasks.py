"""Work that is cut into many independent calls, spread over the nodes of the cluster."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.credentials import Credentials, call_with
from cluster.errors import ResourceError

MAX_RETRIES = 3
"""Of a call whose node was lost."""
CALLS_PER_CPU = 2
"""That are handed out at a time: one that runs, one that waits."""


def run_tasks(
    function: Callable[..., Any], calls: Iterable[tuple[object, ...]], cpus: float = 1.0
) -> Iterator[Any]:
    """Call `function` for each tuple of arguments, wherever there is room.

    Args:
        function: module-level, so that the nodes find it; may be called again if its node dies.
        calls: arguments, made when they are needed.
        cpus: of one call.

    Yields:
        Results, in the order in which they come.

    Raises:
        ResourceError: calls are lost again and again.
        Exception: what `function` raised; calls that have not begun are dropped.
    """
    task: Any = ray.remote(call_with)
    task = task.options(num_cpus=cpus, scheduling_strategy="SPREAD", max_retries=MAX_RETRIES)
    credentials = Credentials.of_this_process()
    most = max(1, round(CALLS_PER_CPU * _num_cpus() / cpus))
    waiting = iter(calls)
    pending = [task.remote(credentials, function, args) for args in islice(waiting, most)]
    try:
        while pending:
            done, pending = ray.wait(pending)
            pending += [
                task.remote(credentials, function, args) for args in islice(waiting, len(done))
            ]
            yield from ray.get(done)
    except RayTaskError as error:
        raise error.as_instanceof_cause() from error  # type: ignore[no-untyped-call]  # Ray
    except RayError as error:
        raise ResourceError(f"work on the cluster was lost: {error}") from error
    finally:
        for reference in pending:
            ray.cancel(reference)


def _num_cpus() -> float:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray
    return found.get("CPU", 1.0)
