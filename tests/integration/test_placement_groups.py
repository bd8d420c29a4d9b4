"""Placement groups whose maker has died, on a real cluster."""

import os
import signal
import time

import pytest
import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table

from cluster.placement_groups import remove_orphaned_groups
from cluster.session import Session

pytestmark = pytest.mark.integration


def state(group: PlacementGroup) -> str:
    return str(placement_group_table(group)["state"])


def test_only_groups_of_dead_actors_are_removed(ray_session: Session) -> None:
    @ray.remote(num_cpus=0)
    class Maker:
        def make(self) -> PlacementGroup:
            group = placement_group([{"CPU": 0.1}])
            ray.get(group.ready())
            return group

        def pid(self) -> int:
            return os.getpid()

    alive, dead = Maker.remote(), Maker.remote()
    kept, orphan = ray.get([alive.make.remote(), dead.make.remote()])
    own = placement_group([{"CPU": 0.1}])
    ray.get(own.ready())
    os.kill(ray.get(dead.pid.remote()), signal.SIGKILL)
    with pytest.raises(RayActorError):
        ray.get(dead.pid.remote())
    assert remove_orphaned_groups() == 1
    deadline = time.monotonic() + 20
    while state(orphan) != "REMOVED" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [state(group) for group in (kept, orphan, own)] == ["CREATED", "REMOVED", "CREATED"]
    assert remove_orphaned_groups() == 0
