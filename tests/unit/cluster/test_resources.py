import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Placement, ResourceRequest
from cluster.errors import ConfigError, ResourceError
from cluster.resources import NodeInfo, concurrent_runs, plan, share

LAPTOP = [NodeInfo(host="laptop", cpus=2.0)]
GPU_CLUSTER = [
    NodeInfo(host=f"gpu-{i}", cpus=128.0, gpus=8.0, accelerator_type="H100") for i in range(2)
]


def request(num_workers: int | str = "auto", **settings: object) -> ResourceRequest:
    return ResourceRequest(num_workers=num_workers, **settings)  # type: ignore[arg-type]  # tests


def test_auto_is_one_worker_per_gpu_over_nccl() -> None:
    found = plan(request(), GPU_CLUSTER)
    assert (found.num_workers, found.gpus_per_worker, found.backend) == ((16, 16), 1.0, "nccl")
    assert found.resources_per_worker() == {"CPU": 16.0, "GPU": 1.0}


def test_auto_without_gpus_is_one_worker_per_node_with_all_its_cpus_over_gloo() -> None:
    nodes = [NodeInfo(host="a", cpus=4.0), NodeInfo(host="b", cpus=4.0)]
    found = plan(request(), nodes)
    assert (found.num_workers, found.cpus_per_worker, found.backend) == ((2, 2), 4.0, "gloo")
    assert found.placement == "SPREAD"
    assert found.resources_per_worker() == {"CPU": 4.0}


def test_a_node_kept_free_of_work_holds_no_worker() -> None:
    assert plan(request(), [*LAPTOP, NodeInfo(host="head", cpus=0.0)]).num_workers == (1, 1)


@pytest.mark.parametrize(
    ("num_workers", "cpus"), [(1, 2.0), (2, 1.0), (3, 0.6666), (4, 0.5), ("1:2", 1.0)]
)
def test_workers_share_the_cpus_of_their_node(num_workers: int | str, cpus: float) -> None:
    assert plan(request(num_workers), LAPTOP).cpus_per_worker == cpus


def test_few_gpu_workers_fill_one_node_and_share_its_cpus() -> None:
    assert plan(request(4), GPU_CLUSTER).cpus_per_worker == 128 / 4


def test_spread_gpu_workers_get_more_cpus_than_packed_ones() -> None:
    assert plan(request(4, placement="SPREAD"), GPU_CLUSTER).cpus_per_worker == 128 / 2


def test_cpu_workers_are_dealt_to_where_they_get_the_most() -> None:
    nodes = [NodeInfo(host="big", cpus=8.0), NodeInfo(host="small", cpus=2.0)]
    assert plan(request(3), nodes).cpus_per_worker == 2.6666  # all three on big


@pytest.mark.parametrize(
    ("share", "workers"), [(0.25, 64), (0.5, 32), (0.6, 16), (1, 16), (2, 8), (3, 4), (8, 2)]
)
def test_a_share_comes_from_one_gpu_and_several_from_one_node(share: float, workers: int) -> None:
    assert plan(request(gpus_per_worker=share), GPU_CLUSTER).num_workers == (workers, workers)


def test_ranks_that_share_a_gpu_use_gloo() -> None:
    assert plan(request(2, gpus_per_worker=0.5), GPU_CLUSTER).backend == "gloo"


def test_zero_gpus_per_worker_trains_on_the_cpus_of_a_gpu_cluster() -> None:
    found = plan(request(gpus_per_worker=0), GPU_CLUSTER)
    assert (found.num_workers, found.backend) == ((2, 2), "gloo")


