"""Placement groups that outlive their makers."""

from typing import Any

import ray
from ray import ActorID, PlacementGroupID
from ray._private.state import state as ray_state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group


def remove_orphaned_groups() -> int:
    """Remove this job's placement groups whose maker, an actor, is dead.

    Ray itself does so only when the job has ended as well (GcsPlacementGroup's
    IsPlacementGroupLifetimeDone); until then what they hold is lost to the job.

    Returns:
        How many there were.
    """
    orphans = [group for group in _groups() if _is_orphan(group)]
    for group in orphans:
        remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    return len(orphans)


def _groups() -> list[Any]:
    # ray.util.placement_group_table leaves the makers out.
    table = ray_state._connect_and_get_accessor().get_placement_group_table()
    parse: Any = gcs_pb2.PlacementGroupTableData.FromString  # type: ignore[attr-defined]  # generated
    return [parse(row) for row in table]


def _is_orphan(group: Any) -> bool:
    has_dead_maker: bool = (
        group.creator_actor_dead
        and group.creator_actor_id != ActorID.nil().binary()  # the driver, which counts as dead
    )
    return (
        has_dead_maker
        and group.creator_job_id.hex() == ray.get_runtime_context().get_job_id()
        and group.state != group.REMOVED
    )
