"""Tensors on their way to the host, where nobody waits for them before they are read."""

import copy
from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """A tensor, or nested dicts and lists with tensors, as they are now, in the host's memory.

    Of tensors on a GPU, the same for all, it is queued: what is computed from then on does not change it.
    """

    def __init__(self, tree: Any) -> None:
        """Start the copy."""
        self._gpus: set[torch.device] = set()
        self._tree = self._copied(tree)
        self._arrived: torch.cuda.Event | None = None
        if self._gpus:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's stub
            self._arrived.record()

    def is_there(self) -> bool:
        """Whether `read` would return at once."""
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]  # likewise

    def read(self) -> Any:
        """The copy, once it is there; any thread may ask."""
        if self._arrived is not None:
            with torch.cuda.device(*self._gpus):  # else a thread would open one on GPU 0, too
                self._arrived.synchronize()
        return self._tree

    def _copied(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):
            if tree.is_cuda:
                self._gpus.add(tree.device)
            # From a GPU, into memory that it writes to by itself.
            return tree.detach().to("cpu", non_blocking=True, copy=True)
        if isinstance(tree, dict):
            copied = copy.copy(tree)  # with the versions of its modules, if it is a network's state
            copied.update({key: self._copied(value) for key, value in tree.items()})
            return copied
        if isinstance(tree, list):
            return [self._copied(value) for value in tree]
        return tree
