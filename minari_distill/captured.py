"""A method that a GPU replays as a CUDA graph, without its host; on other devices it is called as it is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch


class Captured:
    """A method whose third call on a CUDA device is captured, and which is replayed from there on.

    Args:
        method: A bound method that reads and writes the same tensors at every call, and asks nothing of the device.
        device: Where these tensors are.
        **given: What it is called with.
    """

    def __init__(self, method: Callable[..., Any], device: torch.device, **given: Any):
        # Weakly: whose method it is holds this, and in a circle it would keep its records in memory until a full collection.
        self.method, self.given, self.device = weakref.WeakMethod(method), given, device
        self.calls = 0
        self.graph: Any = None
        self.result: Any = None  # where every replay leaves it

    def __call__(self) -> Any:
        """What the method returns; on a GPU in the same tensors at every call."""
        if self.device.type != "cuda":
            return self._call()
        if self.graph is None:
            self.calls += 1
            if self.calls <= 2:  # cuBLAS and the allocator settle before anything is captured
                return self._call()
            self.graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize(self.device)
            # on this device: what torch would choose by itself is a stream of the current one
            with torch.cuda.graph(self.graph, stream=torch.cuda.Stream(self.device)):
                self.result = self._call()
        self.graph.replay()
        return self.result

    def _call(self) -> Any:
        method = self.method()
        assert method is not None
        return method(**self.given)
