"""A real run over NCCL. Skips where there are not two GPUs: one alone has nobody to talk to."""

from pathlib import Path

import pytest
import torch

from cluster.config import ClusterConfig, ResourceRequest
from cluster.session import connect
from trainjobs.config import DataConfig, ModelConfig, TrainConfig
from trainjobs.launch import launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


def test_every_gpu_trains_over_nccl_and_a_second_run_starts_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINJOBS_CACHE", str(tmp_path / "cache"))
    with connect(ClusterConfig(address="local")):
        for name in ("first", "second"):
            result = launch(
                TrainConfig(
                    run_name=name,
                    epochs=2,
                    batch_size_per_worker=8,
                    data=DataConfig(image_size=128, generated_images=64),
                    model=ModelConfig(name="yolov5n"),
                    resources=ResourceRequest(storage=str(tmp_path / "runs")),
                )
            )
            assert result.status == "finished"
            assert result.world_size == torch.cuda.device_count()
            log = (tmp_path / "runs" / name / "train.log").read_text()
            assert "nccl" in log
