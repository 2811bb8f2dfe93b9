"""The most bytes of tensors that are alive at once, seen from every operation: a peak that no allocator blurs."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts storages, each once, by what they hold at the time: one that FSDP has emptied counts for nothing."""

    def __init__(self, alive: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._storages: dict[int, weakref.ref[Any]] = {}
        self.peak = 0
        for tensor in alive:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        self.peak = max(self.peak, self.now())
        return result

    def now(self) -> int:
        """Bytes that are alive."""
        gone = [key for key, storage in self._storages.items() if storage() is None]
        for key in gone:
            del self._storages[key]
        return sum(storage().nbytes() for storage in self._storages.values())  # type: ignore[union-attr]

    def _see(self, tensor: Tensor) -> None:
        tensor = getattr(tensor, "_local_tensor", tensor)
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = weakref.ref(storage)
