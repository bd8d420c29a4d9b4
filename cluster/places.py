"""What a command's environment says of where things are. No Ray: command lines are read before it."""

import os

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the command of a submitted job."""
CACHE_VARIABLE, DEFAULT_CACHE = "TRAINJOBS_CACHE", "~/.cache/trainjobs"


def in_job() -> bool:
    """Whether this is the command of a submitted job; its working directory is a throw-away copy."""
    return JOB_VARIABLE in os.environ


def dataset_cache() -> str:
    """Folder for prepared datasets, on each node; `~` is to be read there."""
    return os.environ.get(CACHE_VARIABLE, DEFAULT_CACHE)
