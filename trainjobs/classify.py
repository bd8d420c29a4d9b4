"""`python -m trainjobs.classify`: train an image classifier."""

import sys
from dataclasses import replace

from trainjobs.classifier.defaults import DEFAULTS
from trainjobs.config import ModelConfig
from trainjobs.demo import Demo
from trainjobs.job import run_job

DEMO = Demo(
    config=replace(
        DEFAULTS,
        epochs=6,
        model=ModelConfig(name="fastnet_s"),
        data=replace(DEFAULTS.data, generated_images=4000),
    ),
    defaults=DEFAULTS,
    note="no --data given: training on generated thumbnails with the demo recipe, which flags override",
)


def main() -> int:
    """Train as the command line says. Returns the exit code."""
    return run_job(sys.argv[1:], "classify", DEMO, print)


if __name__ == "__main__":
    sys.exit(main())
