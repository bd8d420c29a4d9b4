"""Tensors on their way to the host, where nobody waits for them before they are read."""

import copy
from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """A tensor, or nested dicts and lists with tensors, as they are now, in the host's memory.

    Of a GPU's tensors the copy is queued: what is computed from then on does not change it.
    """

    def __init__(self, tree: Any) -> None:
        """Start the copy."""
        self._gpu: torch.device | None = None
        self._tree = self._copied(tree)
        self._arrived: torch.cuda.Event | None = None
        if self._gpu is not None:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's stub
            self._arrived.record()

    def is_there(self) -> bool:
        """Whether `read` would return at once."""
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]  # likewise

    def read(self) -> Any:
        """The copy, once it is there; any thread may ask."""
        if self._arrived is not None:
            with torch.cuda.device(self._gpu):  # a thread's own would be GPU 0, if that is another
                self._arrived.synchronize()
        return self._tree

    def _copied(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):
            self._gpu = tree.device if tree.is_cuda else self._gpu
            # From a GPU, into memory that it writes to by itself.
            return tree.detach().to("cpu", non_blocking=True, copy=True)
        if isinstance(tree, dict):
            copied = copy.copy(tree)  # with the versions of its modules, if it is a network's state
            copied.update({key: self._copied(value) for key, value in tree.items()})
            return copied
        if isinstance(tree, list):
            return [self._copied(value) for value in tree]
        return tree
