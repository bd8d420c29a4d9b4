"""A rank of `benchmarks.loader_memory`: the training loader, without a model. Waits for a line of stdin
before each epoch."""

import sys
from itertools import islice
from pathlib import Path

LOADED = "LOADED"
END = "END"


def main(folder: Path, rank: int, world_size: int, epochs: int) -> None:
    """Load epoch after epoch, as a rank of a run with default settings does."""
    import torch  # noqa: PLC0415  the side that starts this reads the two marks alone

    from trainjobs.config import AugmentConfig, TrainConfig  # noqa: PLC0415
    from trainjobs.data.loader import TrainingSamples, build_loader  # noqa: PLC0415
    from trainjobs.data.ordering.order import Orders  # noqa: PLC0415
    from trainjobs.data.ordering.sampler import RankSampler  # noqa: PLC0415
    from trainjobs.data.packed.cache import LocalShards  # noqa: PLC0415
    from trainjobs.data.packed.index import INDEX, parse_index  # noqa: PLC0415
    from trainjobs.data.packed.shards import Split  # noqa: PLC0415
    from trainjobs.step_plan import StepPlan, resolve_images_per_step  # noqa: PLC0415

    torch.set_num_threads(1)
    config = TrainConfig(epochs=epochs)
    batch_size = config.batch_size_per_worker
    index = parse_index((folder / INDEX).read_text(), INDEX)
    split = Split(index.splits["train"], index.names, LocalShards(folder))
    orders = Orders(
        split.shard_sizes,
        seed=0,
        batch_size=batch_size,
        shuffle_shards=config.data.shuffle_shards,
    )
    plan = StepPlan(
        num_images=len(split),
        images_per_step=resolve_images_per_step(
            "auto",
            batch_size_per_worker=batch_size,
            world_size=world_size,
            nominal_batch_size=config.optim.nominal_batch_size,
        ),
        batch_size_per_worker=batch_size,
        warmup_images=0,
        warmup_micro_batches=1,
        world_size=world_size,
    )
    samples = TrainingSamples(
        split=split,
        orders=orders,
        augment=AugmentConfig(close_mosaic=0),
        image_size=config.data.image_size,
        seed=0,
        epochs=epochs,
        ranks_on_node=world_size,
    )
    sampler = RankSampler(plan=plan, orders=orders, rank=rank, epochs=epochs)
    _wait(LOADED)
    stream = iter(build_loader(samples, sampler, workers=4, pin_memory=False))
    for epoch in range(epochs):
        count = sum(len(plan.mine(step, rank)) for step in plan.steps(epoch))
        for batch in islice(stream, count):
            assert len(batch["images"])
        _wait(END)


def _wait(mark: str) -> None:
    print(mark, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
