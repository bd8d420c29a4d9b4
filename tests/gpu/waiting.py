"""Where the host must not wait for the GPU."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def no_waiting(device: str | torch.device = "cuda") -> Iterator[None]:
    """An operation in here that waits for the GPU raises RuntimeError; on a CPU, nothing changes."""
    if torch.device(device).type != "cuda":
        yield
        return
    set_debug_mode("error")
    try:
        yield
    finally:
        set_debug_mode("default")


def set_debug_mode(mode: str) -> None:
    """Torch's, without its warning that it is a prototype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.cuda.set_sync_debug_mode(mode)
