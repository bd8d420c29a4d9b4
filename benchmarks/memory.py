"""What training needs of a device's memory, by model: counted, nothing is measured.

    python -m benchmarks.memory

prints a table of docs/operations.md. The same count, for your settings: `--dry-run` of a job.
"""

from benchmarks.link_speed import MODELS, NUM_CLASSES, num_parameters
from trainjobs.config import DataConfig, ModelConfig, TrainConfig
from trainjobs.jobs import JOBS
from trainjobs.preview import BYTES_PER_PARAMETER, activation_bytes

IMAGE_SIZE = 640
DEVICES_GIB = (16, 24, 80)
USABLE_FRACTION = 0.8
"""Of a device's memory. A guess, for CUDA's own part, work areas and what lies unused between."""
MIXED_FRACTION = 0.5
"""Of float32's activations, in bf16 and fp16."""


def memory_table() -> str:
    """State, activations of an image, and the images that fit a device."""
    devices = " | ".join(f"fit {gib} GiB" for gib in DEVICES_GIB)
    lines = [f"| model | weights, optimizer, EMA | an image, fp32 | in bf16 | {devices} |"]
    lines.append("|---" * (4 + len(DEVICES_GIB)) + "|")
    for model in MODELS:
        state = BYTES_PER_PARAMETER * num_parameters(model) / 2**20
        image = _image_bytes(model) / 2**20
        mixed = MIXED_FRACTION * image
        fit = [int((USABLE_FRACTION * gib * 1024 - state) / mixed) // 8 * 8 for gib in DEVICES_GIB]
        cells = [f"{state:.0f} MiB", f"{image:.0f} MiB", f"{mixed:.0f} MiB", *map(str, fit)]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _image_bytes(model: str) -> int:
    config = TrainConfig(
        model=ModelConfig(name=model),
        data=DataConfig(image_size=IMAGE_SIZE),
        batch_size_per_worker=1,
    )
    return activation_bytes(config, JOBS["yolo"], NUM_CLASSES)


if __name__ == "__main__":
    print(memory_table())
