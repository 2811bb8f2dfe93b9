"""The tensors of a training, copied to host memory at one moment so that they may be written while it goes on.

Weights and moments are named as the bare model names its parameters, and are whole, however they are spread over the
processes (FSDP): those are put together one tensor at a time, and only the process that writes keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.checkpoints.adapters import AdapterNote

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """What one checkpoint holds of tensors, in host memory."""

    weights: Tensors
    moments: Tensors
    """The optimizer's state as `<parameter>.<exp_avg|exp_avg_sq|step>`; empty before the first step."""
    adapter: AdapterNote | None = None
    """Where the weights are adapters beside a base."""

    @property
    def num_bytes(self) -> int:
        return num_bytes(self.weights) + num_bytes(self.moments)


class Camera:
    """Takes snapshots. Page-locked memory is dear to get, so from a GPU every snapshot goes into the same; the one
    before must have been written by then."""

    def __init__(self) -> None:
        self._locked: Tensors = {}

    def snapshot(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True) -> Snapshot | None:
        """A copy of what they hold now; None where this process does not `keep` one. Every rank calls this."""
        weights = self._copies("weights", model.state_dict(), keep)
        moments = self._copies("moments", optimizer_tensors(model, optimizer), keep)
        self.wait()
        return Snapshot(weights, moments, getattr(model, "lora", None)) if keep else None

    def wait(self) -> None:
        """Until the copies have arrived."""
        if self._locked:
            torch.cuda.synchronize()

    def _copies(self, kind: str, tensors: Mapping[str, Tensor], keep: bool) -> Tensors:
        copies = {}
        for name, tensor in tensors.items():
            together = whole(tensor)
            if keep:
                copies[name] = self.copy(f"{kind}/{name}", together)
        return copies

    def copy(self, slot: str, tensor: Tensor) -> Tensor:
        """A copy in host memory, once `wait` was called; `slot` names what it is of from one snapshot to the next."""
        if tensor.device.type == "cpu":
            return tensor.detach().clone(memory_format=torch.contiguous_format)
        there = self._locked.get(slot)
        if there is None or there.shape != tensor.shape or there.dtype != tensor.dtype:
            there = self._locked[slot] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return there.copy_(tensor.detach(), non_blocking=True)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's own state, by `<parameter>.<key>`."""
    names, states = names_by_index(model, optimizer), optimizer.state_dict()["state"]
    return {f"{names[index]}.{key}": value for index, state in states.items() for key, value in state.items()}


def names_by_index(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """The model's name of the optimizer's n-th parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {index: names[id(parameter)] for index, parameter in enumerate(parameters)}


def spread_like(tensor: Tensor, example: Tensor) -> Tensor:
    """`tensor` as this process holds `example`: its own part where `example` is spread over several processes."""
    if not is_spread(example) or tensor.shape != example.shape:
        return tensor
    # Late: torch.distributed.tensor takes a second to import, for those who spread anything.
    from torch.distributed.tensor import distribute_tensor

    held: Any = example
    # Every rank has read the whole tensor itself, so nothing is sent.
    return distribute_tensor(tensor, held.device_mesh, held.placements, src_data_rank=None)


def is_spread(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which this process holds a part."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of it. Every rank calls this for one that is spread."""
    held: Any = tensor
    return held.full_tensor() if is_spread(tensor) else tensor


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """What they take on disk, whole."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