def test_too_many_workers_are_refused_with_what_each_node_has() -> None:
    with pytest.raises(ResourceError) as caught:
        plan(request(17), GPU_CLUSTER)
    text = str(caught.value)
    assert "num_workers is 17, with 1 GPU each; the cluster has room for 16" in text
    assert "gpu-0: 128 CPUs, 8 GPUs (H100)" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpus_per_worker": 1.0}, "with 1 GPU each; the cluster has room for 0"),
        ({"cpus_per_worker": 3.0}, "with 3 CPU each; the cluster has room for 0"),
        ({"accelerator_type": "A100"}, "on A100; the cluster has room for 0"),
        ({"num_workers": 2, "placement": "STRICT_SPREAD"}, "placed STRICT_SPREAD"),
        ({"num_workers": 9}, "num_workers is 9; the cluster has room for 8"),
        ({"backend": "nccl"}, "nccl, which needs GPUs"),
    ],
)
def test_what_a_laptop_can_never_hold_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ResourceError) as caught:
        plan(request(**settings), LAPTOP)  # type: ignore[arg-type]  # tests
    assert message in str(caught.value)
    assert "laptop: 2 CPUs, 0 GPUs" in str(caught.value)


def test_strict_pack_has_the_room_of_one_node() -> None:
    assert plan(request(placement="STRICT_PACK"), GPU_CLUSTER).num_workers == (8, 8)
    with pytest.raises(ResourceError, match="room for 8"):
        plan(request(9, placement="STRICT_PACK"), GPU_CLUSTER)


def test_an_empty_cluster_is_an_error() -> None:
    with pytest.raises(ResourceError, match="no live node"):
        plan(request(), [])


def test_an_elastic_run_needs_room_for_its_fewest_only() -> None:
    assert plan(request("8:32"), GPU_CLUSTER).num_workers == (8, 32)
    with pytest.raises(ResourceError):
        plan(request("17:32"), GPU_CLUSTER)


def test_more_than_one_gpu_must_be_a_whole_number() -> None:
    with pytest.raises(ConfigError, match=r"whole number, got 1\.5"):
        plan(request(gpus_per_worker=1.5), GPU_CLUSTER)


NODES = st.builds(
    NodeInfo,
    host=st.just("node"),
    cpus=st.integers(1, 64).map(float),
    gpus=st.integers(0, 8).map(float),
)


@given(
    nodes=st.lists(NODES, min_size=1, max_size=4),
    num_workers=st.just("auto") | st.integers(1, 8),
    placement=st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
)
def test_what_is_planned_fits_the_nodes(
    nodes: list[NodeInfo], num_workers: int | str, placement: Placement
) -> None:
    try:
        found = plan(request(num_workers, placement=placement), nodes)
    except ResourceError:
        return
    room = [
        min(
            node.cpus / found.cpus_per_worker,
            node.gpus / found.gpus_per_worker if found.gpus_per_worker else float("inf"),
        )
        for node in nodes
    ]
    assert sum(int(count + 1e-6) for count in room) >= found.num_workers[0]


def runs_at_a_time(nodes: list[NodeInfo], **settings: object) -> int:
    """Of runs that each ask for `settings`."""
    shared = share(request(**settings), nodes)
    return concurrent_runs(plan(shared, nodes), nodes)


def test_runs_with_half_a_cpu_a_worker_share_a_laptop() -> None:
    assert runs_at_a_time(LAPTOP, num_workers=2, cpus_per_worker=0.5) == 2
    assert runs_at_a_time(LAPTOP, num_workers=2, cpus_per_worker=1.0) == 1


def test_a_run_that_takes_all_cpus_by_default_is_alone() -> None:
    assert runs_at_a_time(LAPTOP, num_workers=2) == 1


def test_gpus_set_how_many_runs_fit_and_cpus_follow() -> None:
    assert runs_at_a_time(GPU_CLUSTER, num_workers=2) == 8
    assert share(request(num_workers=2), GPU_CLUSTER).cpus_per_worker == 16.0


def test_strict_placement_does_not_mix_the_rest_of_two_nodes() -> None:
    nodes = [NodeInfo(host=h, cpus=3.0) for h in "ab"]
    settings = {"num_workers": 2, "cpus_per_worker": 1.0}
    assert runs_at_a_time(nodes, **settings) == 3
    assert runs_at_a_time(nodes, **settings, placement="STRICT_PACK") == 2
    assert runs_at_a_time(nodes, **settings, placement="STRICT_SPREAD") == 3
    uneven = [NodeInfo(host="a", cpus=4.0), NodeInfo(host="b", cpus=1.0)]
    assert runs_at_a_time(uneven, **settings, placement="STRICT_SPREAD") == 1
